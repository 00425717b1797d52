"""What is ready to leave and waits until the queue has it on record: it leaves then, whole, or never."""

from __future__ import annotations

import asyncio

from tests.unit.relays.memory_upstream import GROUP, MemoryConnection, MemoryFile, Site
from tests.unit.relays.test_smtp_relay import on_a_loop
from tests.unit.smtp.client_talk import CONTENT

from dispatch.mail.message import ContentFile
from dispatch.mail.report import FaultKind, Stage
from dispatch.ports import Transaction

ENVELOPE = GROUP % len(CONTENT)
ENDED = CONTENT + b".\r\n"
GO = b"250 ok\r\n250 ok\r\n354 go\r\n"
BLIND = (b"BDAT %d LAST\r\n" % len(CONTENT)) + CONTENT


async def undecided(*keys: str, **settings: object) -> tuple[Site, MemoryConnection]:
    """A relay whose first transaction is ready to leave, and is not on record yet; the others wait."""
    site = Site(max_concurrency=1, **settings)
    site.undecided = True
    for key in keys:
        site.start(key)
    up = await site.connection()
    up.say(GO)
    assert site.asked == [keys[0]]
    assert up.heard() == ENVELOPE
    return site, up


@on_a_loop
async def test_end_of_data_leaves_as_soon_as_it_is_on_record() -> None:
    site, up = await undecided("one")
    await site.settle()
    assert up.heard() == b""
    site.let_leave()
    assert up.heard() == ENDED
    up.say(b"250 queued\r\n")
    assert site.codes("one") == [250]


@on_a_loop
async def test_all_that_are_ready_leave_together() -> None:
    site = Site(max_concurrency=3)
    site.undecided = True
    for key in ("one", "two", "three"):
        site.start(key)
    ups = [await site.connection(number) for number in range(3)]
    for up in ups:
        up.say(GO)
        assert up.heard() == ENVELOPE
    site.let_leave()
    assert [up.heard() for up in ups] == [ENDED] * 3


@on_a_loop
async def test_nothing_overtakes_the_end_of_data_that_waits() -> None:
    site, up = await undecided("one", "two", "three")
    site.let_leave()
    up.say(b"250 queued\r\n")
    assert up.heard() == ENDED + ENVELOPE
    up.say(GO)
    await site.settle()
    assert (site.asked, up.heard()) == (["one", "two"], b"")
    site.let_leave()
    assert up.heard() == ENDED + ENVELOPE, "the next envelope comes behind it"


@on_a_loop
async def test_connection_that_is_lost_meanwhile_sends_nothing_and_nothing_is_uncertain() -> None:
    site, up = await undecided("one")
    up.drop()
    assert site.reports["one"].stage is Stage.CONTENT
    site.let_leave()
    await site.settle()
    assert up.heard() == b""


@on_a_loop
async def test_transaction_refused_meanwhile_does_not_leave() -> None:
    site, up = await undecided("one")
    up.say(b"552 too much\r\n")
    assert (site.reports["one"].stage, site.codes("one")) == (Stage.CONTENT, [552])
    site.let_leave()
    assert up.heard() == b""
    assert up.closed


@on_a_loop
async def test_relay_that_is_cut_meanwhile_sends_nothing() -> None:
    site, up = await undecided("one")
    closing = asyncio.ensure_future(site.relay.close(0))
    await site.advance(1)
    await closing
    assert site.reports["one"].stage is Stage.CONTENT
    site.let_leave()
    assert up.heard() == b""
    assert up.closed


@on_a_loop
async def test_ledger_that_fails_fails_all_that_wait_for_it() -> None:
    def fail(transaction: Transaction) -> None:
        raise OSError(28, "No space left on device")

    site = Site(max_concurrency=2)
    site.undecided = True
    site.on_sending = fail
    for key in ("one", "two"):
        site.start(key)
    ups = [await site.connection(number) for number in range(2)]
    for up in ups:
        up.say(GO)
    site.let_leave()
    for key, up in zip(("one", "two"), ups, strict=True):
        fault = site.reports[key].fault
        assert fault is not None and fault.kind is FaultKind.CONTENT_UNREADABLE
        assert up.heard() == ENVELOPE
        assert up.closed


@on_a_loop
async def test_large_content_waits_with_its_last_block_only() -> None:
    site = Site()
    site.undecided = True
    large = b"x" * 70 + b"\r\n"
    site.files["c"] = MemoryFile(large * 20_000)
    site.start("m", ContentFile("c", len(large) * 20_000))
    up = await site.connection()
    up.heard()
    up.say(GO)
    while not site.asked:
        await site.settle()
    assert not up.heard().endswith(b"\r\n.\r\n")
    site.let_leave()
    assert up.heard().endswith(b"\r\n.\r\n")
    up.say(b"250 queued\r\n")
    assert site.codes("m") == [250]


@on_a_loop
async def test_blind_content_whose_connection_is_lost_meanwhile_goes_to_another_one() -> None:
    site = Site(chunking="always", max_concurrency=1)
    site.start("one")
    up = await site.connection(0, "PIPELINING", "CHUNKING")
    up.say(b"250 ok\r\n250 ok\r\n250 queued\r\n")
    up.heard()
    site.undecided = True
    site.start("two")
    await site.settle()
    assert (site.asked, up.heard()) == (["one", "two"], b"")
    up.drop()
    site.undecided = False
    other = await site.connection(1, "PIPELINING", "CHUNKING")
    await site.settle()
    assert up.heard() == b""
    assert other.heard().endswith(BLIND)
    other.say(b"250 ok\r\n250 ok\r\n250 queued\r\n")
    assert site.codes("two") == [250]
