"""The access token of a relay: when it is fetched, how long it is used, what a failure or a refusal does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import pytest
from tests.simulation.loop import SimulatedChance, SimulatedLoop
from tests.unit.relays.test_smtp_relay import on_a_loop

from dispatch.ports import HttpAnswer
from dispatch.relays.oauth import ClientCredentials, RefreshToken
from dispatch.relays.tokens import (
    ANSWER_BYTES_MAX,
    BACK_OFF_S_MAX,
    REFUSAL_STANDS_S,
    RENEW_BEFORE_S,
    RENEW_JITTER_S,
    RelayTokens,
    TokenRequest,
)
from dispatch.smtp.client_auth import Credentials

URL = "https://login.example/token"
HOUR_S = 3600.0


class HandEndpoint:
    """`ports.HttpClient` which the test answers for."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self._waiting: list[asyncio.Future[HttpAnswer]] = []

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, answer_bytes_max: int
    ) -> HttpAnswer:
        assert (url, answer_bytes_max) == (URL, ANSWER_BYTES_MAX)
        assert headers["Content-Type"] == "application/x-www-form-urlencoded"
        self.asked.append({name: value for name, (value,) in parse_qs(body.decode()).items()})
        answer: asyncio.Future[HttpAnswer] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        return await answer

    def grant(self, token: str, **more: object) -> None:
        self.answer(200, {"access_token": token, "token_type": "Bearer", "expires_in": HOUR_S, **more})

    def refuse(self, error: str = "invalid_grant") -> None:
        self.answer(400, {"error": error})

    def answer(self, status: int, body: object, **headers: str) -> None:
        self._waiting.pop(0).set_result(HttpAnswer(status, headers, json.dumps(body).encode()))

    def fail(self, error: Exception) -> None:
        self._waiting.pop(0).set_exception(error)


class Site:
    def __init__(self, request: TokenRequest | None = None) -> None:
        self.clock = SimulatedLoop()
        self.endpoint = HandEndpoint()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.rotated: list[str] = []
        self.tokens = RelayTokens(
            "office",
            request or TokenRequest(URL, ClientCredentials("id", "hush", "scope"), "me@a.example"),
            http=self.endpoint,
            clock=self.clock,
            chance=SimulatedChance(),
            report=lambda event, /, **fields: self.events.append((event, fields)),
            rotated=self.rotated.append,
        )

    def ask(self, refused: Credentials | None = None) -> asyncio.Task[Credentials]:
        return asyncio.ensure_future(self._ask(refused))

    async def _ask(self, refused: Credentials | None) -> Credentials:
        return await self.tokens(refused)

    async def granted(self, token: str, refused: Credentials | None = None, **more: object) -> Credentials:
        """Ask, where that goes to the endpoint, and be granted it."""
        asking = self.ask(refused)
        await settle()
        self.endpoint.grant(token, **more)
        return await asking

    async def fails(self, status: int = 503, **headers: str) -> OSError:
        asking = self.ask()
        await settle()
        self.endpoint.answer(status, {"error": "invalid_grant"}, **headers)
        with pytest.raises(OSError) as error:
            await asking
        return error.value

    def names(self) -> list[str]:
        return [event for event, _ in self.events]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@on_a_loop
async def test_a_token_is_fetched_once_and_used_for_all_sessions() -> None:
    at = Site()
    got = await at.granted("one")
    assert (got.user, got.secret, got.mechanisms) == ("me@a.example", "one", ("XOAUTH2",))
    assert not got.in_clear
    assert await at.tokens(None) is got
    assert len(at.endpoint.asked) == 1
    assert at.events == [("token_fetched", {"relay": "office", "lifetime_s": 3600})]


@on_a_loop
async def test_who_asks_meanwhile_waits_for_the_same_token() -> None:
    at = Site()
    asking = [at.ask() for _ in range(20)]
    await settle()
    asking[0].cancel()
    await settle()
    at.endpoint.grant("one")
    assert {each.secret for each in await asyncio.gather(*asking[1:])} == {"one"}
    assert len(at.endpoint.asked) == 1


@on_a_loop
async def test_a_token_is_renewed_beside_the_mail_before_it_ends() -> None:
    at = Site()
    old = await at.granted("old")
    at.clock.advance(HOUR_S - RENEW_BEFORE_S - RENEW_JITTER_S - 1)
    assert await at.tokens(None) is old
    await settle()
    assert len(at.endpoint.asked) == 1
    at.clock.advance(RENEW_JITTER_S + 1)
    for _ in range(3):
        assert await at.tokens(None) is old
    await settle()
    assert len(at.endpoint.asked) == 2
    at.endpoint.grant("new")
    await settle()
    assert (await at.tokens(None)).secret == "new"


@on_a_loop
async def test_a_token_that_has_ended_is_never_used() -> None:
    at = Site()
    await at.granted("old")
    at.clock.advance(HOUR_S)
    assert (await at.granted("new")).secret == "new"


@on_a_loop
async def test_a_lifetime_counts_from_before_the_request() -> None:
    at = Site()
    asking = at.ask()
    await settle()
    at.clock.advance(20)
    at.endpoint.grant("slow", expires_in=30)
    await asking
    at.clock.advance(10)
    assert (await at.granted("next")).secret == "next"


