"""Orders to the queue, as the command line gives them: who is meant, and who is asked before."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dispatch.cli import queue
from dispatch.mail.delivery import DeliveryState
from dispatch.queue.requests import Done, Order, Pause, Pauses
from dispatch.store.parked import QueueFilter

ID = "spl_018bcff4aa4076c5a5224a58b791f1d8"


class Delivery:
    """Answers as the delivery process would, and notes what it was asked."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.asked: list[object] = []

    def __call__(self, _: Path, request: object, wanted: type[object]) -> object:
        self.asked.append(request)
        assert isinstance(self.answer, wanted)
        return self.answer


@pytest.fixture
def delivery(monkeypatch: pytest.MonkeyPatch) -> Delivery:
    one = Delivery(Done(5, 0, 0, messages=3))
    monkeypatch.setattr(queue, "ask_delivery", one)
    return one


def run(folder: Path, *arguments: str, answer: str = "") -> int:
    return CliRunner().invoke(queue.app, [*arguments, "--data", str(folder)], input=answer).exit_code


def test_all_options_reach_the_order(delivery: Delivery, tmp_path: Path) -> None:
    assert run(tmp_path, "reroute", ID, "--to", "b", "--state", "held", "--uncertain") == 0
    (order,) = delivery.asked
    assert isinstance(order, Order)
    assert (order.verb, order.relay, order.uncertain) == ("reroute", "b", True)
    assert spelled(order) == [ID] and order.wanted == QueueFilter(state=DeliveryState.HELD)
    assert run(tmp_path, "bounce", "--relay", "a", "--because", "gone") == 0
    assert delivery.asked[1] == Order("bounce", QueueFilter(relay="a"), reason="gone")


def spelled(order: Order) -> list[str]:
    return [f"spl_{each.hex()}" for each in order.ids]


def test_a_dry_run_gives_no_order(delivery: Delivery, tmp_path: Path) -> None:
    assert run(tmp_path, "cancel", "--all", "--dry-run") == 0
    assert delivery.asked == [Order("cancel", QueueFilter(), dry_run=True)]


@pytest.mark.parametrize(("answer", "done"), [("y\n", True), ("n\n", False), ("", False)])
def test_who_sits_at_a_terminal_is_asked_before_several_messages_move(
    delivery: Delivery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, done: bool
) -> None:
    monkeypatch.setattr(queue, "at_a_terminal", lambda: True)
    assert (run(tmp_path, "cancel", "--all", answer=answer) == 0) is done
    assert delivery.asked[1:] == [Order("cancel", QueueFilter())] * done


def test_nobody_is_asked_about_one_message_or_with_yes(
    delivery: Delivery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "at_a_terminal", lambda: True)
    assert run(tmp_path, "cancel", "--all", "--yes") == 0
    assert delivery.asked == [Order("cancel", QueueFilter())]
    delivery.answer = Done(2, 0, 0, messages=1)
    assert run(tmp_path, "cancel", "--sender", "example.org") == 0


@pytest.mark.parametrize("verb", ["retry", "hold", "release", "cancel", "bounce", "reroute --to b"])
def test_an_order_for_nobody_in_particular_is_none(delivery: Delivery, tmp_path: Path, verb: str) -> None:
    assert run(tmp_path, *verb.split()) == 64
    assert not delivery.asked


def test_a_pause_names_its_relay_or_none(delivery: Delivery, tmp_path: Path) -> None:
    delivery.answer = Pauses(True)
    assert run(tmp_path, "pause") == 0 and run(tmp_path, "pause", "b") == 0
    assert delivery.asked == [Pause(""), Pause("b")]
