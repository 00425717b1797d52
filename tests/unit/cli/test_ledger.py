"""`dispatch ledger verify` and `dispatch spool export`, on the files that a stopped relay left."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.simulation.loop import SimulatedChance, SimulatedLoop
from tests.unit.outcomes.ledger import accepted, attempted, frame_of, result
from tests.unit.store.messages import DAY_ONE_MS, delivery, message, park

from dispatch.app.folders import LEDGER, MAIL, Folders
from dispatch.cli import run
from dispatch.mail.delivery import DeliveryState
from dispatch.mail.ids import spool_form
from dispatch.mail.message import ContentFile, Message
from dispatch.ports import Lsn
from dispatch.runtime.machine import MarkFile, SystemDisk
from dispatch.spool.log import SegmentLog
from dispatch.spool.records import Checkpoint, LedgerRecord, encode_mail
from dispatch.store.parked import ParkedStore

HOUR_MS = 3_600_000
S = DeliveryState


class Data:
    """A data directory, written as the processes do, one after the other."""

    def __init__(self, root: Path) -> None:
        self.folders = Folders(root)
        ParkedStore.open(self.folders.parked_db).close()
        self.mail()
        self.ledger()

    def ledger(self, *records: LedgerRecord) -> None:
        with_log(self.folders, LEDGER, [frame_of(record) for record in records])

    def mail(self, *messages: Message) -> list[Lsn]:
        payloads = [b"".join(map(bytes, encode_mail(each, (b"Hello\r\n",)))) for each in messages]
        return with_log(self.folders, MAIL, payloads)

    def mark(self, path: Path, value: int) -> None:
        path.write_bytes(value.to_bytes(8, sys.byteorder).ljust(4096, b"\0"))

    def verify(self, *options: str) -> int:
        return run(["ledger", "verify", "--data", str(self.folders.data), *options])


def with_log(folders: Folders, folder: str, payloads: list[bytes]) -> list[Lsn]:
    loop = SimulatedLoop()
    path = folders.ledger_durable if folder == LEDGER else folders.mail_durable
    mark = MarkFile(path, writable=True)
    log = SegmentLog(
        SystemDisk(folders.data),
        folder,
        clock=loop,
        chance=SimulatedChance(),
        threads=loop,
        mark=mark,
        sync_interval_s=0.05 if folder == LEDGER else 0.0,
        segment_bytes=64 << 10,
        spares=0,
        chained=folder == LEDGER,
    )
    told: list[Lsn] = []
    for payload in payloads:
        log.append([payload], lambda answer: told.append(answer))  # type: ignore[arg-type]
    loop.advance(1)
    log.close()
    mark.close()
    assert len(told) == len(payloads)
    return told


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


@pytest.fixture
def told(data: Data, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., dict[str, object]]]:
    """What `--json` says."""

    def verify(*options: str, code: int = os.EX_OK) -> dict[str, object]:
        capsys.readouterr()
        assert data.verify("--json", *options) == code
        found = json.loads(capsys.readouterr().out)
        assert isinstance(found, dict)
        assert found["sound"] == (code == os.EX_OK)
        return found

    return verify


# ---------------------------------------------------------------- over any period


def three_hours(data: Data) -> list[Message]:
    """One message an hour from the first on: delivered an hour later, half bounced and half waiting, lost."""
    messages = [
        message(1, at_ms=DAY_ONE_MS),
        message(2, "a@example.com", "b@example.com", at_ms=DAY_ONE_MS + HOUR_MS),
        message(3, at_ms=DAY_ONE_MS + 2 * HOUR_MS),
    ]
    one, two, three = messages
    data.ledger(
        accepted(one),
        accepted(two),
        attempted(one.id, S.DELIVERED, at_ms=DAY_ONE_MS + HOUR_MS),
        attempted(two.id, result(S.BOUNCED, 0), at_ms=DAY_ONE_MS + HOUR_MS),
        accepted(three),
    )
    store = ParkedStore.open(data.folders.parked_db)
    store.apply([park(two, delivery(1))], 0)
    store.close()
    return messages


def test_what_was_accepted_within_a_period_is_matched_with_outcomes_of_any_time(
    data: Data, told: Callable[..., dict[str, object]]
) -> None:
    three_hours(data)
    first_hour = told("--since", "2026-06-01", "--until", "2026-06-01T01:00")
    assert [first_hour[name] for name in ("messages", "settled", "in_queue", "lost")] == [1, 1, 0, 0]
    second = told("--from", "2026-06-01 01:00", "--to", "2026-06-01 01:00:01")
    assert [second[name] for name in ("messages", "accepted", "settled", "in_queue")] == [1, 2, 1, 1]
    assert (second["since_ms"], second["before_ms"]) == (DAY_ONE_MS + HOUR_MS, DAY_ONE_MS + HOUR_MS + 1000)


def test_what_was_lost_in_another_period_is_no_fault_of_this_one(
    data: Data, told: Callable[..., dict[str, object]]
) -> None:
    *_, lost = three_hours(data)
    assert told("--until", "2026-06-01T02:00")["lost_ids"] == []
    assert told("--since", "2026-06-01T02:00", code=os.EX_DATAERR)["lost_ids"] == [spool_form(lost.id)]
    assert told(code=os.EX_DATAERR)["messages"] == 3


def test_the_period_is_said_in_words(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    three_hours(data)
    data.verify()
    data.verify("--since", "2026-06-01", "--until", "2026-06-01T02:00")
    data.verify("--since", "2026-06-02")
    data.verify("--until", "2026-06-01")
    said = [line for line in capsys.readouterr().out.splitlines() if "accepted" in line]
    assert said == [
        "3 messages accepted, for 4 recipients:",
        "2 messages accepted from 2026-06-01 00:00:00 to 2026-06-01 02:00:00 (UTC), for 3 recipients:",
        "0 messages accepted from 2026-06-02 00:00:00 (UTC) on, for 0 recipients:",
        "0 messages accepted before 2026-06-01 00:00:00 (UTC), for 0 recipients:",
    ]


def test_a_period_that_begins_before_the_ledger_that_is_kept_is_said(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    three_hours(data)
    late = message(9, at_ms=DAY_ONE_MS + 9 * HOUR_MS)
    data.ledger(accepted(late), attempted(late.id, S.DELIVERED))
    for path in sorted(data.folders.ledger.glob("*.segment"))[:-1]:
        path.unlink()  # As releasing does.
    data.verify("--since", "2026-06-01T08:00")
    assert "The ledger that is kept begins at 2026-06-01 09:00:00 (UTC)." in capsys.readouterr().out
    data.verify("--since", "2026-06-01T09:00")
    assert "begins at" not in capsys.readouterr().out


def test_mail_that_was_not_taken_up_counts_in_its_own_period(
    data: Data, told: Callable[..., dict[str, object]]
) -> None:
    data.mail(message(1, at_ms=DAY_ONE_MS), message(2, at_ms=DAY_ONE_MS + HOUR_MS))
    assert told()["not_taken_up"] == 2
    assert told("--until", "2026-06-01T01:00")["not_taken_up"] == 1


# ---------------------------------------------------------------- the chain


def settled(data: Data, number: int) -> None:
    sent = message(number)
    data.ledger(accepted(sent), attempted(sent.id, S.DELIVERED))


def chain_of(found: dict[str, object]) -> dict[str, object]:
    chain = found["chain"]
    assert isinstance(chain, dict)
    return chain


def test_the_chain_and_its_head_are_told(
    data: Data, told: Callable[..., dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    settled(data, 1)
    chain = chain_of(told())
    assert (chain["batches"], chain["breaks"], chain["noted"], chain["start"]) == (1, [], None, 0)
    head = chain["head"]
    assert isinstance(head, str)
    data.verify()
    place, digits = head.split("-")
    assert f"chain: 1 batches, unbroken, head {place}-{digits[:16]}\n" in capsys.readouterr().out


def test_a_head_of_yesterday_is_continued_today(
    data: Data, told: Callable[..., dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    settled(data, 1)
    head = str(chain_of(told())["head"])
    settled(data, 2)
    assert chain_of(told("--head", head))["noted"] == "continued"
    assert data.verify("--head", head[:25]) == os.EX_OK
    assert f"it continues {head[:20]}" in capsys.readouterr().out


def test_a_ledger_set_back_to_an_older_copy_does_not_continue_the_head(
    data: Data, told: Callable[..., dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    settled(data, 1)
    copy = {path: path.read_bytes() for path in data.folders.ledger.iterdir()}
    settled(data, 2)
    head = str(chain_of(told())["head"])
    for path in data.folders.ledger.iterdir():
        path.unlink()
    for path, content in copy.items():
        path.write_bytes(content)
    told()
    assert chain_of(told("--head", head, code=os.EX_DATAERR))["noted"] == "cut"
    data.verify("--head", head)
    assert "CUT: it ends before" in capsys.readouterr().out
    settled(data, 3)
    assert chain_of(told("--head", head, code=os.EX_DATAERR))["noted"] in ("cut", "contradicted")


def test_what_is_no_head_is_refused(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.verify("--head", "yesterday") == os.EX_USAGE
    assert "no head of a chain" in capsys.readouterr().err


def test_a_break_is_told_with_its_place_and_is_not_sound(
    data: Data, told: Callable[..., dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    settled(data, 1)
    settled(data, 2)
    for path in sorted(data.folders.ledger.glob("*.segment"))[:-1]:
        content = bytearray(path.read_bytes())
        if len(content) > 4096 + 300:
            content[4096 + 300] ^= 0xFF
            path.write_bytes(content)
            break
    (broken,) = chain_of(told(code=os.EX_DATAERR))["breaks"]  # type: ignore[misc]
    assert broken["why"] == "unreadable"
    data.verify()
    said = capsys.readouterr().out
    assert "BROKEN in 1 places" in said
    assert f"  {broken['start']:#x} to {broken['resume']:#x}: unreadable" in said


# ---------------------------------------------------------------- an empty ledger


def forget_ledger(data: Data) -> None:
    """All of it, and its mark: a start makes another."""
    for path in data.folders.ledger.iterdir():
        path.unlink()
    data.ledger()


def test_a_relay_that_never_saw_mail_is_sound(told: Callable[..., dict[str, object]]) -> None:
    assert told()["records"] == 0


def test_an_empty_ledger_beside_a_checkpoint_is_not_sound(
    data: Data, told: Callable[..., dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    data.ledger(Checkpoint(DAY_ONE_MS, Lsn(0), ()))
    data.mark(data.folders.checkpoint, 4096)
    told()
    forget_ledger(data)
    told(code=os.EX_DATAERR)
    data.verify()
    assert "NOT SOUND: checkpoint.mark speaks of records up to 0x1000" in capsys.readouterr().out


def test_an_empty_ledger_beside_parked_mail_is_not_sound(
    data: Data, told: Callable[..., dict[str, object]]
) -> None:
    store = ParkedStore.open(data.folders.parked_db)
    store.apply([park(message(1))], 0)
    store.close()
    (said,) = told(code=os.EX_DATAERR)["contradictions"]  # type: ignore[misc]
    assert said == "1 messages are parked, and the ledger is empty"


def test_an_empty_ledger_beside_a_mail_log_that_was_released_is_not_sound(
    data: Data, told: Callable[..., dict[str, object]]
) -> None:
    first, _ = data.mail(message(1), message(2))
    told()
    data.mark(data.folders.released, first)
    (said,) = told(code=os.EX_DATAERR)["contradictions"]  # type: ignore[misc]
    assert "the mail log was taken up" in str(said)


def test_a_ledger_whose_end_others_have_read_further_than_it_goes_is_not_sound(
    data: Data, told: Callable[..., dict[str, object]]
) -> None:
    settled(data, 1)
    data.mark(data.folders.followed, 1 << 20)
    (said,) = told(code=os.EX_DATAERR)["contradictions"]  # type: ignore[misc]
    assert str(said).startswith("followed.mark speaks of records up to 0x100000")


def test_segments_that_were_removed_leave_no_sound_ledger(
    data: Data, told: Callable[..., dict[str, object]]
) -> None:
    settled(data, 1)
    for path in data.folders.ledger.glob("*.segment"):
        path.unlink()
    assert chain_of(told(code=os.EX_DATAERR))["breaks"]


def test_a_mark_that_was_set_back_hides_no_records(
    data: Data, told: Callable[..., dict[str, object]]
) -> None:
    settled(data, 1)
    settled(data, 2)
    data.mark(data.folders.ledger_durable, 0)
    (said,) = told(code=os.EX_DATAERR)["contradictions"]  # type: ignore[misc]
    assert str(said).startswith("its own chain speaks of records")


def test_looking_makes_no_marks(data: Data, told: Callable[..., dict[str, object]]) -> None:
    told()
    assert not list(data.folders.data.glob("*.mark"))


# ---------------------------------------------------------------- spool export


def test_large_mail_that_is_over_is_no_complaint_and_what_is_open_is(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    over, waits, stays = (
        message(number, content_file=ContentFile(f"{1:016x}-{number:032x}.content", 2_000_000))
        for number in (1, 2, 3)
    )
    data.mail(over, waits, stays, message(4))
    data.folders.content.mkdir(parents=True)
    assert stays.content_file is not None
    (data.folders.content / stays.content_file.name).write_bytes(b"Large\r\n")
    data.ledger(accepted(over), accepted(waits), accepted(stays), attempted(over.id, S.DELIVERED))
    export = ["spool", "export", str(tmp_path / "out"), "--data", str(data.folders.data)]
    assert run(export) == os.EX_DATAERR
    said = capsys.readouterr()
    assert "2 messages written" in said.out
    assert "1 large ones are over" in said.out
    assert spool_form(waits.id) in said.err
    assert spool_form(over.id) not in said.err
    data.ledger(attempted(waits.id, S.BOUNCED))
    assert run(export) == os.EX_OK
    assert capsys.readouterr().err == ""