@on_a_loop
async def test_a_token_of_minutes_is_used_for_half_of_them() -> None:
    at = Site()
    await at.granted("short", expires_in=100)
    at.clock.advance(49)
    await at.tokens(None)
    await settle()
    assert len(at.endpoint.asked) == 1
    at.clock.advance(2)
    await at.tokens(None)
    await settle()
    assert len(at.endpoint.asked) == 2
    at.endpoint.grant("next")
    await settle()


@on_a_loop
async def test_a_failed_renewal_is_told_while_the_old_token_still_serves() -> None:
    at = Site()
    old = await at.granted("old")
    at.clock.advance(HOUR_S - 200)
    await at.tokens(None)
    await settle()
    at.endpoint.refuse("invalid_client")
    await settle()
    assert await at.tokens(None) is old
    event, fields = at.events[-1]
    assert event == "token_refused"
    assert fields == {
        "relay": "office",
        "by": "endpoint",
        "why": "the token endpoint says invalid_client",
        "valid_s": 200,
    }
    await settle()
    assert len(at.endpoint.asked) == 2, "asked again at once"
    at.clock.advance(BACK_OFF_S_MAX)
    await at.tokens(None)
    await settle()
    assert len(at.endpoint.asked) == 3
    at.endpoint.grant("new")
    await settle()
    assert (await at.tokens(None)).secret == "new"


@on_a_loop
async def test_a_refusal_and_an_outage_are_told_apart() -> None:
    at = Site()
    assert isinstance(await at.fails(400), PermissionError)
    assert at.names() == ["token_refused"]
    at = Site()
    error = await at.fails(503)
    assert not isinstance(error, PermissionError)
    assert at.names() == ["token_unavailable"]
    at = Site()
    asking = at.ask()
    await settle()
    at.endpoint.fail(TimeoutError("no answer within 30 s"))
    with pytest.raises(OSError, match="cannot be reached: no answer within 30 s") as caught:
        await asking
    assert not isinstance(caught.value, PermissionError)


@on_a_loop
async def test_an_endpoint_that_failed_is_left_alone_for_longer_each_time() -> None:
    at = Site()
    await at.fails(400)
    pauses = []
    for number in range(2, 7):
        failed_at = at.clock.monotonic()
        while True:
            asking = at.ask()
            await settle()
            if len(at.endpoint.asked) == number:
                break
            with pytest.raises(PermissionError):
                await asking
            at.clock.advance(0.25)
        pauses.append(at.clock.monotonic() - failed_at)
        at.endpoint.refuse()
        with pytest.raises(PermissionError):
            await asking
    assert 0 < pauses[0] < pauses[1] < pauses[2]
    assert max(pauses) <= BACK_OFF_S_MAX


@on_a_loop
async def test_an_endpoint_that_asks_us_to_wait_is_obeyed() -> None:
    at = Site()
    await at.fails(429, **{"retry-after": "120"})
    at.clock.advance(119)
    with pytest.raises(OSError):
        await at.tokens(None)
    assert len(at.endpoint.asked) == 1
    at.clock.advance(1)
    assert (await at.granted("one")).secret == "one"


@on_a_loop
async def test_a_refused_token_is_replaced_once_and_then_the_refusal_stands() -> None:
    at = Site()
    revoked = await at.granted("revoked")
    fresh = await at.granted("fresh", revoked)
    at.clock.advance(30)
    assert await at.tokens(fresh) is fresh
    assert at.events[-1][0] == "token_refused"
    assert at.events[-1][1]["by"] == "host"
    assert len(at.endpoint.asked) == 2
    at.clock.advance(REFUSAL_STANDS_S)
    assert (await at.granted("third", fresh)).secret == "third"


@on_a_loop
async def test_the_refusal_of_an_older_token_says_nothing_of_the_one_in_hand() -> None:
    at = Site()
    old = await at.granted("old")
    at.clock.advance(HOUR_S)
    new = await at.granted("new")
    assert await at.tokens(old) is new
    assert len(at.endpoint.asked) == 2


@on_a_loop
async def test_another_refresh_token_is_used_from_then_on_and_handed_out() -> None:
    at = Site(TokenRequest(URL, RefreshToken("id", "hush", "first"), "me@a.example"))
    await at.granted("one", refresh_token="second")
    assert at.rotated == ["second"]
    at.clock.advance(HOUR_S)
    await at.granted("two", refresh_token="second")
    assert [asked["refresh_token"] for asked in at.endpoint.asked] == ["first", "second"]
    assert at.rotated == ["second"]


@on_a_loop
async def test_a_token_that_cannot_be_sent_is_no_token() -> None:
    at = Site()
    asking = at.ask()
    await settle()
    at.endpoint.grant("a\x01b")
    with pytest.raises(OSError, match="a character in the password or token cannot be sent") as caught:
        await asking
    assert "a\x01b" not in str(caught.value)


@on_a_loop
async def test_no_secret_is_told() -> None:
    at = Site(TokenRequest(URL, RefreshToken("id", "hush", "consent"), "me@a.example"))
    got = await at.granted("bearer", refresh_token="newer")
    at.clock.advance(HOUR_S)
    asking = at.ask(got)
    await settle()
    at.endpoint.answer(400, {"error": "invalid_grant", "error_description": "newer, with hush"})
    with pytest.raises(PermissionError) as caught:
        await asking
    told = f"{at.events} {caught.value} {at.tokens!r} {got!r}"
    for secret in ("hush", "consent", "bearer", "newer"):
        assert secret not in told
