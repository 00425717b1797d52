"""The books of the two ends held against the ledger, and both against history.

What must hold once nothing is under way any more:

- every acknowledged message is in the ledger, every recipient of the ledger was delivered once by its word,
  and has arrived;
- a copy that arrived again is *uncertain* in the ledger, once for each time; or it had arrived before a power
  cut, and the ledger calls it *uncertain (power)* behind that cut;
- what arrived without having been acknowledged was *unanswered* to its client, as often;
- a copy that arrived again came to the upstream where it was before, unless a power cut is between;
- what was refused did not arrive, and what arrived is as it was offered;
- history has counted everything once;
- `dispatch spool verify` and `dispatch ledger verify` find nothing;
- no process has died but by our hand.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.scenarios.books import Books, Copy
from tests.scenarios.recipe import recipients_of
from tests.scenarios.relay import Relay

from dispatch.app.folders import LEDGER, Folders
from dispatch.mail.delivery import DeliveryState
from dispatch.mail.ids import MessageId, spool_form
from dispatch.mail.message import Message
from dispatch.queue.replay import Records
from dispatch.runtime.machine import MarkFile, SystemDisk
from dispatch.spool.reader import SegmentReader
from dispatch.spool.records import Accepted, Attempted, Moved


class LedgerBooks:
    """What the ledger says, counted."""

    def __init__(self) -> None:
        self.addresses: dict[str, tuple[str, ...]] = {}
        """Of each message that was accepted."""
        self.delivered: Counter[Copy] = Counter()
        self.uncertain: Counter[str] = Counter()
        """Id to how often a recipient of it became uncertain."""
        self.uncertain_copies: Counter[Copy] = Counter()
        self.power_ms: dict[Copy, list[int]] = {}
        """When it was called *uncertain (power)*."""

    def enter(self, record: object) -> None:
        match record:
            case Accepted(message=message, at_ms=at_ms, power=power):
                self._accepted(message)
                if power:
                    self._lost_power(message.id, tuple(range(len(message.envelope.recipients))), at_ms)
            case Attempted(id=message_id, results=results):
                for result in results:
                    self._entered(message_id, result.indexes, result.state)
            case Moved(id=message_id, indexes=indexes, state=state, at_ms=at_ms, power=power):
                self._entered(message_id, indexes, state)
                if power:
                    self._lost_power(message_id, indexes, at_ms)

    def _accepted(self, message: Message) -> None:
        addresses = tuple(recipient.address for recipient in message.envelope.recipients)
        self.addresses[spool_form(message.id)] = addresses

    def _copies(self, message_id: MessageId, indexes: tuple[int, ...]) -> list[Copy]:
        name = spool_form(message_id)
        addresses = self.addresses.get(name, ())
        return [Copy(name, addresses[index]) for index in indexes if index < len(addresses)]

    def _entered(self, message_id: MessageId, indexes: tuple[int, ...], state: DeliveryState) -> None:
        if state is DeliveryState.DELIVERED:
            self.delivered.update(self._copies(message_id, indexes))
        elif state is DeliveryState.UNCERTAIN:
            self.uncertain[spool_form(message_id)] += len(indexes)
            self.uncertain_copies.update(self._copies(message_id, indexes))

    def _lost_power(self, message_id: MessageId, indexes: tuple[int, ...], at_ms: int) -> None:
        for copy in self._copies(message_id, indexes):
            self.power_ms.setdefault(copy, []).append(at_ms)

    @property
    def counts(self) -> dict[str, int]:
        """As history calls them."""
        return {
            "received": len(self.addresses),
            "delivered": self.delivered.total(),
            "uncertain": self.uncertain.total(),
            "uncertain_power": sum(map(len, self.power_ms.values())),
        }


def read_ledger(data: Path) -> LedgerBooks:
    """Of a relay that has stopped. What cannot be read is passed over: `spool verify` tells of that."""
    mark = MarkFile(Folders(data).ledger_durable, writable=False)
    reader = SegmentReader(SystemDisk(data), LEDGER, mark=mark)
    books = LedgerBooks()
    for _, record in Records(reader, reader.oldest):
        books.enter(record)
    reader.close()
    mark.close()
    return books


class Audit(NamedTuple):
    books: Books
    ledger: LedgerBooks
    lost: list[str]
    """Acknowledged and not in the ledger; or there, and not delivered by its word; or so, and not arrived."""
    again: dict[Copy, int]
    """Copies to how often too often they arrived."""
    unexplained: list[str]
    """Those for which the ledger has fewer reasons."""
    astray: list[str]
    """Those that came to another upstream, though their relay had sent them whole."""
    repeated: int
    """Messages that arrived beside the acknowledged ones, because their clients had no answer."""
    uninvited: list[str]
    """What arrived and nobody had offered, or more often than was offered without an answer."""
    miscounted: dict[str, tuple[int, int]]
    """Kind to what the ledger says and what history has counted, where they differ."""
    unsound: list[str]
    """What `verify` says of the logs."""
    died: list[str]
    """Processes that nobody had killed, and why."""

    @property
    def faults(self) -> dict[str, list[str]]:
        """What must not be, by its name."""
        miscounted = [
            f"{kind}: ledger {ours}, history {its}" for kind, (ours, its) in self.miscounted.items()
        ]
        return {
            "LOST": self.lost,
            "DOUBLED WITHOUT A NAME": self.unexplained,
            "SENT ELSEWHERE AS WELL": self.astray,
            "DELIVERED UNINVITED": self.uninvited,
            "DAMAGED": self.books.damaged,
            "MISCOUNTED IN HISTORY": miscounted,
            "LOGS UNSOUND": self.unsound,
            "DIED BY THEMSELVES": self.died,
        }

    @property
    def again_after_cuts(self) -> int:
        """How many arrivals too many are not *uncertain*, and left to power cuts."""
        return sum(max(0, more - self.ledger.uncertain_copies[copy]) for copy, more in self.again.items())


def audit(relay: Relay, books: Books) -> Audit:
    """Of a relay that has stopped, with nothing left to do."""
    unsound = []
    for log in ("spool", "ledger"):
        done = relay.cli_result(log, "verify")
        if done.returncode:
            *_, last = ["", *(done.stdout + done.stderr).decode().splitlines()]
            unsound.append(f"{log} verify: {done.returncode}, {last}")
    ledger = read_ledger(relay.data)
    history = relay.json("stats", "--days", "2")["total"]
    again = {copy: len(taken) - 1 for copy, taken in books.taken.items() if len(taken) > 1}
    unexplained = [
        f"{copy.message_id} {copy.address}: before cuts {books.taken[copy]}, uncertain "
        f"{ledger.uncertain_copies[copy]} times, uncertain (power) at {ledger.power_ms.get(copy, [])}"
        for copy, more in again.items()
        if more > _reasons(copy, books, ledger)
    ]
    repeated, uninvited = _uninvited(books)
    return Audit(
        books,
        ledger,
        lost=_lost(books, ledger),
        again=again,
        unexplained=unexplained,
        astray=[f"{copy.message_id} {copy.address}" for copy in again if _astray(copy, books)],
        repeated=repeated,
        uninvited=uninvited,
        miscounted={
            kind: (count, history[kind]) for kind, count in ledger.counts.items() if count != history[kind]
        },
        unsound=unsound,
        died=_died(relay),
    )


def _died(relay: Relay) -> list[str]:
    fatal = relay.said("child_fatal")
    told = {"SIGKILL", *(f"exit {line['code']}" for line in fatal)}
    died = [f"{line['role']}: …{line['why'][-300:]}" for line in fatal]
    return died + [
        f"{line['role']}: {line['how']}" for line in relay.said("child_died") if line["how"] not in told
    ]


def _reasons(copy: Copy, books: Books, ledger: LedgerBooks) -> int:
    """How many arrivals of it the ledger calls doubtful.

    A cut takes one arrival at most out of the ledger: nothing is tried anew before that knows durably what
    became of the last time. It may take an earlier cut's mark, too: one mark speaks for all cuts before."""
    marked_ms = max(ledger.power_ms.get(copy, ()), default=0)
    ended_by_cuts = {period for period in books.taken[copy] if period < len(books.cuts_ms)}
    return ledger.uncertain_copies[copy] + sum(books.cuts_ms[period] <= marked_ms for period in ended_by_cuts)


