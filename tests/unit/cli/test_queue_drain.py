"""`dispatch queue drain`: when it ends, and what it says remains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dispatch.cli import queue, queue_drain
from dispatch.intake.requests import AskDoors, CloseDoors, Doors, OpenDoors
from dispatch.queue.requests import Lanes


class Machine:
    """Intake and delivery, as they answer one look after the other; the last answer stays."""

    def __init__(self, *looks: tuple[int, Lanes]) -> None:
        self.looks = list(looks)
        self.asked: list[object] = []
        self.slept = 0

    def ask_intake(self, _: Path, request: object) -> Doors:
        self.asked.append(request)
        return Doors(not isinstance(request, OpenDoors), self.looks[0][0])

    def ask_delivery(self, _: Path, request: object, wanted: type[Lanes]) -> Lanes:
        return self.looks[0][1]

    def sleep(self, seconds: float) -> None:
        self.slept += 1
        if len(self.looks) > 1:
            del self.looks[0]

    def monotonic(self) -> float:
        return float(self.slept)


def lanes(log_bytes: int = 0, **counts: int) -> Lanes:
    return Lanes((), log_bytes, 0, **counts)


def drained(
    monkeypatch: pytest.MonkeyPatch, folder: Path, machine: Machine, *arguments: str
) -> tuple[int, str]:
    monkeypatch.setattr(queue_drain, "ask_intake", machine.ask_intake)
    monkeypatch.setattr(queue_drain, "ask_delivery", machine.ask_delivery)
    monkeypatch.setattr(queue_drain, "time", machine)
    result = CliRunner().invoke(queue.app, [*arguments, "--data", str(folder)])
    return result.exit_code, result.stdout


@pytest.mark.parametrize(
    "left", [(1, lanes()), (0, lanes(7)), (0, lanes(in_log=1)), (0, lanes(waiting=1))], ids=str
)
def test_it_waits_until_nothing_goes_by_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, left: tuple[int, Lanes]
) -> None:
    machine = Machine(left, left, (0, lanes()))
    code, said = drained(monkeypatch, tmp_path, machine, "drain")
    assert (code, machine.slept) == (0, 2)
    assert isinstance(machine.asked[0], CloseDoors) and isinstance(machine.asked[1], AskDoors)
    assert said.splitlines()[0] == "The queue is empty."


def test_what_is_held_is_not_waited_for_and_is_not_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine((0, lanes(kept_back=3)))
    code, said = drained(monkeypatch, tmp_path, machine, "drain")
    assert (code, machine.slept) == (75, 0)
    assert "3 deliveries are held" in said and "empty" not in said


def test_when_its_time_is_over_it_says_what_remains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine((2, lanes(5, in_log=4, waiting=3)))
    code, said = drained(monkeypatch, tmp_path, machine, "drain", "--timeout", "3", "--json")
    assert (code, machine.slept) == (75, 3)
    assert json.loads(said) == {
        "empty": False,
        "connections": 2,
        "in_log": 4,
        "in_log_bytes": 5,
        "waiting": 3,
        "kept_back": 0,
    }


def test_mail_is_taken_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine((0, lanes()))
    assert drained(monkeypatch, tmp_path, machine, "accept") == (0, "Mail is taken.\n")
    assert isinstance(machine.asked[0], OpenDoors)
