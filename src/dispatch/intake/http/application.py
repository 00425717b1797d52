"""The HTTP door: every request from its first look to its answer.

In this order, so that a stranger learns nothing and costs little: the client's address, the networks that may
ask, how much is under way, the route, the rate of the address, the key, and only then the body.

Answers are JSON, errors are problem details (`problems`), and each carries `X-Request-Id`. What goes wrong in
our own code is a 500 with that id, and a line in the log with the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from dispatch.intake.http.client_address import client_address
from dispatch.intake.http.keyring import Keyring, KnownKey, wrong_key
from dispatch.intake.http.messages import read_offer
from dispatch.intake.http.problems import MEDIA_TYPE, Problem, later, of_refusal
from dispatch.intake.http.requests import ClientGone, Receive, Request, Room, Scope, Send
from dispatch.intake.http.submission import Submitter
from dispatch.intake.incoming import Budget
from dispatch.mail.ids import new_message_id, request_form, spool_form
from dispatch.mail.message import Origin
from dispatch.mail.showable import showable
from dispatch.observe import Reporter
from dispatch.policy.admission import CLOSED, Refusal
from dispatch.ports import Chance, Clock

JSON = "application/json"
BUSY_WAIT_S = 1.0
_HEALTH = ("/healthz", "/readyz")
"""Answered also where there is too much to do."""
_INTERNAL = Problem(500, "internal_error", "something went wrong here; the log has it by the request's id")


class HttpRules(msgspec.Struct, frozen=True):
    """What holds for every request from the next one on."""

    source_allowed: Callable[[str], bool]
    proxy_trusted: Callable[[str], bool]
    body_bytes_max: int
    requests_max: int
    timeout_s: float


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: Mapping[str, str] = {}
    media_type: bytes = JSON.encode()


Handler = Callable[[Request], Awaitable[Answer]]


class Application:
    """ASGI, for one process. `rules` may be exchanged while it runs."""

    def __init__(
        self,
        clock: Clock,
        chance: Chance,
        keyring: Keyring,
        submitter: Submitter,
        rules: HttpRules,
        report: Reporter,
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._keyring = keyring
        self._submitter = submitter
        self.rules = rules
        self._report = report
        self._under_way = 0
        self.closed = False
        """No mail is taken, an operator says."""
        self.bodies = Budget(0)
        """What the bodies of all requests hold."""
        self._routes: dict[str, dict[str, Handler]] = {
            "/api/v1/messages": {"POST": self._send_message},
            "/healthz": {"GET": self._alive},
            "/readyz": {"GET": self._ready},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "neither websockets nor lifespans are served"
        request = self._request(scope, receive)
        try:
            answer = await self._answered(request)
        except ClientGone:
            return
        headers = {"X-Request-Id": request.id, "Cache-Control": "no-store", **answer.headers}
        fields = [(b"content-type", answer.media_type), (b"content-length", str(len(answer.body)).encode())]
        fields += [
            (name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()
        ]
        if answer.status >= 400:
            # The rest of a body that is not wanted is not read: the next request could not be told from it.
            fields.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": fields})
        body = b"" if request.method == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})

    async def _answered(self, request: Request) -> Answer:
        self._under_way += 1
        try:
            return await self._handled(request)
        except Problem as problem:
            return _told(problem, request)
        except (ClientGone, asyncio.CancelledError):
            raise
        except Exception as error:  # the one place where our own mistakes become an answer
            self._report("request_failed", request=request.id, path=showable(request.path), why=repr(error))
            return _told(_INTERNAL, request)
        finally:
            self._under_way -= 1

    async def _handled(self, request: Request) -> Answer:
        if not self.rules.source_allowed(request.client_address):
            raise Problem(403, "source_not_allowed", "requests from your address are not answered here")
        methods = self._routes.get(request.path)
        if methods is None:
            raise Problem(404, "not_found", "there is nothing here")
        if self._under_way > self.rules.requests_max and request.path not in _HEALTH:
            raise later(503, "busy", "too many requests are under way", BUSY_WAIT_S)
        method = "GET" if request.method == "HEAD" else request.method
        if method not in methods:
            allowed = ", ".join(sorted(methods))
            raise Problem(405, "method_not_allowed", f"here is only {allowed}", headers={"Allow": allowed})
        return await methods[method](request)

    def _request(self, scope: Scope, receive: Receive) -> Request:
        fields: list[tuple[bytes, bytes]] = scope["headers"]
        headers: dict[str, str] = {}
        for name, value in fields:
            headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        peer: str = scope["state"]["peer"]
        address = client_address(
            peer, _values(fields, b"forwarded"), _values(fields, b"x-forwarded-for"), self.rules.proxy_trusted
        )
        request_id = request_form(new_message_id(int(self._clock.wall() * 1000), self._chance.token(10)))
        tls: str | None = scope["state"]["tls"]
        return Request(request_id, scope["method"], scope["path"], headers, address, tls, receive)

    # ------------------------------------------------------------ handlers

    async def _alive(self, request: Request) -> Answer:
        return Answer(200, b'{"status":"ok"}')

    async def _ready(self, request: Request) -> Answer:
        """Whether mail would be taken now."""
        if self.closed or not self._submitter.has_disk():
            return Answer(503, b'{"status":"not_ready"}')
        return Answer(200, b'{"status":"ready"}')

    async def _send_message(self, request: Request) -> Answer:
        key, origin = await self._authenticate(request)
        if self.closed:
            self._submitter.told(CLOSED, origin)
            raise of_refusal(CLOSED)
        request.demand_media_type(JSON)
        rules = self.rules
        with Room(self.bodies) as room:
            body = await request.body(room, rules.body_bytes_max, rules.timeout_s)
            said = await self._submitter.submit(read_offer(body, key.default_from), key, origin)
        if isinstance(said, Refusal):
            raise of_refusal(said)
        told = {"id": spool_form(said), "message": "Queued. Thank you."}
        return Answer(202, msgspec.json.encode(told))

    async def _authenticate(self, request: Request) -> tuple[KnownKey, Origin]:
        origin = Origin(
            "api", request.client_address, (request.header("user-agent") or "")[:64], tls=request.tls
        )
        self._submitter.demand_room(request.client_address)
        said = await self._keyring.prove(
            request.client_address, request.header("authorization"), request.header("x-api-key")
        )
        if isinstance(said, Refusal):
            self._submitter.told(said, origin)
            raise wrong_key(said)
        return said, msgspec.structs.replace(origin, login=said.shown_name)


def _values(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for field, value in fields if field == name]


def _told(problem: Problem, request: Request) -> Answer:
    return Answer(problem.status, problem.body(request.id), problem.headers, MEDIA_TYPE)
