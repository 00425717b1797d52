"""Which connection takes which transaction, and what becomes of both when the host misbehaves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from functools import wraps

import pytest
from tests.unit.relays.memory_upstream import GROUP, Site
from tests.unit.smtp.client_talk import CONTENT

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.report import FaultKind, Stage
from dispatch.ports import Transaction
from dispatch.relays.smart_host import Timeouts
from dispatch.relays.smtp import HOLD_S
from dispatch.relays.smtp_connection import BEHIND_S, PROMPT_S

ENVELOPE = GROUP % len(CONTENT)
ENDED = CONTENT + b".\r\n"


def on_a_loop(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(**arguments: object) -> None:
        asyncio.run(test(**arguments))

    return run


@on_a_loop
async def test_kept_connection_is_used_again() -> None:
    site = Site()
    site.start("one")
    up = await site.connection()
    assert up.heard() == ENVELOPE
    up.take()
    assert up.heard() == ENDED
    site.start("two")
    assert up.heard() == ENVELOPE, "at once, in the call that started it"
    up.take()
    await site.settle()
    assert (site.codes("one"), site.codes("two")) == ([250], [250])
    assert site.reports["two"].peer == "192.0.2.1:2501"
    assert site.network.attempts == 1


@on_a_loop
async def test_connections_are_opened_only_as_needed() -> None:
    site = Site(max_concurrency=2)
    assert site.relay.free() == 2
    for key in ("one", "two", "three"):
        site.start(key)
    first = await site.connection(0)
    second = await site.connection(1)
    assert site.network.attempts == 2
    assert site.relay.free() == 0
    first.take()
    assert first.heard() == ENVELOPE + ENDED + ENVELOPE
    second.take()
    assert site.codes("two") == [250]
    assert "three" not in site.reports


@on_a_loop
async def test_warm_connection_is_preferred() -> None:
    site = Site()
    site.start("one")
    site.start("two")
    first, second = await site.connection(0), await site.connection(1)
    second.take()
    first.take()
    first.heard()
    site.start("three")
    assert first.heard() == ENVELOPE
    assert second.heard() == ENVELOPE + ENDED


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError(111, "refused"), FaultKind.REFUSED),
        (OSError("Multiple exceptions: [Errno 111] one, [Errno 111] two"), FaultKind.REFUSED),
        (TimeoutError(), FaultKind.TIMEOUT),
        (socket.gaierror(-2, "Name or service not known"), FaultKind.UNRESOLVED),
        (OSError(113, "No route to host"), FaultKind.UNREACHABLE),
        (TypeError("a bug in the network's adapter"), FaultKind.UNREACHABLE),
    ],
)
@on_a_loop
async def test_host_that_cannot_be_reached_is_reported_to_all_that_wait(
    error: Exception, kind: FaultKind
) -> None:
    site = Site(max_concurrency=2)
    site.network.faults.extend([error] * 2)
    for key in ("one", "two", "three"):
        site.start(key)
    await site.settle()
    assert site.network.attempts == 2
    for key in ("one", "two", "three"):
        report = site.reports[key]
        assert report.stage is Stage.CONNECT
        assert report.fault is not None
        assert report.fault.kind is kind
    assert site.relay.free() == 2


@on_a_loop
async def test_refused_session_is_the_answer_to_all_that_wait() -> None:
    site = Site(max_concurrency=1)
    site.start("one", envelope=Envelope("", (Recipient("b@b.example"), Recipient("c@c.example"))))
    site.start("two")
    await site.settle()
    site.network.connections[0].say(b"554 5.7.1 not you\r\n")
    assert (site.codes("one"), site.codes("two")) == ([554, 554], [554])
    assert site.reports["one"].stage is Stage.GREETING
    assert site.reports["one"].peer == "192.0.2.1:2501"
    assert site.network.connections[0].closed


@on_a_loop
async def test_host_that_wants_no_more_connections_serves_all_on_those_it_has() -> None:
    site = Site(max_concurrency=3)
    site.start("one")
    up = await site.connection()
    site.start("two")
    site.start("three")
    await site.settle()
    site.network.connections[1].say(b"421 too many\r\n")
    site.network.connections[2].say(b"421 too many\r\n")
    await site.settle()
    assert site.reports == {}
    up.take(3)
    assert [site.codes(key) for key in ("one", "two", "three")] == [[250]] * 3
    assert site.network.attempts == 3


@on_a_loop
async def test_more_connections_are_tried_again_after_a_while() -> None:
    site = Site(max_concurrency=2)
    site.start("one")
    await site.connection()
    site.network.faults.append(ConnectionRefusedError())
    site.start("two")
    await site.settle()
    assert site.network.attempts == 2
    await site.advance(HOLD_S)
    assert site.network.attempts == 3
    (await site.connection(1)).take()
    assert site.codes("two") == [250]


@on_a_loop
async def test_connection_that_the_host_closed_while_idle_is_not_used() -> None:
    site = Site()
    site.start("one")
    up = await site.connection()
    up.take()
    up.drop()
    site.start("two")
    (await site.connection(1)).take()
    assert site.codes("two") == [250]


@pytest.mark.parametrize("last_words", [b"", b"421 idle too long\r\n"])
@on_a_loop
async def test_kept_connection_that_dies_under_a_transaction_costs_it_nothing(last_words: bytes) -> None:
    site = Site()
    site.start("one")
    up = await site.connection()
    up.take()
    site.start("two")
    if last_words:
        up.say(last_words)
    else:
        up.drop()
    fresh = await site.connection(1)
    assert fresh.heard() == ENVELOPE
    fresh.take()
    assert site.codes("two") == [250]
    assert site.sending == ["one", "two"]


@on_a_loop
async def test_fresh_connection_that_dies_too_is_reported() -> None:
    site = Site()
    site.start("one")
    up = await site.connection()
    up.take()
    site.start("two")
    up.drop()
    (await site.connection(1)).drop()
    await site.settle()
    report = site.reports["two"]
    assert report.stage is Stage.MAIL
    assert report.fault is not None
    assert report.fault.kind is FaultKind.DROPPED
    assert site.network.attempts == 2
    assert site.relay.free() == 20


@on_a_loop
async def test_connection_that_dies_after_the_end_of_data_is_never_tried_again() -> None:
    site = Site()
    site.start("one")
    up = await site.connection()
    up.take()
    site.start("two")
    up.say(b"250 ok\r\n250 ok\r\n354 go\r\n")
    up.drop(ConnectionResetError(104, "reset"))
    await site.settle()
    report = site.reports["two"]
    assert (report.stage, site.codes("two")) == (Stage.END_OF_DATA, [None])
    assert site.network.attempts == 1


@on_a_loop
async def test_host_that_opens_sessions_only_to_close_them_is_given_up() -> None:
    site = Site()
    site.start("one")
    for number in range(2):
        assert site.reports == {}
        await site.settle()
        up = site.network.connections[number]
        up.say(b"220 hi\r\n")
        up.say(b"250 hi\r\n421 no time\r\n")
    await site.settle()
    assert site.reports["one"].stage is Stage.MAIL
    assert site.network.attempts == 2


TIMEOUTS = Timeouts(greeting_s=11, ehlo_s=12, mail_s=13, rcpt_s=14, data_s=15, end_of_data_s=16)


@pytest.mark.parametrize(
    ("said", "stage", "limit_s"),
    [
        ([], Stage.GREETING, 11),
        ([b"220 hi\r\n"], Stage.EHLO, 12),
        ([b"220 hi\r\n", b"250 hi\r\n"], Stage.MAIL, 13),
        ([b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n"], Stage.RCPT, 14),
        ([b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n"], Stage.DATA, 15),
        ([b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"], Stage.END_OF_DATA, 16),
    ],
)
@on_a_loop
async def test_stalled_host_never_outlives_its_time(said: list[bytes], stage: Stage, limit_s: float) -> None:
    site = Site(timeouts=TIMEOUTS)
    site.start("one")
    await site.settle()
    up = site.network.connections[0]
    for words in said:
        await site.advance(5)
        up.say(words)
    for _ in range(int(limit_s) * 2 - 1):
        await site.advance(0.5)
        up.say(b"2")  # what trickles in is no answer
        assert site.reports == {}
    await site.advance(0.5)
    report = site.reports["one"]
    assert report.stage is stage
    assert report.fault is not None
    assert report.fault.kind is FaultKind.TIMEOUT
    assert up.closed


@on_a_loop
async def test_idle_connection_says_good_bye() -> None:
    site = Site(idle_s=30)
    site.start("one")
    up = await site.connection()
    up.take()
    up.heard()
    await site.advance(29)
    assert up.heard() == b""
    await site.advance(1)
    assert up.heard() == b"QUIT\r\n"
    site.start("two")
    await site.settle()
    assert up.heard() == b"", "a connection that said QUIT takes nothing more"
    up.say(b"221 bye\r\n")
    assert up.closed
    (await site.connection(1)).take()
    assert site.codes("two") == [250]


@on_a_loop
async def test_host_that_does_not_answer_quit_is_left() -> None:
    site = Site(idle_s=30)
    site.start("one")
    up = await site.connection()
    up.take()
    await site.advance(30)
    await site.advance(Timeouts().quit_s)
    assert up.closed


@on_a_loop
async def test_connection_is_ended_after_its_share_of_messages() -> None:
    site = Site(max_concurrency=1, messages_per_connection_max=2)
    for key in ("one", "two", "three"):
        site.start(key)
    up = await site.connection()
    up.take(2)
    assert up.heard().endswith(ENDED + b"QUIT\r\n")
    up.say(b"221 bye\r\n")
    (await site.connection(1)).take()
    assert site.codes("three") == [250]


@on_a_loop
async def test_sending_is_noted_directly_before_the_end_of_data() -> None:
    site = Site()
    seen: list[bytes] = []
    site.start("one")
    up = await site.connection()
    site.on_sending = lambda transaction: seen.append(b"".join(up.writes))
    up.say(b"250 ok\r\n250 ok\r\n")
    assert site.sending == []
    up.say(b"354 go\r\n")
    assert seen == [ENVELOPE]
    assert up.heard() == ENVELOPE + ENDED


@on_a_loop
async def test_what_cannot_be_noted_as_sending_is_not_sent() -> None:
    def fail(transaction: Transaction) -> None:
        raise OSError(28, "No space left on device")

    site = Site()
    site.on_sending = fail
    site.start("one")
    up = await site.connection()
    up.say(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert up.heard() == ENVELOPE
    assert up.closed
    report = site.reports["one"]
    assert report.stage is Stage.CONTENT
    assert report.fault is not None
    assert report.fault.kind is FaultKind.CONTENT_UNREADABLE


@on_a_loop
async def test_next_envelope_leaves_with_the_content_once_the_host_is_known_to_be_prompt() -> None:
    site = Site(max_concurrency=1)
    assert site.relay.free() == 1
    for key in ("one", "two", "three"):
        site.start(key)
    up = await site.connection()
    up.take()
    assert site.relay.free() == 0
    up.heard()
    up.say(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert up.heard() == ENDED + ENVELOPE
    up.say(b"250 two\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    up.say(b"250 three\r\n")
    assert set(site.reports) == {"one", "two", "three"}
    assert site.relay.free() == 2, "one more may come behind the first"


@on_a_loop
async def test_slow_host_gets_one_envelope_at_a_time() -> None:
    site = Site(max_concurrency=1)
    for key in ("one", "two", "three"):
        site.start(key)
    up = await site.connection()
    for _ in range(2):
        up.heard()
        up.say(b"250 ok\r\n250 ok\r\n354 go\r\n")
        assert up.heard() == ENDED
        await site.advance(PROMPT_S)
        up.say(b"250 queued\r\n")
    assert up.heard() == ENVELOPE
    assert site.relay.free() == 0


@on_a_loop
async def test_stall_consumes_no_other_slot_than_its_own() -> None:
    site = Site(max_concurrency=1)
    for key in ("one", "two", "three"):
        site.start(key)
    up = await site.connection()
    up.take()
    up.say(b"250 ok\r\n250 ok\r\n354 go\r\n")  # "two" is in the host's hands, "three" behind it
    site.start("four")
    await site.advance(BEHIND_S)
    assert site.relay.free() == 0
    up.say(b"250 queued\r\n")
    await site.settle()
    assert site.codes("two") == [250]
    assert up.closed, "it had an envelope without a content"
    (await site.connection(1)).take(2)
    assert [site.codes(key) for key in ("three", "four")] == [[250], [250]]
    assert sorted(site.sending) == ["four", "one", "three", "two"]


@on_a_loop
async def test_transaction_taken_back_goes_to_a_connection_that_is_idle() -> None:
    site = Site(max_concurrency=2)
    site.start("one")
    first = await site.connection(0)
    first.take()
    site.start("two")
    site.start("other")
    second = await site.connection(1)
    site.start("three")
    first.heard()
    first.say(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert first.heard() == ENDED + ENVELOPE
    second.take()
    second.heard()
    await site.advance(BEHIND_S)
    assert second.heard() == ENVELOPE
    second.take()
    assert site.codes("three") == [250]


@on_a_loop
async def test_done_may_start_the_next_one() -> None:
    site = Site(max_concurrency=1)
    site.on_done = lambda key: site.start(key + "i") if len(key) < 4 else None
    site.start("i")
    up = await site.connection()
    up.take(4)
    assert set(site.reports) == {"i", "ii", "iii", "iiii"}
    assert site.network.attempts == 1


@on_a_loop
async def test_nothing_is_called_back_within_start() -> None:
    site = Site(max_concurrency=1)
    site.start("one")
    up = await site.connection(0, "PIPELINING", "SIZE 100")
    up.take()
    site.start("large", content=b"x" * 200)
    assert "large" not in site.reports
    await site.settle()
    report = site.reports["large"]
    assert report.fault is not None
    assert report.fault.kind is FaultKind.UNSUITED
    site.start("two")
    up.take()
    assert site.codes("two") == [250]


@on_a_loop
async def test_host_that_breaks_on_groups_is_spoken_to_in_lock_step() -> None:
    site = Site()
    site.start("one")
    up = await site.connection()
    up.say(b"250 ok\r\n503 5.5.1 mail first\r\n")
    assert up.closed
    again = await site.connection(1)
    assert again.heard() == ENVELOPE.partition(b"RCPT")[0]
    again.say(b"250 ok\r\n")
    again.say(b"250 ok\r\n")
    again.say(b"354 go\r\n")
    again.say(b"250 ok\r\n")
    assert site.codes("one") == [250]
    assert site.sending == ["one"]


@on_a_loop
async def test_content_with_a_bare_newline_is_not_sent() -> None:
    site = Site()
    site.start("one", content=b"a\n.\n\r\nMAIL FROM:<evil@example>\r\n")
    up = await site.connection()
    up.heard()
    up.say(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert up.heard() == b""
    report = site.reports["one"]
    assert report.fault is not None
    assert report.fault.kind is FaultKind.UNSUITED
    assert site.sending == []


@on_a_loop
async def test_close_reports_what_waits_and_lets_finish_what_is_under_way() -> None:
    site = Site(max_concurrency=1)
    for key in ("one", "waits"):
        site.start(key)
    up = await site.connection()
    up.heard()
    closing = asyncio.ensure_future(site.relay.close(60))
    await site.settle()
    assert site.reports["waits"].stage is Stage.CONNECT
    assert site.relay.free() == 0
    site.start("late")
    await site.settle()
    assert site.reports["late"].stage is Stage.CONNECT
    up.take()
    assert up.heard() == ENDED + b"QUIT\r\n"
    up.say(b"221 bye\r\n")
    await site.settle()
    assert closing.done()
    assert site.codes("one") == [250]


@on_a_loop
async def test_close_cuts_what_does_not_finish_in_time() -> None:
    site = Site()
    site.start("sent")
    site.start("begun")
    site.start("dialled")
    first, second = await site.connection(0), await site.connection(1)
    first.say(b"250 ok\r\n250 ok\r\n354 go\r\n")
    closing = asyncio.ensure_future(site.relay.close(60))
    await site.settle()
    assert not closing.done()
    await site.advance(60)
    await closing
    assert (site.reports["sent"].stage, site.codes("sent")) == (Stage.END_OF_DATA, [None])
    assert site.reports["begun"].stage is Stage.MAIL
    assert site.reports["dialled"].stage is Stage.CONNECT
    assert first.closed
    assert second.closed
    assert site.network.connections[2].closed


@on_a_loop
async def test_blind_content_is_noted_as_sending_before_its_envelope_leaves() -> None:
    site = Site(chunking="always")
    site.start("one")
    up = await site.connection(0, "PIPELINING", "CHUNKING")
    assert up.heard().endswith(b"BDAT 22 LAST\r\n" + CONTENT)
    up.say(b"250 ok\r\n250 ok\r\n250 queued\r\n")
    site.start("two")
    assert site.sending == ["one"], "not within start"
    await site.settle()
    assert site.sending == ["one", "two"]
    up.drop()
    assert (site.reports["two"].stage, site.codes("two")) == (Stage.END_OF_DATA, [None])


@on_a_loop
async def test_many_answers_in_one_piece_lose_no_connection_and_no_message() -> None:
    site = Site(chunking="always", max_concurrency=1)
    site.start("one")
    up = await site.connection(0, "PIPELINING", "CHUNKING")
    up.say(b"250 ok\r\n250 ok\r\n250 queued\r\n")
    for key in ("two", "three"):
        site.start(key)
    await site.settle()
    assert up.heard().count(b"BDAT") == 3
    up.say(b"250 ok\r\n" * 7)
    assert set(site.reports) == {"one", "two", "three"}
    site.start("four")
    await site.settle()
    up.say(b"250 ok\r\n" * 3)
    assert site.codes("four") == [250]
    up.heard()
    closing = asyncio.ensure_future(site.relay.close(60))
    await site.settle()
    assert up.heard() == b"QUIT\r\n"
    up.say(b"221 bye\r\n")
    await closing
