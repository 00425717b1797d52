"""What a domain demands of a session (MTA-STS) is met, or there is no session."""

from __future__ import annotations

import pytest
from tests.unit.relays.direct_site import A, B, DirectSite
from tests.unit.relays.memory_upstream import PIPELINING
from tests.unit.relays.test_smtp_relay import on_a_loop

from dispatch.mail.report import FaultKind, Stage
from dispatch.policy.mta_sts import Mode, Policy

TLS = (*PIPELINING, "STARTTLS")
POLICY_FAULT = (Stage.STARTTLS, FaultKind.POLICY)


class Known:
    """Policies by domain."""

    def __init__(self, **policies: Policy) -> None:
        self.policies = {f"{name}.example": policy for name, policy in policies.items()}
        self.asked: list[str] = []

    async def policy_of(self, domain: str) -> Policy | None:
        self.asked.append(domain)
        return self.policies.get(domain)


def enforcing(*mx: str, mode: Mode = "enforce") -> Policy:
    return Policy(mode, 86_400, mx)


class PolicySite(DirectSite):
    def __init__(self, **policies: Policy) -> None:
        self.policies = Known(**policies)
        super().__init__(policies=self.policies)  # type: ignore[arg-type]


def detail_of(at: DirectSite, key: str) -> str:
    fault = at.reports[key].fault
    assert fault is not None
    return fault.detail


@on_a_loop
async def test_mail_goes_over_tls_that_was_verified_for_the_host() -> None:
    at = PolicySite(a=enforcing("mx.a.example"))
    at.mail("one", "x@a.example")
    up = await at.connection(0, *TLS)
    assert up.heard() == b"STARTTLS\r\n"
    up.say(b"220 go\r\n")
    await at.settle()
    assert at.network.server_names == ["mx.a.example"]
    assert at.network.verified == [True]
    assert up.heard() == b"EHLO client.example\r\n"


@on_a_loop
async def test_a_domain_without_a_policy_is_taken_as_it_is() -> None:
    at = PolicySite()
    at.mail("one", "x@a.example")
    up = await at.connection(0, *TLS)
    up.say(b"220 go\r\n")
    await at.settle()
    assert at.network.verified == [False]


@on_a_loop
async def test_a_host_that_offers_no_tls_gets_nothing() -> None:
    at = PolicySite(a=enforcing("mx.a.example"))
    at.mail("one", "x@a.example")
    up = await at.connection(0)
    await at.settle()
    assert at.fault_of("one") == POLICY_FAULT
    assert "demands verified TLS: the host does not offer STARTTLS" in detail_of(at, "one")
    assert b"MAIL" not in up.heard()


@on_a_loop
async def test_where_the_certificate_is_refused_there_is_no_clear_text() -> None:
    at = PolicySite(a=enforcing("mx.a.example"))
    at.network.handshakes.append(OSError("its certificate is for another name"))
    at.mail("one", "x@a.example")
    up = await at.connection(0, *TLS)
    up.say(b"220 go\r\n")
    await at.settle()
    assert at.fault_of("one") == POLICY_FAULT
    assert at.network.dialled == [A]


@on_a_loop
async def test_only_hosts_that_the_policy_names_are_used() -> None:
    at = PolicySite(whole=enforcing("mx.b.example"))
    at.mail("one", "x@whole.example")
    await at.connection(0, *TLS)
    assert at.network.dialled == [B], "the other one is preferred"


@on_a_loop
async def test_where_it_names_none_of_them_mail_waits() -> None:
    at = PolicySite(whole=enforcing("*.whole.example"))
    assert await at.refused("one", "x@whole.example") == (Stage.CONNECT, FaultKind.POLICY)
    assert "allows none of its mail hosts (mx.a.example, mx.b.example)" in detail_of(at, "one")
    assert at.network.dialled == []


@on_a_loop
async def test_the_next_host_is_tried_where_one_does_not_meet_it() -> None:
    at = PolicySite(whole=enforcing("*.a.example", "*.b.example"))
    at.mail("one", "x@whole.example")
    await at.connection(0)
    up = await at.connection(1, *TLS)
    assert at.network.dialled == [A, B]
    assert up.heard() == b"STARTTLS\r\n"


@pytest.mark.parametrize("mode", ["testing", "none"])
def test_a_policy_that_is_not_to_be_enforced_changes_nothing(mode: Mode) -> None:
    @on_a_loop
    async def run() -> None:
        at = PolicySite(a=enforcing("elsewhere.example", mode=mode))
        await at.delivered("one", "x@a.example", at=0)

    run()


@on_a_loop
async def test_what_was_clear_text_before_is_not_any_more() -> None:
    at = PolicySite()
    at.network.handshakes.append(OSError("no common cipher"))
    at.mail("one", "x@a.example")
    up = await at.connection(0, *TLS)
    up.say(b"220 go\r\n")
    await at.settle()
    clear = await at.connection(1, *TLS)
    clear.take()
    assert at.codes("one") == [250]
    clear.drop()
    at.policies.policies["a.example"] = enforcing("mx.a.example")
    at.mail("two", "x@a.example")
    up = await at.connection(2, *TLS)
    assert up.heard() == b"STARTTLS\r\n"


@on_a_loop
async def test_an_address_literal_has_no_policy() -> None:
    at = PolicySite()
    await at.delivered("one", "x@[192.0.2.3]", at=0)
    assert at.policies.asked == []
