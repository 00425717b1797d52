"""Refresh tokens on their way from delivery to control, and back with the next start."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.simulation.loop import SimulatedLoop
from tests.unit.app.test_configuring import KEY, Place, Reports

from dispatch.app.control import start_control
from dispatch.app.machine import Machine, this_machine
from dispatch.app.publishing import Publisher
from dispatch.app.token_keeping import AGAIN_S, TokenKeeping, tokens_at_start
from dispatch.app.watch import SettingsWatch
from dispatch.ports import T, Worker
from dispatch.runtime.bus import BusError
from dispatch.runtime.bus_client import BusFault
from dispatch.security.role_keys import role_key
from dispatch.security.vault import Vault
from dispatch.settings.renewed_tokens import RenewedToken, consent_of
from dispatch.settings.requests import KeepToken, PutEntry, Refused, RemoveEntry, TokenKept

KEPT_AS = "relays.renewed_tokens"
RELAY = {
    "host": "smtp.office365.com",
    "username": "me@a.example",
    "oauth_provider": "microsoft",
    "oauth_tenant": "t.example",
    "oauth_client_id": "id",
    "oauth_refresh_token": "consent",
}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.changed(PutEntry("relays", "office", RELAY, "new"))
    return made


def renewed(place: Place, token: str) -> RenewedToken:
    """As delivery hands it over, by what it is told."""
    return RenewedToken(consent_of(place.told("delivery").relays[0]), token)


def at_start(place: Place, key: bytes = KEY) -> dict[str, str]:
    """Of each relay the token that a start of delivery begins with, in place of the configured one."""
    seal = Vault(role_key(key, "delivery"))
    tokens = tokens_at_start(place.folders.settings, seal, place.reports)
    return {name: renewed.token for name, renewed in tokens.items()}


def on_disk(place: Place) -> bytes:
    return b"".join(path.read_bytes() for path in place.folders.data.rglob("*") if path.is_file())


def test_a_kept_token_is_there_at_the_next_start_and_readable_nowhere(place: Place) -> None:
    number = place.publisher.number
    assert at_start(place) == {}
    for token in ("newer-1", "newer-2"):
        assert place.configuring.handle(KeepToken("office", renewed(place, token))) == TokenKept()
    assert at_start(place) == {"office": "newer-2"}
    assert place.publisher.number == number, "it put nothing else in force"
    assert b"newer" not in on_disk(place) + repr(place.reports).encode()

    # The next start of the relay publishes anew, from settings.db alone.
    (place.folders.settings / "delivery.tokens").unlink()
    place.publisher.publish()
    assert at_start(place) == {"office": "newer-2"}


def test_it_goes_with_the_consent_that_it_goes_back_to(place: Place) -> None:
    place.configuring.handle(KeepToken("office", renewed(place, "newer")))
    place.changed(PutEntry("relays", "office", {"max_concurrency": 3}, "existing"))
    assert at_start(place) == {"office": "newer"}
    place.changed(PutEntry("relays", "office", {"oauth_refresh_token": "fresh"}, "existing"))
    assert at_start(place) == {}
    place.configuring.handle(KeepToken("office", renewed(place, "newer")))
    place.changed(RemoveEntry("relays", "office"))
    assert at_start(place) == {}
    assert place.publisher.store.secret(KEPT_AS) is None


def test_a_publication_without_the_relays_file_costs_no_token(place: Place) -> None:
    table = "\n".join(f'{key} = "{value}"' for key, value in RELAY.items())
    place.changed(RemoveEntry("relays", "office"))
    file = place.config.read_text()
    place.config.write_text(f'{file}[[relays]]\nname = "office"\n{table}\n')
    place.publisher.publish()
    place.configuring.handle(KeepToken("office", renewed(place, "newer")))
    place.config.write_text(file)
    place.publisher.publish()
    assert at_start(place) == {"office": "newer"}, "used by no relay, until it is there again"


def test_a_damaged_value_costs_the_newest_tokens_and_no_publication(place: Place) -> None:
    place.configuring.handle(KeepToken("office", renewed(place, "newer")))
    with closing(sqlite3.connect(place.folders.settings_db)) as database, database:
        database.execute("UPDATE secret SET sealed = substr(sealed, 1, 99) WHERE name = ?", (KEPT_AS,))
    place.publisher.publish()
    assert place.reports.events.count("token_not_kept") == 1
    assert at_start(place) == {}
    place.configuring.handle(KeepToken("office", renewed(place, "newest")))
    assert at_start(place) == {"office": "newest"}


def test_a_new_key_of_the_vault_opens_it(place: Place) -> None:
    place.configuring.handle(KeepToken("office", renewed(place, "newer")))
    place.configuring.close()
    other = bytes(32)
    publisher = Publisher(place.folders, ["--config", str(place.config)], other, place.reports)
    publisher.store.reseal(Vault(KEY))
    publisher.publish()
    publisher.close()
    assert at_start(place, other) == {"office": "newer"}
    assert at_start(place) == {}
    assert place.reports.events[-1] == "token_not_kept"


def test_a_damaged_file_costs_the_newest_tokens_and_no_start(place: Place) -> None:
    place.configuring.handle(KeepToken("office", renewed(place, "newer")))
    for damage in (b"", b"\xff", b"{}"):
        (place.folders.settings / "delivery.tokens").write_bytes(damage)
        assert at_start(place) == {}
        assert place.reports.events[-1] == "token_not_kept"


class Control:
    """The worker, the neighbour and the clock of delivery; answers as the test says."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked: list[KeepToken] = []
        self.held: list[Callable[[], None]] = []
        self.reports = Reports()
        self.clock = SimulatedLoop()
        machine = SimpleNamespace(clock=self.clock, threads=self, neighbours=self)
        self.keeping = TokenKeeping(cast(Machine, machine), self.reports)

    def worker(self, name: str) -> Control:
        return self

    def call(self, work: Callable[[], object], done: Callable[[object], None]) -> None:
        self.held.append(lambda: done(work()))

    def ask(self, role: str, request: KeepToken, answers: Any) -> object:
        self.asked.append(request)
        return self.answers.pop(0)

    def keep(self, relay: str, token: str) -> None:
        self.keeping.keep(relay, RenewedToken(b"", token))

    def answer(self) -> None:
        self.held.pop(0)()

    @property
    def offered(self) -> list[tuple[str, str]]:
        return [(request.relay, request.renewed.token) for request in self.asked]