def _astray(copy: Copy, books: Books) -> bool:
    """It came to two upstreams with no power cut between: what may have arrived never fails over.

    A cut may take from the ledger where the copy stood, and then it is tried from its route's beginning."""
    arrivals = itertools.pairwise(zip(books.taken[copy], books.places[copy], strict=True))
    return any(
        cuts == cuts_then and place != place_then for (cuts, place), (cuts_then, place_then) in arrivals
    )


def _lost(books: Books, ledger: LedgerBooks) -> list[str]:
    lost = [
        f"{message_id}, token {token}: acknowledged, and not in the ledger"
        for token, message_id in books.acknowledged.items()
        if message_id not in ledger.addresses
    ]
    for message_id, addresses in ledger.addresses.items():
        for copy in (Copy(message_id, address) for address in addresses):
            if ledger.delivered[copy] != 1:
                lost.append(f"{message_id} {copy.address}: delivered {ledger.delivered[copy]} times")
            elif copy not in books.taken:
                lost.append(f"{message_id} {copy.address}: delivered, and never arrived")
    return lost


def _uninvited(books: Books) -> tuple[int, list[str]]:
    """How many messages arrived without having been acknowledged; and those that nobody had offered."""
    beside: Counter[int] = Counter(
        token for message_id, token in books.tokens.items() if books.acknowledged.get(token) != message_id
    )
    uninvited = [
        f"token {token}: {count} messages beside the acknowledged, {books.unanswered[token]} unanswered"
        for token, count in beside.items()
        if count > books.unanswered[token]
    ]
    uninvited += [
        f"{copy.message_id} {copy.address}: not a recipient of token {books.tokens[copy.message_id]}"
        for copy in books.taken
        if copy.address not in recipients_of(books.tokens[copy.message_id])
    ]
    return beside.total(), uninvited
