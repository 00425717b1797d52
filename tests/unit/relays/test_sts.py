"""Policies of mail domains: when DNS is asked, when a page is fetched, and how long what is known holds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tests.simulation.loop import SimulatedLoop
from tests.unit.relays.memory_upstream import MemoryNames
from tests.unit.relays.test_smtp_relay import on_a_loop

from dispatch.policy.mta_sts import Policy
from dispatch.ports import HttpAnswer, NameFault
from dispatch.relays.sts import AGAIN_S, KEPT_MAX, LOOK_S_MAX, StsPolicies

DAY_S = 86_400.0
TEXT = {"content-type": "text/plain; charset=utf-8"}


def page(mode: str = "enforce", mx: str = "mx.a.example", max_age: int = 864_000) -> bytes:
    return f"version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: {max_age}\n".encode()


class Pages:
    """`ports.HttpClient` that has one page."""

    def __init__(self) -> None:
        self.answer: HttpAnswer | OSError = HttpAnswer(200, TEXT, page())
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    async def get(
        self, url: str, addresses: Sequence[str], *, timeout_s: float, answer_bytes_max: int
    ) -> HttpAnswer:
        self.asked.append((url, tuple(addresses)))
        await asyncio.sleep(0)
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer

    async def post(self, *_: object, **__: object) -> HttpAnswer:
        raise AssertionError("nothing is posted")


class Desk:
    """a.example has a policy, whose record is at the id "1"."""

    def __init__(self) -> None:
        self.clock = SimulatedLoop()
        self.names = MemoryNames()
        self.names.ttl_s = LOOK_S_MAX
        self.names.hosts["mta-sts.a.example."] = ("192.0.2.80",)
        self.pages = Pages()
        self.publish("1")
        self.policies = StsPolicies(self.clock, self.names, lambda: self.pages)

    def publish(self, record_id: str, answer: HttpAnswer | OSError | None = None) -> None:
        self.names.texts["_mta-sts.a.example."] = (f"v=STSv1; id={record_id};",)
        if answer is not None:
            self.pages.answer = answer

    async def look(self) -> Policy | None:
        return await self.policies.policy_of("a.example")


@on_a_loop
async def test_a_policy_is_fetched_once_and_kept() -> None:
    at = Desk()
    assert await at.look() == Policy("enforce", 864_000, ("mx.a.example",))
    assert await at.look() is not None
    at.clock.advance(LOOK_S_MAX)
    assert await at.look() is not None
    assert at.pages.asked == [("https://mta-sts.a.example/.well-known/mta-sts.txt", ("192.0.2.80",))]
    assert at.names.asked.count("_mta-sts.a.example.") == 2


@on_a_loop
async def test_a_domain_without_a_record_is_asked_for_no_page() -> None:
    at = Desk()
    at.names.texts.clear()
    assert await at.look() is None
    assert await at.look() is None
    assert (at.pages.asked, at.names.asked) == ([], ["_mta-sts.a.example."])
    at.publish("1")
    at.clock.advance(AGAIN_S)
    assert await at.look() is not None


@on_a_loop
async def test_who_asks_meanwhile_gets_the_same_answer() -> None:
    at = Desk()
    found = await asyncio.gather(*(at.look() for _ in range(5)))
    assert [policy is not None for policy in found] == [True] * 5
    assert len(at.pages.asked) == 1


@on_a_loop
async def test_who_gives_up_waiting_does_not_end_it_for_the_others() -> None:
    at = Desk()
    first, second = asyncio.ensure_future(at.look()), asyncio.ensure_future(at.look())
    await asyncio.sleep(0)
    first.cancel()
    assert await second is not None


@on_a_loop
async def test_another_id_means_another_policy() -> None:
    at = Desk()
    await at.look()
    at.publish("2", HttpAnswer(200, TEXT, page("testing")))
    at.clock.advance(LOOK_S_MAX)
    policy = await at.look()
    assert policy is not None
    assert policy.mode == "testing"


@on_a_loop
async def test_a_policy_is_had_again_before_it_ends() -> None:
    at = Desk()
    await at.look()
    at.clock.advance(5 * DAY_S)
    at.pages.answer = HttpAnswer(200, TEXT, page(mx="new.a.example"))
    policy = await at.look()
    assert policy is not None
    assert policy.mx == ("new.a.example",)
    at.clock.advance(9 * DAY_S)
    assert await at.look() is not None


@pytest.mark.parametrize("suppressed", ["record", "dns", "page"])
def test_who_suppresses_a_policy_does_not_end_it(suppressed: str) -> None:
    @on_a_loop
    async def run() -> None:
        at = Desk()
        await at.look()
        match suppressed:
            case "record":
                at.names.texts.clear()
            case "dns":
                at.names.fault = NameFault("nobody answers", confirmed=False)
            case _:
                at.publish("2", OSError("refused"))
        at.clock.advance(9 * DAY_S)
        policy = await at.look()
        assert policy is not None
        assert policy.enforced
        at.clock.advance(1 * DAY_S)
        assert await at.look() is None, "it has come to its age"

    run()


@pytest.mark.parametrize(
    "answer",
    [
        HttpAnswer(301, TEXT | {"location": "https://elsewhere.example/"}, page()),
        HttpAnswer(404, TEXT, page()),
        HttpAnswer(200, {"content-type": "text/html"}, page()),
        HttpAnswer(200, {}, page()),
        HttpAnswer(200, TEXT, b"no policy"),
        TimeoutError("no answer within 60 s"),
    ],
)
def test_what_is_no_policy_is_not_fetched_again_at_once(answer: HttpAnswer | OSError) -> None:
    @on_a_loop
    async def run() -> None:
        at = Desk()
        at.pages.answer = answer
        assert await at.look() is None
        at.clock.advance(AGAIN_S - 1)
        assert await at.look() is None
        assert len(at.pages.asked) == 1
        at.pages.answer = HttpAnswer(200, TEXT, page())
        at.clock.advance(1)
        assert await at.look() is not None

    run()


@on_a_loop
async def test_without_an_address_there_is_no_page() -> None:
    at = Desk()
    at.names.hosts.clear()
    assert await at.look() is None
    assert at.pages.asked == []


@on_a_loop
async def test_a_policy_can_be_taken_back() -> None:
    at = Desk()
    await at.look()
    at.publish("2", HttpAnswer(200, TEXT, b"version: STSv1\nmode: none\nmax_age: 86400\n"))
    at.clock.advance(LOOK_S_MAX)
    policy = await at.look()
    assert policy is not None
    assert not policy.enforced


@on_a_loop
async def test_only_so_many_domains_are_known_and_those_with_a_policy_stay() -> None:
    at = Desk()
    await at.look()
    for number in range(KEPT_MAX + 10):
        await at.policies.policy_of(f"d{number}.example")
    assert at.policies.domains == KEPT_MAX
    at.names.texts.clear()
    assert await at.look() is not None
