"""Orders over control's socket: answered when the processes work by them, or with who does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from dispatch.app import control
from dispatch.app.configuring import Configuring
from dispatch.app.control import start_control
from dispatch.app.folders import Folders
from dispatch.app.machine import this_machine
from dispatch.app.publishing import Publisher
from dispatch.app.watch import SettingsWatch
from dispatch.runtime.bus import socket_path
from dispatch.runtime.bus_client import BusClient, BusError
from dispatch.settings.requests import Answer, Changed, Publish, PutEntry, Refused

Answered = Answer | BusError


def report(event: str, /, **fields: object) -> None:
    """Nobody listens."""


def _ask(data: Path, *requests: object, applied: Callable[[str], int]) -> list[Answered]:
    """Be control, with neighbours that say what they work by, and be asked."""

    def client() -> list[Answered]:
        answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
        with BusClient(socket_path(Folders(data).run, "control"), answers) as asking:
            return [asking.ask(request) for request in requests]

    async def live() -> list[Answered]:
        machine = this_machine(data)
        publisher = Publisher(machine.folders, [], bytes(32), report)
        publisher.publish()
        for role in ("intake", "delivery"):
            machine.mark(machine.folders.applied(role), True).store(applied(role))
        watch = SettingsWatch(machine.folders.settings, "control", report)
        service = await start_control(
            machine, watch, publisher.reload, report, Configuring(publisher, report)
        )
        try:
            return await asyncio.to_thread(client)
        finally:
            await service.close()

    Folders(data).run.mkdir()
    return asyncio.run(live())


def test_a_change_that_everybody_works_by_is_confirmed(tmp_path: Path) -> None:
    order = PutEntry("relays", "smart", {"host": "mail.example.org"}, "new")
    [answer] = _ask(tmp_path, order, applied=lambda role: 1000)
    assert isinstance(answer, Changed)
    assert (answer.number, answer.unconfirmed) == (2, ())


def test_who_does_not_work_by_it_in_time_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CONFIRM_S", 0.1)
    [answer] = _ask(tmp_path, Publish(), applied=lambda role: 1000 if role == "intake" else 1)
    assert isinstance(answer, Changed)
    assert answer.unconfirmed == ("delivery",)


def test_what_is_refused_waits_for_nobody(tmp_path: Path) -> None:
    [answer] = _ask(tmp_path, PutEntry("relays", "a", {"port": "0"}, "new"), applied=lambda role: 0)
    assert isinstance(answer, Refused)
    assert any("relays.a.port" in mistake for mistake in answer.mistakes)