def test_only_the_newest_of_each_relay_is_handed_over() -> None:
    control = Control(TokenKept(), TokenKept(), TokenKept())
    for relay, token in (("a", "1"), ("a", "2"), ("a", "3"), ("b", "1")):
        control.keep(relay, token)
    while control.held:
        control.answer()
    assert control.offered == [("a", "1"), ("a", "3"), ("b", "1")]
    assert control.reports.events == []


def test_what_control_does_not_take_is_said_once_and_offered_again() -> None:
    faults = (BusFault("nobody listens"), Refused(("the disk is full",)), BusError("internal", "OSError"))
    control = Control(*faults, TokenKept(), TokenKept())
    control.keep("a", "hush-1")
    control.answer()
    control.keep("a", "hush-2")
    for _ in faults:
        assert not control.held, "it waits for the minute"
        control.clock.advance(AGAIN_S)
        control.answer()
    assert control.offered == [("a", "hush-1"), *[("a", "hush-2")] * 3]
    assert control.reports == [
        ("token_not_kept", {"relay": "a", "why": "control does not answer: nobody listens"})
    ]
    assert "hush" not in repr(control.reports)
    assert "hush" not in repr(control.asked)
    control.clock.advance(AGAIN_S)
    assert not control.held, "control has it"


class Telling:
    """Threads with one worker, which tells what came of its first work."""

    def __init__(self, worker: Worker, told: asyncio.Future[object]) -> None:
        self._worker = worker
        self._told = told

    def worker(self, name: str) -> Worker:
        return self

    def call(self, work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        def done_and_told(result: T | Exception) -> None:
            done(result)
            self._told.set_result(result)

        self._worker.call(work, done_and_told)

    def close(self) -> None:
        self._worker.close()


def test_over_the_bus_of_control(place: Place) -> None:
    place.folders.run.mkdir()

    async def live() -> None:
        offered: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        machine = this_machine(place.folders.data)
        told = Telling(machine.threads.worker("tokens"), offered)
        watch = SettingsWatch(place.folders.settings, "control", place.reports)
        publish = place.publisher.reload
        service = await start_control(machine, watch, publish, place.reports, place.configuring)
        try:
            keeping = TokenKeeping(machine._replace(threads=told), place.reports)
            keeping.keep("office", renewed(place, "newer"))
            assert await offered == TokenKept()
        finally:
            await service.close()

    asyncio.run(live())
    assert at_start(place) == {"office": "newer"}
    assert "token_not_kept" not in place.reports.events
