"""Doors that an operator has closed: who comes, who is here, and what a restart finds."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import cast

import pytest
from tests.unit.intake.door import Door
from tests.unit.intake.test_listener import MESSAGE, Transport

from dispatch.intake.doors import FILE, DoorKeeper
from dispatch.intake.listener import ConnectionRules, SmtpListener
from dispatch.intake.requests import AskDoors, CloseDoors, Doors, OpenDoors
from dispatch.ports import Network
from dispatch.runtime.machine import SystemDisk

HEAD, END = MESSAGE[:-5], MESSAGE[-5:]


class House:
    """A listener with its doors, as one life of intake has them."""

    def __init__(self, door: Door, folder: Path) -> None:
        self.told: list[str] = []
        self.listener = SmtpListener(
            door.desk, ConnectionRules(10, 10, 60.0), cast("Network", None), self._report
        )
        self.doors = DoorKeeper(SystemDisk(folder), [self.listener], self._report)

    def _report(self, event: str, /, **fields: object) -> None:
        self.told.append(event)

    def arrives(self) -> tuple[Transport, asyncio.Protocol]:
        transport = Transport()
        connection = self.listener.accept()
        connection.connection_made(cast(asyncio.BaseTransport, transport))
        return transport, connection


@pytest.fixture
def house(door: Door, tmp_path: Path) -> House:
    return House(door, tmp_path)


def test_who_comes_to_closed_doors_is_told_to_come_later(house: House, door: Door) -> None:
    assert house.doors.handle(CloseDoors()) == Doors(True, 0)
    transport, connection = house.arrives()
    assert b"421 4.3.2 No mail is taken" in transport.said and transport.closed
    assert [refusal.kind for refusal in door.refusals] == ["closed"]
    assert house.doors.handle(AskDoors()) == Doors(True, 0), "he is as good as gone"
    connection.connection_lost(None)
    assert house.doors.handle(OpenDoors()) == Doors(False, 0)
    transport, _ = house.arrives()
    assert transport.codes() == ["220"]
    assert house.told == ["intake_closed", "intake_opened"]


def test_who_is_in_the_middle_of_a_message_finishes_it(house: House, door: Door) -> None:
    busy, sender = house.arrives()
    idle, _ = house.arrives()
    sender.data_received(b"EHLO client.test\r\n" + HEAD)
    busy.codes(), idle.codes()
    assert house.doors.handle(CloseDoors()) == Doors(True, 1)
    assert idle.codes() == ["421"] and not busy.closed
    sender.data_received(END)
    door.log.answer()
    assert busy.codes() == ["250", "421"]
    assert house.doors.handle(AskDoors()) == Doors(True, 0)


def test_closed_doors_stay_closed_over_a_restart(house: House, door: Door, tmp_path: Path) -> None:
    house.doors.handle(CloseDoors())
    house.doors.handle(CloseDoors())
    assert house.told == ["intake_closed"]
    after = House(door, tmp_path)
    assert after.listener.closed and after.told == ["intake_closed"]
    after.doors.handle(OpenDoors())
    after.doors.handle(OpenDoors())
    assert after.told == ["intake_closed", "intake_opened"] and not (tmp_path / FILE).exists()
    assert not House(door, tmp_path).listener.closed


class SickDisk(SystemDisk):
    def sync_folder(self, folder: str) -> None:
        raise OSError(errno.EIO, "simulated")


def test_doors_that_no_disk_remembers_are_not_called_closed(house: House, tmp_path: Path) -> None:
    house.doors = DoorKeeper(SickDisk(tmp_path), [house.listener], house._report)
    with pytest.raises(OSError, match="simulated"):
        house.doors.handle(CloseDoors())
    assert house.doors.handle(AskDoors()) == Doors(False, 0) and not house.told
