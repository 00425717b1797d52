"""`dispatch history` and `dispatch stats`, called as a person calls them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.unit.outcomes.ledger import LedgerInList, accepted, attempted, moved, project, result
from tests.unit.store.messages import DAY_ONE_MS, message

from dispatch.cli import run
from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.ids import spool_form

S = DeliveryState
NOW_MS = DAY_ONE_MS + 30 * 86_400_000 + 5
INVOICE = message(1, "alice@example.com", "bob@example.net", subject="Invoice 4711", at_ms=DAY_ONE_MS)
NEWS = message(2, "carol@example.com", sender="", subject="News", at_ms=NOW_MS)


@pytest.fixture(autouse=True)
def same_day_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith("DISPATCH_"):
            monkeypatch.delenv(variable)
    monkeypatch.setattr("dispatch.cli.stats.time.time", lambda: NOW_MS / 1000)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    ledger = LedgerInList(
        accepted(INVOICE),
        attempted(INVOICE.id, result(S.DELIVERED, 0), result(S.BOUNCED, 1)),
        accepted(NEWS),
        attempted(NEWS.id, S.WAITING, at_ms=NOW_MS),
        moved(NEWS.id, Move.HOLD, S.HELD, at_ms=NOW_MS + 1, reason="look at it"),
    )
    project(tmp_path / "history.db", ledger).close()
    return tmp_path


def call(*arguments: object) -> int:
    return run([str(argument) for argument in arguments])


def test_the_newest_message_is_listed_first(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("history", "--data", data) == os.EX_OK
    first, second = capsys.readouterr().out.splitlines()
    assert spool_form(NEWS.id) in first
    assert "held" in first
    assert "<> → <carol@example.com>" in first
    assert "partially delivered" in second
    assert "<alice@example.com> (+1)" in second


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--state", "failed"], [1]),
        (["--state", "unfinished"], [2]),
        (["--state", "partially-delivered", "--state", "held"], [2, 1]),
        (["--recipient", "example.net"], [1]),
        (["--to", "2026-06-02"], [1]),
        (["--from", "2026-06-01", "--subject", "4711"], [1]),
        (["--text", "carol"], [2]),
        (["--client", "203.0.113.5"], []),
    ],
    ids=str,
)
def test_filters_narrow_the_list(
    data: Path, options: list[str], found: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("history", "--json", "--data", data, *options) == os.EX_OK
    page = json.loads(capsys.readouterr().out)
    ids = {1: spool_form(INVOICE.id), 2: spool_form(NEWS.id)}
    assert [row["id"] for row in page["messages"]] == [ids[number] for number in found]
    assert page["next"] is None


def test_pages_are_followed_by_their_cursor(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("history", "--json", "--limit", 1, "--data", data) == os.EX_OK
    page = json.loads(capsys.readouterr().out)
    assert call("history", "--json", "--limit", 1, "--after", page["next"], "--data", data) == os.EX_OK
    following = json.loads(capsys.readouterr().out)
    ids = [row["id"] for row in page["messages"] + following["messages"]]
    assert ids == [spool_form(NEWS.id), spool_form(INVOICE.id)]


def test_one_message_is_shown_with_every_attempt(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("history", "show", spool_form(INVOICE.id), "--data", data) == os.EX_OK
    out = capsys.readouterr().out
    assert "550 5.1.1 No such user" in out
    assert "<bob@example.net>  bounced" in out
    assert "delivered at smarthost 198.51.100.7:25 over TLSv1.3 (12 ms): <alice@example.com>" in out
    assert call("history", "show", spool_form(NEWS.id), "--data", data) == os.EX_OK
    assert "hold by operator: <carol@example.com>  look at it" in capsys.readouterr().out
    assert call("history", "show", spool_form(INVOICE.id), "--json", "--data", data) == os.EX_OK
    shown = json.loads(capsys.readouterr().out)
    assert (shown["id"], len(shown["timeline"])) == (spool_form(INVOICE.id), 2)


def test_mistakes_are_told_with_their_exit_codes(data: Path, tmp_path: Path) -> None:
    assert call("history", "--state", "nonsense", "--data", data) == os.EX_USAGE
    assert call("history", "show", "nonsense", "--data", data) == os.EX_USAGE
    assert call("history", "show", spool_form(message(9).id), "--data", data) == os.EX_DATAERR
    assert call("history", "--data", tmp_path / "nowhere") == os.EX_NOINPUT
    assert call("stats", "--data", tmp_path / "nowhere") == os.EX_NOINPUT


def test_a_damaged_history_is_told_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "history.db").write_bytes(b"nothing of the kind " * 500)
    assert call("history", "--data", tmp_path) == os.EX_IOERR
    assert "history.db" in capsys.readouterr().err


def test_statistics_are_of_today_by_relay(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("stats", "--json", "--data", data) == os.EX_OK
    today = json.loads(capsys.readouterr().out)
    assert (today["total"]["received"], today["total"]["deferred"]) == (1, 1)
    assert today["relays"]["smarthost"]["deferred"] == 1
    assert call("stats", "--data", data) == os.EX_OK
    header, relay, total = capsys.readouterr().out.splitlines()
    assert header.split()[1:5] == ["(UTC)", "received", "delivered", "captured"]
    assert relay.split()[0] == "smarthost"
    assert total.split()[:2] == ["total", "1"]


def test_statistics_of_many_days_have_a_line_for_each(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("stats", "--days", 60, "--per-day", "--data", data) == os.EX_OK
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1][:3] == ["2026-06-01", "1", "1"]
    assert lines[-1][:3] == ["total", "2", "1"]
