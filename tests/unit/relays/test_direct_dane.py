"""Hosts that say in DNS which certificates they have (DANE): when that counts, and what follows from it."""

from __future__ import annotations

import pytest
from tests.unit.relays.direct_site import A, B, DirectSite
from tests.unit.relays.memory_upstream import PIPELINING, MemoryNames
from tests.unit.relays.test_direct_policies import Known, enforcing
from tests.unit.relays.test_smtp_relay import on_a_loop

from dispatch.mail.report import FaultKind, Stage
from dispatch.policy.dane import Tlsa
from dispatch.ports import NameFault

TLS = (*PIPELINING, "STARTTLS")
POLICY_FAULT = (Stage.STARTTLS, FaultKind.POLICY)
KEY = Tlsa(3, 1, 1, b"\1" * 32)
AUTHORITY_OF_THE_WEB = Tlsa(0, 0, 1, b"\1" * 32)
AT_A, AT_B, AT_OWN = "_25._tcp.mx.a.example.", "_25._tcp.mx.b.example.", "_25._tcp.own.example."


class SecureSite(DirectSite):
    """DNSSEC vouches for all there is."""

    def __init__(self, policies: Known | None = None, **tlsas: Tlsa) -> None:
        super().__init__(policies=policies)  # type: ignore[arg-type]
        assert self.names is not None
        self.dns: MemoryNames = self.names
        self.dns.secure = True
        self.dns.tlsas = {f"_25._tcp.mx.{name}.example.": (each,) for name, each in tlsas.items()}

    async def insists(self, recipient: str, connection: int = 0) -> bool:
        """Whether a host that offers no TLS gets nothing, because of its records."""
        key = f"{recipient} {connection}"
        self.mail(key, recipient)
        up = await self.connection(connection)
        await self.settle()
        if key not in self.reports:
            assert b"MAIL" in up.heard()
            return False
        assert self.fault_of(key) == POLICY_FAULT
        fault = self.reports[key].fault
        assert fault is not None
        assert "TLSA" in fault.detail
        return True


@on_a_loop
async def test_a_host_with_records_is_spoken_to_over_tls_or_not_at_all() -> None:
    assert await SecureSite(a=KEY).insists("x@a.example")
    assert not await SecureSite(a=KEY).insists("x@b.example")


@on_a_loop
async def test_a_certificate_that_no_record_names_gets_nothing_and_no_clear_text() -> None:
    at = SecureSite(a=KEY)
    at.mail("one", "x@a.example")
    up = await at.connection(0, *TLS)
    assert up.heard() == b"STARTTLS\r\n"
    up.say(b"220 go\r\n")
    await at.settle()
    assert at.fault_of("one") == POLICY_FAULT
    assert up.heard() == b""
    assert at.network.dialled == [A]


@pytest.mark.parametrize("insecure", ["a.example.", "mx.a.example.", AT_A])
def test_records_count_only_where_dnssec_vouches_for_all_that_leads_to_them(insecure: str) -> None:
    @on_a_loop
    async def run() -> None:
        at = SecureSite(a=KEY)
        at.dns.insecure.add(insecure)
        assert not await at.insists("x@a.example")
        # Servers of domains without DNSSEC may choke on the question.
        assert (AT_A in at.dns.asked) is (insecure == AT_A)

    run()


@on_a_loop
async def test_a_domain_that_is_its_own_host_may_have_records() -> None:
    at = SecureSite()
    at.dns.tlsas[AT_OWN] = (KEY,)
    assert await at.insists("x@own.example")


@on_a_loop
async def test_the_port_is_part_of_the_question() -> None:
    at = DirectSite(port=2525)
    assert at.names is not None
    at.names.secure = True
    at.names.tlsas["_2525._tcp.mx.a.example."] = (KEY,)
    at.mail("one", "x@a.example")
    await at.connection(0)
    assert at.fault_of("one") == POLICY_FAULT


@on_a_loop
async def test_where_nobody_can_say_whether_there_are_records_the_host_is_passed_over() -> None:
    at = SecureSite()
    at.dns.faults[AT_A] = NameFault("nobody answers", confirmed=False)
    assert await at.refused("one", "x@a.example") == (Stage.CONNECT, FaultKind.UNRESOLVED)
    assert at.network.dialled == []
    await at.delivered("two", "x@whole.example", at=0)
    assert at.network.dialled == [B]


@on_a_loop
async def test_records_that_are_of_no_use_still_mean_tls() -> None:
    at = SecureSite(a=AUTHORITY_OF_THE_WEB)
    assert await at.insists("x@a.example")
    at = SecureSite(a=AUTHORITY_OF_THE_WEB)
    at.mail("one", "x@a.example")
    up = await at.connection(0, *TLS)
    up.say(b"220 go\r\n")
    await at.settle()
    assert up.heard().endswith(b"STARTTLS\r\nEHLO client.example\r\n")
    assert at.network.verified == [False]


@on_a_loop
async def test_records_of_no_use_do_not_outdo_a_policy() -> None:
    at = SecureSite(Known(a=enforcing("mx.a.example")), a=AUTHORITY_OF_THE_WEB)
    at.mail("one", "x@a.example")
    up = await at.connection(0, *TLS)
    up.say(b"220 go\r\n")
    await at.settle()
    assert at.network.verified == [True]


@on_a_loop
async def test_where_a_host_has_both_its_records_count_for_the_certificate() -> None:
    at = SecureSite(Known(a=enforcing("mx.a.example")), a=KEY)
    at.mail("one", "x@a.example")
    up = await at.connection(0, *TLS)
    up.say(b"220 go\r\n")
    await at.settle()
    assert at.network.verified == [False]
    assert at.fault_of("one") == POLICY_FAULT, "no certificate at all is not that of the record"


@on_a_loop
async def test_an_address_literal_has_no_records() -> None:
    at = SecureSite()
    await at.delivered("one", "x@[192.0.2.3]", at=0)
    assert at.dns.asked == []
