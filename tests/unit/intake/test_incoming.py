"""Content that is too large, or comes when memory is short: in a file of its own, or nowhere."""

from __future__ import annotations

import pytest
from tests.simulation.disk import disk_full
from tests.unit.intake.door import Door

from dispatch.ports import AppendFault

OFFER = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"
HEAD = b"Subject: large\r\n\r\n"
LINE = b"x" * 998 + b"\r\n"


def body(size_bytes: int) -> bytes:
    return HEAD + LINE * (size_bytes // len(LINE))


def send(door: Door, content: bytes, *, piece_bytes: int = 64 << 10) -> tuple[object, object]:
    session, wire = door.open()
    session.received(OFFER)
    assert wire.heard() == ["250", "250", "354"]
    for at in range(0, len(content), piece_bytes):
        session.received(content[at : at + piece_bytes])
        door.loop.settle()
    session.received(b".\r\n")
    door.loop.settle()
    return session, wire


def test_large_content_is_on_the_disk_before_its_record_is_appended(door: Door) -> None:
    content = body(3 << 20)
    _, wire = send(door, content)
    assert wire.heard() == []
    ((message, inline),) = door.log.messages
    assert message.content_file is not None and not inline
    (path,) = door.files
    assert path.endswith(message.content_file.name)
    stored = door.disk.content(path)
    assert stored.endswith(content) and len(stored) == message.content_file.size_bytes == message.size_bytes
    door.disk.power_cut()
    assert door.disk.content(path) == stored
    door.log.answer()
    assert wire.heard() == ["250"]


def test_small_content_spills_when_memory_is_used_up(door: Door) -> None:
    door.budget.held_bytes = door.budget.bytes_max
    send(door, body(200 << 10))
    assert len(door.files) == 1
    door.log.answer()
    assert door.budget.held_bytes == door.budget.bytes_max, "what was held is given back"


def test_a_slow_client_is_not_looked_at_after_each_byte(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room, and with a header section that does not end."""
    door.budget.held_bytes = door.budget.bytes_max
    looks = 0
    mark = door.acceptance.mark

    def counted(*args: object) -> object:
        nonlocal looks
        looks += 1
        return mark(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(door.acceptance, "mark", counted)
    session, _ = door.open()
    session.received(OFFER)
    for _ in range(300):
        session.received(b"X-Field: " + LINE)
    assert looks <= 5


def test_a_header_section_above_a_mebibyte_is_refused_at_the_end(door: Door) -> None:
    _, wire = send(door, b"".join(b"X-%d: " % number + LINE for number in range(1200)))
    assert wire.heard() == ["552"]
    assert not door.log.records and not door.files and door.budget.held_bytes == 0


def test_a_large_loop_is_refused_at_the_end_and_leaves_no_file(door: Door) -> None:
    received = b"Received: from x by y; Mon, 1 Jan 2024 00:00:00 +0000\r\n" * 31
    _, wire = send(door, received + body(2 << 20))
    assert wire.heard() == ["554"]
    assert not door.log.records and not door.files and door.budget.held_bytes == 0


def test_content_above_the_relays_limit_is_refused_when_its_size_is_known(door: Door) -> None:
    _, wire = send(door, body(5 << 20))
    assert wire.heard() == ["552"]
    assert [refusal.kind for refusal in door.refusals] == ["relay_size"]
    assert not door.log.records and not door.files


def test_content_above_our_own_limit_leaves_no_file(door: Door) -> None:
    _, wire = send(door, body(9 << 20))
    assert wire.heard() == ["552"]
    door.loop.settle()
    assert not door.log.records and not door.files and door.budget.held_bytes == 0


def test_a_cut_connection_takes_its_file_with_it(door: Door) -> None:
    session, _ = door.open()
    session.received(OFFER)
    session.received(body(2 << 20))
    door.loop.settle()
    assert door.files
    session.lost()
    door.loop.settle()
    assert not door.files and door.budget.held_bytes == 0


def test_a_full_disk_refuses_and_leaves_no_file(door: Door) -> None:
    door.disk.fault = lambda operation, path: disk_full() if operation == "sync" else None
    _, wire = send(door, body(2 << 20))
    door.loop.settle()
    assert wire.heard() == ["452"] and not door.files and not door.log.records


def test_a_record_that_cannot_be_kept_takes_its_file_with_it(door: Door) -> None:
    _, wire = send(door, body(2 << 20))
    door.log.answer(AppendFault(full=True, detail="simulated"))
    door.loop.settle()
    assert wire.heard() == ["452"] and not door.files


def test_a_client_is_not_read_while_the_disk_is_behind(door: Door) -> None:
    session, wire = door.open()
    session.received(OFFER)
    session.received(body(4 << 20))
    assert wire.pauses == 1
    door.loop.settle()
    assert wire.pauses == 0
