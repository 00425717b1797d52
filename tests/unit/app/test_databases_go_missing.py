"""A database that is damaged or gone: what is said, what is made anew, and what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pytest

from dispatch.app.control import start_control
from dispatch.app.delivery import start_delivery
from dispatch.app.folders import Folders
from dispatch.app.machine import this_machine
from dispatch.app.publishing import Publisher
from dispatch.app.watch import SettingsWatch
from dispatch.observe import Reporter
from dispatch.settings import Settings
from dispatch.settings.snapshot import publish

GRACE_S = 10.0


class _Service(Protocol):
    async def drain(self, grace_s: float) -> None: ...

    async def close(self) -> None: ...


Start = Callable[[Path, Reporter], Awaitable[_Service]]


async def _control(data: Path, report: Reporter) -> _Service:
    machine = this_machine(data)
    publisher = Publisher(machine.folders, [], bytes(32), report)
    watch = SettingsWatch(machine.folders.settings, "control", report)
    return await start_control(machine, watch, publisher.reload, report)


async def _delivery(data: Path, report: Reporter) -> _Service:
    machine = this_machine(data)
    return await start_delivery(machine, SettingsWatch(machine.folders.settings, "delivery", report), report)


def _run(start: Start, data: Path) -> list[tuple[str, str]]:
    """Start a role and end it; what it reported."""
    said: list[tuple[str, str]] = []

    def report(event: str, /, **fields: object) -> None:
        said.append((event, str(fields.get("why"))))

    async def live() -> None:
        service = await start(data, report)
        await service.drain(GRACE_S)
        await service.close()

    asyncio.run(live())
    return said


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """A data directory in which a relay has run."""
    folders = Folders(tmp_path)
    folders.run.mkdir()
    publish(folders.settings, Settings())
    _run(_delivery, tmp_path)
    _run(_control, tmp_path)
    return folders


def test_a_damaged_history_is_set_aside_and_made_anew_so_that_mail_goes_on(folders: Folders) -> None:
    damaged = b"no database" * 1000
    folders.history_db.write_bytes(damaged)
    said = _run(_control, folders.data)
    assert [event for event, _ in said] == ["history_fault"]
    assert (folders.data / "history.db.damaged-1").read_bytes() == damaged
    assert _run(_control, folders.data) == [], "from then on there is one"


def test_a_second_damage_leaves_what_the_first_one_set_aside(folders: Folders) -> None:
    for damaged in (b"first" * 1000, b"second" * 1000):
        folders.history_db.write_bytes(damaged)
        _run(_control, folders.data)
    assert (folders.data / "history.db.damaged-1").read_bytes() == b"first" * 1000
    assert (folders.data / "history.db.damaged-2").read_bytes() == b"second" * 1000


def test_a_parked_store_that_is_gone_is_said_and_its_content_files_stay(folders: Folders) -> None:
    assert "queue_fault" not in [event for event, _ in _run(_delivery, folders.data)]
    for file in folders.data.glob("parked.db*"):
        file.unlink()
    said = dict(_run(_delivery, folders.data))
    assert "parked.db is gone" in said["queue_fault"]
    assert "queue_fault" not in dict(_run(_delivery, folders.data)), "said once: from then on there is one"
