"""Which relays get a source of access tokens, and how long one and the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from tests.simulation.loop import SimulatedChance, SimulatedLoop
from tests.unit.relays.test_smtp_relay import on_a_loop

from dispatch.app.lanes import Lanes, smart_host
from dispatch.app.machine import Machine, this_machine
from dispatch.app.tokens import TokenSources, token_request
from dispatch.ports import HttpAnswer
from dispatch.queue.lane import Lane
from dispatch.relays.oauth import ClientCredentials, RefreshToken
from dispatch.relays.smtp import SmtpRelay
from dispatch.settings import Relay, Settings
from dispatch.settings.renewed_tokens import RenewedToken, RenewedTokens, consent_of

APPLICATION = Relay(
    name="office",
    host="smtp.office365.com",
    username="me@a.example",
    oauth_provider="microsoft",
    oauth_tenant="t.example",
    oauth_client_id="id",
    oauth_client_secret="hush",
)
PERSON = msgspec.structs.replace(APPLICATION, oauth_refresh_token="consent", auth=("plain", "oauthbearer"))


class Rotating:
    """`ports.HttpClient`: an endpoint that replaces the refresh token each time."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, answer_bytes_max: int
    ) -> HttpAnswer:
        self.asked.append(body)
        count = len(self.asked)
        granted = {"access_token": f"t{count}", "expires_in": 60, "refresh_token": f"newer{count}"}
        return HttpAnswer(200, {}, msgspec.json.encode(granted))


def sources(
    events: list[str],
    http: Rotating,
    renewed: RenewedTokens | None = None,
    kept: Callable[[str, RenewedToken], None] | None = None,
) -> tuple[TokenSources, SimulatedLoop]:
    clock = SimulatedLoop()
    machine = cast(Machine, SimpleNamespace(clock=clock, chance=SimulatedChance()))

    def report(event: str, /, **fields: Any) -> None:
        assert "newer" not in str(fields)
        events.append(event)

    return TokenSources(machine, report, renewed or {}, kept or (lambda relay, token: None), http), clock


def test_settings_become_a_request() -> None:
    request = token_request(APPLICATION)
    assert request.grant == ClientCredentials("id", "hush", "https://outlook.office365.com/.default")
    assert (request.user, request.mechanisms, request.in_clear) == ("me@a.example", ("XOAUTH2",), False)
    request = token_request(PERSON)
    assert isinstance(request.grant, RefreshToken)
    assert request.mechanisms == ("OAUTHBEARER",)


def test_a_relay_with_tokens_has_no_password_to_look_at() -> None:
    made, _ = sources([], Rotating())
    source = made.source(APPLICATION)
    assert smart_host(Settings(), APPLICATION, source).credentials is source


@on_a_loop
async def test_a_source_and_its_new_refresh_token_outlive_other_settings() -> None:
    http = Rotating()
    made, clock = sources([], http)
    first = made.source(PERSON)
    await first(None)
    again = made.source(msgspec.structs.replace(PERSON, max_concurrency=3))
    assert again is first
    clock.advance(60)
    await again(None)
    assert b"refresh_token=consent" in http.asked[0]
    assert b"refresh_token=newer1" in http.asked[1]


@on_a_loop
async def test_what_the_token_depends_on_makes_a_new_source() -> None:
    made, _ = sources([], Rotating())
    first = made.source(PERSON)
    assert made.source(msgspec.structs.replace(PERSON, oauth_refresh_token="fresh consent")) is not first
    second = made.source(PERSON)
    made.keep(frozenset())
    assert made.source(PERSON) is not second


@on_a_loop
async def test_a_replaced_refresh_token_is_told_once() -> None:
    events: list[str] = []
    made, clock = sources(events, Rotating())
    source = made.source(PERSON)
    for _ in range(3):
        await source(None)
        clock.advance(60)
    assert events.count("token_rotated") == 1
    assert events.count("token_fetched") == 3


@on_a_loop
async def test_each_new_refresh_token_is_handed_on_with_the_consent_that_it_goes_back_to() -> None:
    kept: list[tuple[str, RenewedToken]] = []
    made, clock = sources([], Rotating(), kept=lambda *one: kept.append(one))
    source = made.source(PERSON)
    for _ in range(2):
        await source(None)
        clock.advance(60)
    consent = consent_of(PERSON)
    assert kept == [("office", RenewedToken(consent, f"newer{count}")) for count in (1, 2)]


@on_a_loop
async def test_a_start_goes_on_with_what_was_kept_unless_there_is_a_fresh_consent() -> None:
    events: list[str] = []
    for relay, used in (
        (PERSON, b"kept"),
        (msgspec.structs.replace(PERSON, oauth_client_id="b"), b"consent"),
    ):
        http = Rotating()
        made, _ = sources(events, http, {"office": RenewedToken(consent_of(PERSON), "kept")})
        await made.source(relay)(None)
        assert b"refresh_token=" + used in http.asked[0]
    assert events.count("token_rotated") == 1, "of the fresh consent; the other was told before"


@on_a_loop
async def test_a_relay_that_was_off_comes_back_with_its_newest_refresh_token() -> None:
    http = Rotating()
    made, _ = sources([], http)
    await made.source(PERSON)(None)
    made.keep(frozenset())
    await made.source(PERSON)(None)
    assert b"refresh_token=newer1" in http.asked[1]


@on_a_loop
async def test_what_a_lane_that_ends_was_given_does_not_replace_a_fresh_consent() -> None:
    kept: list[tuple[str, RenewedToken]] = []
    made, _ = sources([], Rotating(), kept=lambda *one: kept.append(one))
    ending = made.source(PERSON)
    made.source(msgspec.structs.replace(PERSON, oauth_refresh_token="fresh consent"))
    await ending(None)
    assert kept == []


@on_a_loop
async def test_a_lane_is_made_for_a_relay_with_tokens(tmp_path: Path) -> None:
    lanes: dict[str, Lane] = {}
    settings = msgspec.structs.replace(Settings(), relays=(APPLICATION,))
    Lanes(this_machine(tmp_path), lambda event, /, **fields: None).make(settings, lanes)
    assert isinstance(lanes["office"].relay, SmtpRelay)
    await lanes["office"].relay.close(0)


def test_who_needs_no_tokens_never_loads_an_http_client() -> None:
    code = "import sys, dispatch.app.delivery, dispatch.app.intake, dispatch.app.control; "
    code += "sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
