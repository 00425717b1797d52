"""Records of a turn leave together, and each keeps a place of its own."""

from __future__ import annotations

from tests.simulation.loop import SimulatedLoop

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.ids import MessageId
from dispatch.ports import Lsn
from dispatch.queue.book import Book
from dispatch.queue.replay import Records
from dispatch.spool.memory import MemoryLog, MemoryReader
from dispatch.spool.records import LEDGER_FRAME_BYTES_MAX, Checkpoint, Moved, Sending


class Desk:
    """A book whose ledger is durable when the loop has settled."""

    def __init__(self) -> None:
        self.loop = SimulatedLoop()
        self.ledger = MemoryLog(clock=self.loop)
        self.reader = MemoryReader(self.ledger)
        self.book = Book(self.ledger, self.loop.post)

    def frames(self) -> list[Lsn]:
        return [entry.lsn for entry in self.reader.read(Lsn(0), 1 << 20)]

    def places(self) -> list[Lsn]:
        return [place for place, _ in Records(self.reader, Lsn(0))]


def sending(number: int) -> Sending:
    return Sending(number, MessageId(number.to_bytes(16, "big")), (0,), "relay")


def test_records_of_one_turn_leave_in_one_frame() -> None:
    desk = Desk()
    for number in range(3):
        desk.book.write(sending(number))
    assert desk.book.undurable == 3 and not desk.frames()
    desk.loop.settle()
    desk.book.write(sending(3))
    desk.loop.settle()
    assert len(desk.frames()) == 2 and desk.book.undurable == 0
    assert [record.at_ms for _, record in Records(desk.reader, Lsn(0))] == [0, 1, 2, 3]


def test_who_waits_for_a_record_is_told_its_own_place_when_its_frame_is_durable() -> None:
    """What comes behind it in the frame may never be done: the parked store must not claim it was."""
    desk = Desk()
    told: list[Lsn] = []
    for number in range(4):
        desk.book.write(sending(number))
        desk.book.once_durable(lambda: told.append(desk.book.durable_lsn))
    assert not told
    desk.loop.settle()
    assert told == desk.places() and len(set(told)) == 4
    assert desk.book.durable_lsn == told[-1]


def test_places_grow_from_frame_to_frame() -> None:
    desk = Desk()
    for number in range(20):
        desk.book.write(sending(number))
        if number % 3 == 0:
            desk.loop.settle()
    desk.loop.settle()
    places = desk.places()
    assert len(places) == 20 and places == sorted(set(places))


def test_a_restart_can_begin_at_a_checkpoint_wherever_it_was_written() -> None:
    desk = Desk()
    at: list[Lsn] = []
    desk.book.write(sending(0))
    desk.book.begin(Checkpoint(1, Lsn(7), ()))
    desk.book.once_durable(lambda: at.append(desk.book.durable_lsn))
    desk.book.write(sending(2))
    desk.loop.settle()
    found = [record for _, record in Records(desk.reader, at[0])]
    assert [record.at_ms for record in found] == [1, 2]


def test_records_survive_a_kill_once_the_book_is_flushed() -> None:
    desk = Desk()
    desk.book.write(sending(0))
    desk.book.flush()
    desk.loop.settle()
    assert len(desk.frames()) == 1


def test_a_frame_does_not_grow_without_an_end() -> None:
    desk = Desk()
    reason = "x" * 1000
    for number in range(200):
        place = MessageId(number.to_bytes(16, "big"))
        desk.book.write(Moved(number, place, (0,), Move.HOLD, DeliveryState.HELD, "operator", reason))
    desk.loop.settle()
    sizes = [len(entry.payload) for entry in desk.reader.read(Lsn(0), 1 << 20)]
    assert len(sizes) > 2 and max(sizes) < LEDGER_FRAME_BYTES_MAX + 2000
    assert len(desk.places()) == 200


def test_what_waits_asks_again_behind_those_that_waited_before() -> None:
    desk = Desk()
    order: list[str] = []

    def first() -> None:
        order.append("first")
        desk.book.once_durable(lambda: order.append("again"))

    desk.book.write(sending(0))
    desk.book.once_durable(first)
    desk.book.once_durable(lambda: order.append("second"))
    desk.loop.settle()
    assert order == ["first", "second", "again"]
