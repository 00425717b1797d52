"""Direct delivery over TLS with real certificates: whom nobody asks, and who must be the right one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from tests.unit.relays.direct_loopback import DirectLoopback
from tests.unit.relays.loopback import CONTENT
from tests.unit.relays.test_direct_policies import Known, enforcing
from tests.unit.relays.test_smtp_tls import Authority, Upstream, code, running

from dispatch.mail.report import FaultKind, Report, Stage
from dispatch.relays.smart_host import Trust

POLICY = Known(a=enforcing("mx.a.example"))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Awaitable[Report]], Report]:
    def on_a_loop(sending: Awaitable[Report]) -> Report:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(sending)  # type: ignore[arg-type]

    return on_a_loop


Run = Callable[[Awaitable[Report]], Report]


async def sent(up: Upstream, policies: Known | None = None, **settings: object) -> Report:
    async with running(up) as port, DirectLoopback(port, policies, **settings) as site:  # type: ignore[arg-type]
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
    assert b"MAIL" in b"".join(up.said)


def test_a_host_that_shows_the_right_certificate_gets_the_mail(run: Run, authority: Authority) -> None:
    up = Upstream(authority.context("mx.a.example")[0])
    report = run(sent(up, POLICY, trust=Trust(ca_file=authority.file)))
    assert code(report) == 250
    assert report.tls is not None


def test_a_certificate_for_another_host_gets_none(run: Run, authority: Authority) -> None:
    up = Upstream(authority.context("other.example")[0])
    report = run(sent(up, POLICY, trust=Trust(ca_file=authority.file)))
    assert policy_fault(report).startswith("its MTA-STS policy demands verified TLS: its certificate is for")
    assert up.said == []


def test_a_certificate_that_nobody_here_trusts_gets_none(run: Run, authority: Authority) -> None:
    up = Upstream(authority.context("mx.a.example")[0])
    assert "issuer" in policy_fault(run(sent(up, POLICY)))
    assert up.sessions == 1, "and it is not tried in clear text"
