"""Where hosts are found, and in which order they are tried."""

from __future__ import annotations

import pytest
from tests.simulation.loop import SimulatedLoop
from tests.unit.relays.memory_upstream import MemoryNames
from tests.unit.relays.test_smtp_relay import on_a_loop

from dispatch.ports import NameFault
from dispatch.relays.addresses import AGAIN_S, AVOID_S, KEPT_S_MIN, NullMx, Whereabouts, taking_turns

SIX, FOUR = ("2001:db8::1", "2001:db8::2"), ("192.0.2.1", "192.0.2.2")


class Chances:
    def __init__(self, *drawn: float) -> None:
        self._drawn = list(drawn)

    def uniform(self) -> float:
        return self._drawn.pop(0)

    def token(self, size_bytes: int) -> bytes:
        raise AssertionError(size_bytes)


class Map:
    def __init__(self, source: str | None = None, chance: Chances | None = None) -> None:
        self.clock = SimulatedLoop()
        self.names = MemoryNames()
        self.where = Whereabouts(self.clock, self.names, chance, source)


def test_families_take_turns_with_ipv6_first() -> None:
    assert taking_turns([*FOUR, "192.0.2.3", *SIX]) == [
        *("2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.3")
    ]


@on_a_loop
async def test_an_address_is_not_looked_up() -> None:
    at = Map()
    assert await at.where.addresses_of("192.0.2.7") == ["192.0.2.7"]
    assert await at.where.hosts_of("2001:db8::7") == ["2001:db8::7"]
    assert at.names.asked == []


@on_a_loop
async def test_an_answer_is_kept_for_its_time_and_then_asked_again() -> None:
    at = Map()
    at.names.hosts["up"] = FOUR[:1]
    at.names.ttl_s = 20.0
    await at.where.addresses_of("up")
    at.clock.advance(19)
    await at.where.addresses_of("up")
    assert at.names.asked == ["up"]
    at.clock.advance(1)
    at.names.hosts["up"] = FOUR[1:]
    assert await at.where.addresses_of("up") == ["192.0.2.2"]


@on_a_loop
async def test_an_answer_without_a_life_of_its_own_is_kept_for_a_moment() -> None:
    at = Map()
    at.names.hosts["up"] = FOUR
    at.names.ttl_s = 0.0
    await at.where.addresses_of("up")
    at.clock.advance(KEPT_S_MIN - 0.1)
    await at.where.addresses_of("up")
    assert at.names.asked == ["up"]


@on_a_loop
async def test_the_last_good_answer_outlasts_the_name_server() -> None:
    at = Map()
    at.names.hosts["up"] = FOUR[:1]
    await at.where.addresses_of("up")
    at.clock.advance(100_000)
    at.names.fault = NameFault("nobody answers", confirmed=False)
    assert await at.where.addresses_of("up") == ["192.0.2.1"]
    await at.where.addresses_of("up")
    assert at.names.asked == ["up", "up"], "a silent name server is not asked for every connection"
    at.clock.advance(AGAIN_S)
    await at.where.addresses_of("up")
    assert len(at.names.asked) == 3


@on_a_loop
async def test_what_dns_says_is_gone_is_gone() -> None:
    at = Map()
    at.names.hosts["up"] = FOUR
    await at.where.addresses_of("up")
    at.clock.advance(100)
    del at.names.hosts["up"]
    for _ in range(2):
        with pytest.raises(NameFault) as fault:
            await at.where.addresses_of("up")
        assert fault.value.confirmed


@on_a_loop
async def test_a_name_never_resolved_fails_when_dns_fails() -> None:
    at = Map()
    at.names.fault = NameFault("nobody answers", confirmed=False)
    with pytest.raises(NameFault, match="nobody answers"):
        await at.where.addresses_of("up")


@on_a_loop
async def test_mail_exchangers_go_by_preference_and_equal_ones_by_chance() -> None:
    at = Map(chance=Chances(0.9, 0.5, 0.1))
    at.names.exchangers["example.org"] = ((20, "c"), (10, "a"), (10, "b"))
    assert await at.where.hosts_of("example.org") == ["b", "a", "c"]


@on_a_loop
async def test_without_chance_equal_exchangers_stay_in_the_order_of_the_answer() -> None:
    at = Map()
    at.names.exchangers["example.org"] = ((20, "c"), (10, "z"), (10, "b"))
    assert await at.where.hosts_of("example.org") == ["z", "b", "c"]


@on_a_loop
async def test_a_domain_without_mx_is_its_own_host() -> None:
    at = Map()
    assert await at.where.hosts_of("example.org") == ["example.org"]
    at.names.fault = NameFault("nobody answers", confirmed=False)
    with pytest.raises(NameFault):
        await at.where.hosts_of("other.example")


@on_a_loop
async def test_a_null_mx_is_no_host() -> None:
    at = Map()
    at.names.exchangers["example.org"] = ((0, ""),)
    with pytest.raises(NullMx):
        await at.where.hosts_of("example.org")


@pytest.mark.parametrize(("source", "left"), [("192.0.2.9", FOUR), ("2001:db8::9", SIX)])
@on_a_loop
async def test_a_source_address_leaves_only_its_family(source: str, left: tuple[str, ...]) -> None:
    at = Map(source)
    at.names.hosts = {"both": (*FOUR, *SIX), "other": SIX if left is FOUR else FOUR}
    assert tuple(await at.where.addresses_of("both")) == left
    with pytest.raises(NameFault, match="no IPv"):
        await at.where.addresses_of("other")


@on_a_loop
async def test_what_failed_comes_last_for_a_while_and_is_not_left_out() -> None:
    at = Map()
    at.names.hosts["up"] = FOUR
    at.names.ttl_s = 3600.0
    at.where.failed("192.0.2.1")
    assert await at.where.addresses_of("up") == ["192.0.2.2", "192.0.2.1"]
    at.where.failed("192.0.2.2")
    assert await at.where.addresses_of("up") == ["192.0.2.1", "192.0.2.2"]
    at.where.works("192.0.2.2")
    assert await at.where.addresses_of("up") == ["192.0.2.2", "192.0.2.1"]
    at.clock.advance(AVOID_S)
    assert await at.where.addresses_of("up") == ["192.0.2.1", "192.0.2.2"]
