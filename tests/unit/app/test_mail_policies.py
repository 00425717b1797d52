"""What is known of the policies of domains is shared, and outlives the settings of a relay."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from dispatch.app.machine import this_machine
from dispatch.app.mail_policies import MailPolicies
from dispatch.settings import Relay

DIRECT = Relay(name="out", kind="direct")


def changed(**keys: object) -> Relay:
    return msgspec.structs.replace(DIRECT, **keys)


def test_it_is_kept_while_a_relay_sees_the_same_names_and_trusts_the_same_roots(tmp_path: Path) -> None:
    async def run() -> None:
        policies = MailPolicies(this_machine(tmp_path))
        first = policies.of(DIRECT)
        assert first is not None
        assert policies.of(changed(name="other", max_concurrency=3)) is first
        for other in (changed(dns_servers=("192.0.2.53",)), changed(ca_file="/etc/ca.pem")):
            assert policies.of(other) is not first
        policies.keep([changed(helo_name="x")])
        assert policies.of(DIRECT) is first
        policies.keep([changed(mta_sts=False)])
        assert policies.of(DIRECT) is not first

    asyncio.run(run())


def test_a_relay_that_asks_no_domain_has_none(tmp_path: Path) -> None:
    async def run() -> None:
        policies = MailPolicies(this_machine(tmp_path))
        for relay in (changed(mta_sts=False), changed(tls="none"), changed(kind="smtp")):
            assert policies.of(relay) is None

    asyncio.run(run())
