"""Mail for a host that wants access tokens: real sockets, a token endpoint, and a host that checks them."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from tests.unit.relays.loopback import LoopbackSite
from tests.unit.relays.test_smtp_relay import on_a_loop

from dispatch.mail.delivery import Move
from dispatch.mail.outcome import Outcome
from dispatch.mail.report import Report, Stage
from dispatch.policy.verdict import is_authentication_failure, judge
from dispatch.relays.http import AiohttpClient
from dispatch.relays.oauth import RefreshToken
from dispatch.relays.tokens import BACK_OFF_S_MAX, RelayTokens, TokenRequest
from dispatch.runtime.machine import SystemChance, SystemClock

MAILBOX = "me@a.example"
HOUR_S = 3600


class Host:
    """An SMTP server whose only door is XOAUTH2."""

    def __init__(self) -> None:
        self.good: set[str] = set()
        self.logins: list[bytes] = []
        self.sessions = 0
        self.taken = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sessions += 1
        writer.write(b"220 up.example\r\n")
        while line := await reader.readline():
            words = line.decode().split()
            match words[0].upper():
                case "EHLO":
                    writer.write(b"250-up.example\r\n250 AUTH XOAUTH2\r\n")
                case "AUTH":
                    await self._log_in(words[2:], reader, writer)
                case "DATA":
                    writer.write(b"354 go on\r\n")
                    while await reader.readline() != b".\r\n":
                        pass
                    self.taken += 1
                    writer.write(b"250 2.0.0 taken\r\n")
                case "QUIT":
                    break
                case _:
                    writer.write(b"250 2.1.0 ok\r\n")
        writer.close()

    async def _log_in(
        self, initial: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if not initial:
            writer.write(b"334 \r\n")
            initial = [(await reader.readline()).decode().strip()]
        said = base64.b64decode(initial[0], validate=True)
        self.logins.append(said)
        if any(said == login(token) for token in self.good):
            writer.write(b"235 2.7.0 welcome\r\n")
            return
        writer.write(b"334 " + base64.b64encode(b'{"status":"401"}') + b"\r\n")
        assert await reader.readline() == b"\r\n"
        writer.write(b"535 5.7.3 Authentication unsuccessful\r\n")


class Endpoint:
    """A token endpoint: its tokens are good at `host`, as long as those of today are."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.asked: list[dict[str, Any]] = []
        self.refuses = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(dict(await request.post()))
        if self.refuses:
            return web.json_response({"error": self.refuses}, status=400)
        token = f"token-{len(self.asked)}-".ljust(1500, "x")
        self._host.good.add(token)
        return web.json_response({"access_token": token, "token_type": "Bearer", "expires_in": HOUR_S})


class ShiftedClock(SystemClock):
    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


def login(token: str) -> bytes:
    return f"user={MAILBOX}\1auth=Bearer {token}\1\1".encode()


class Place:
    def __init__(self) -> None:
        self.host = Host()
        self.endpoint = Endpoint(self.host)
        self.clock = ShiftedClock(asyncio.get_running_loop())
        self.events: list[str] = []
        self._runner: web.AppRunner | None = None
        # Ours from now on, and refusing connections until somebody listens.
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._port = self._socket.getsockname()[1]

    async def open_endpoint(self) -> None:
        application = web.Application()
        application.router.add_post("/token", self.endpoint.answer)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket).start()

    async def close_endpoint(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        self._socket.close()

    def tokens(self) -> RelayTokens:
        request = TokenRequest(
            f"http://127.0.0.1:{self._port}/token",
            RefreshToken("id", "hush", "consent"),
            MAILBOX,
            in_clear=True,
        )
        return RelayTokens(
            "office",
            request,
            http=AiohttpClient(),
            clock=self.clock,
            chance=SystemChance(),
            report=lambda event, /, **fields: self.events.append(event),
            rotated=lambda _: None,
        )


@asynccontextmanager
async def open_place(*, endpoint: bool = True) -> AsyncIterator[tuple[Place, LoopbackSite]]:
    """A host, its endpoint, and a relay that opens a session for each message."""
    place = Place()
    if endpoint:
        await place.open_endpoint()
    server = await asyncio.start_server(place.host.serve, "127.0.0.1", 0)
    smtp_port = server.sockets[0].getsockname()[1]
    site = LoopbackSite(smtp_port, credentials=place.tokens(), messages_per_connection_max=1)
    try:
        async with site:
            yield place, site
    finally:
        await place.close_endpoint()
        server.close()
        await server.wait_closed()


def waits(report: Report) -> Outcome:
    """The mail is kept, no attempt is burnt, and the relay's breaker opens at once."""
    (outcome,) = judge(report)
    assert outcome.move is Move.DEFER
    assert not outcome.burns_attempt
    assert is_authentication_failure(outcome)
    return outcome


def delivered(report: Report) -> bool:
    return [outcome.move for outcome in judge(report)] == [Move.DELIVER]


@on_a_loop
async def test_a_token_serves_until_it_ends_and_then_the_next_one_does() -> None:
    async with open_place() as (place, site):
        for _ in range(2):
            assert delivered(await site.send())
        first = set(place.host.good)
        place.clock.ahead_s += HOUR_S
        place.host.good.clear()
        assert delivered(await site.send())
        old, new = *first, *place.host.good
        assert place.host.logins == [login(old), login(old), login(new)]
        assert (
            place.endpoint.asked
            == [
                {
                    "grant_type": "refresh_token",
                    "client_id": "id",
                    "client_secret": "hush",
                    "refresh_token": "consent",
                }
            ]
            * 2
        )
        assert place.host.taken == 3


@on_a_loop
async def test_a_token_revoked_in_mid_queue_costs_one_refusal_and_no_attempt() -> None:
    async with open_place() as (place, site):
        assert delivered(await site.send())
        place.host.good.clear()
        report = await site.send()
        assert report.stage is Stage.AUTH
        assert "token-1" not in json.dumps(str(waits(report)))
        assert delivered(await site.send())
        assert len(place.endpoint.asked) == 2


@on_a_loop
async def test_while_the_endpoint_is_down_mail_waits_and_then_goes_on() -> None:
    async with open_place(endpoint=False) as (place, site):
        outcome = waits(await site.send())
        assert "no access token: the token endpoint cannot be reached" in outcome.reason
        assert place.events == ["token_unavailable"]
        assert place.host.sessions == 0
        await place.open_endpoint()
        place.clock.ahead_s += BACK_OFF_S_MAX
        assert delivered(await site.send())


@on_a_loop
async def test_a_consent_that_was_withdrawn_keeps_the_mail_and_is_told() -> None:
    async with open_place() as (place, site):
        place.endpoint.refuses = "invalid_grant"
        outcome = waits(await site.send())
        assert "no access token: the token endpoint says invalid_grant" in outcome.reason
        assert place.events == ["token_refused"]
        assert place.host.sessions == 0
        place.endpoint.refuses = ""
        place.clock.ahead_s += BACK_OFF_S_MAX
        assert delivered(await site.send())
