"""Direct delivery over TLS with real certificates: whom nobody asks, and who must be the right one."""

from __future__ import annotations

import ssl

import pytest
import trustme
from tests.unit.relays.direct_loopback import DirectLoopback
from tests.unit.relays.loopback import CONTENT
from tests.unit.relays.test_direct_policies import Known, enforcing
from tests.unit.relays.test_smtp_tls import Authority, Run, Upstream, authority, code, run, running
from tests.unit.security.test_dane import record

from dispatch.mail.report import FaultKind, Report, Stage
from dispatch.policy.dane import DANE_EE, DANE_TA, Tlsa
from dispatch.relays.smart_host import Trust

POLICY = Known(a=enforcing("mx.a.example"))


__all__ = ["authority", "run"]


async def sent(
    up: Upstream, policies: Known | None = None, tlsa: Tlsa | None = None, **settings: object
) -> Report:
    async with running(up) as port, DirectLoopback(port, policies, **settings) as site:  # type: ignore[arg-type]
        if tlsa is not None:
            site.names.secure = True
            site.names.tlsas[f"_{port}._tcp.mx.a.example."] = (tlsa,)
        return await site.send(CONTENT, "x@a.example")


def policy_fault(report: Report) -> str:
    assert report.stage is Stage.STARTTLS
    assert report.fault is not None
    assert report.fault.kind is FaultKind.POLICY
    return report.fault.detail


def test_any_certificate_will_do_where_nobody_demands_more(run: Run, authority: Authority) -> None:
    up = Upstream(authority.context("other.example")[0])
    report = run(sent(up))
    assert code(report) == 250
    assert report.tls is not None
    assert report.tls.startswith("TLSv1.3 ")
    assert "(" not in report.tls
    assert b"MAIL" in b"".join(up.said)


def test_a_host_that_shows_the_right_certificate_gets_the_mail(run: Run, authority: Authority) -> None:
    up = Upstream(authority.context("mx.a.example")[0])
    report = run(sent(up, POLICY, trust=Trust(ca_file=authority.file)))
    assert code(report) == 250
    assert report.tls is not None
    assert report.tls.endswith(" (MTA-STS)")


def test_a_certificate_for_another_host_gets_none(run: Run, authority: Authority) -> None:
    up = Upstream(authority.context("other.example")[0])
    report = run(sent(up, POLICY, trust=Trust(ca_file=authority.file)))
    assert policy_fault(report).startswith("its MTA-STS policy demands verified TLS: its certificate is for")
    assert up.said == []


def test_a_certificate_that_nobody_here_trusts_gets_none(run: Run, authority: Authority) -> None:
    up = Upstream(authority.context("mx.a.example")[0])
    assert "issuer" in policy_fault(run(sent(up, POLICY)))
    assert up.sessions == 1, "and it is not tried in clear text"


# DANE


def host(name: str) -> tuple[Upstream, bytes, bytes]:
    """A host of an authority of its own, and the digests of both keys."""
    root = trustme.CA()
    between = root.create_child_ca()
    leaf = between.issue_cert(name)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    leaf.configure_cert(context)
    own, authority = (
        record(DANE_EE, ssl.PEM_cert_to_DER_cert(each.bytes().decode())).data for each in leaf.cert_chain_pems
    )
    return Upstream(context), own, authority


def test_a_record_names_the_key_and_nothing_else_matters(run: Run) -> None:
    up, own, _ = host("other.example")
    report = run(sent(up, tlsa=Tlsa(DANE_EE, 1, 1, own)))
    assert code(report) == 250
    assert report.tls is not None
    assert report.tls.endswith(" (DANE)")


def test_another_key_gets_nothing_to_hear(run: Run) -> None:
    up, _, authority = host("mx.a.example")
    why = policy_fault(run(sent(up, tlsa=Tlsa(DANE_EE, 1, 1, authority))))
    assert why.endswith("its certificate is not the one that its TLSA records name")
    assert up.said == []
    assert up.sessions == 1, "and it is not tried in clear text"


@pytest.mark.parametrize("name", ["mx.a.example", "a.example"])
def test_a_record_names_the_authority_whose_chain_the_host_shows(run: Run, name: str) -> None:
    up, _, authority = host(name)
    assert code(run(sent(up, tlsa=Tlsa(DANE_TA, 1, 1, authority)))) == 250


def test_behind_an_authority_the_name_must_be_right(run: Run) -> None:
    up, _, authority = host("other.example")
    why = policy_fault(run(sent(up, tlsa=Tlsa(DANE_TA, 1, 1, authority))))
    assert "does not lead to the authority in its TLSA records" in why
    assert up.said == []


def test_the_record_counts_where_a_policy_would_refuse_the_certificate(run: Run) -> None:
    up, own, _ = host("mx.a.example")
    assert code(run(sent(up, POLICY, Tlsa(DANE_EE, 1, 1, own)))) == 250
