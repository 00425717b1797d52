"""Begin where the last run ended: hand what recovery found back to the scheduler.

What recovery read is turned into ledger records first (what became uncertain, who is quarantined) and
then into works, changes of the parked store and a trial of the suspects, in the same way in which a
run would have done it.

Nothing is started or claimed before all of that is on stable storage: a parked delivery that has just become
uncertain still looks like one that is due.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import msgspec

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.ids import MessageId, spool_form
from dispatch.mail.message import ContentFile
from dispatch.policy.routing import Action
from dispatch.queue.in_hand import Suspect
from dispatch.queue.moves import after_move
from dispatch.queue.recovery import Recovered
from dispatch.queue.replay import Standing, follow_record
from dispatch.queue.scheduler import Scheduler, Seams
from dispatch.queue.settle import settle_by_policy
from dispatch.queue.trial import Trial
from dispatch.queue.work import LogOwned, Work, at_relay, by_relay, fresh_deliveries, parked_work
from dispatch.spool.records import Moved
from dispatch.store.parked import ParkedDelivery, ParkedMessage, ParkedStore, Update

LOST_REPLY = "the process ended between the end of data and the outcome"
LOST_POWER = "the machine lost power: it may have been delivered without a trace"
POISON = "was in hand, alone, each of the last three times that delivery died"

_WAITING = DeliveryState.WAITING


class Resumption:
    """One start. Uses the parked store directly: nothing else runs yet."""

    def __init__(self, seams: Seams, scheduler: Scheduler, store: ParkedStore, now_ms: int) -> None:
        self._s = seams
        self._scheduler = scheduler
        self._store = store
        self._now_ms = now_ms
        self._suspects = {suspect.id: suspect for suspect in seams.in_hand.suspects()}
        self._tried: dict[MessageId, list[Work]] = {}
        """What runs alone of each suspect: a work for each relay that it waits for."""
        self._set_aside: set[MessageId] = set()
        """Quarantined, and told of."""
        self._power = False

    def run(self, recovered: Recovered, *, power: bool) -> None:
        """Put everything in its place; the scheduler may be woken afterwards.

        `power`: the machine was started anew since the last recovery whose findings became durable.
        """
        self._power = power
        self._scheduler.freeze()
        freed: list[ContentFile] = []
        if recovered.changes:
            freed = self._store.apply(recovered.changes, self._s.book.durable_lsn)
        for standing in recovered.standing:
            self._stand(standing, recovered.sent.get(standing.message.id, {}))
        self._scheduler.abandoned(freed)
        for entry in recovered.unreadable:
            self._scheduler.take(entry, self._now_ms)
        claimed = recovered.claimed if power else {}
        for message_id in recovered.sent.keys() | claimed.keys() | self._suspects.keys():
            sent, doubtful = recovered.sent.get(message_id, {}), claimed.get(message_id, set())
            self._mend_parked(message_id, sent.keys(), doubtful)
        self._s.book.once_durable(self._claim_suspects)

    # ---------------------------------------------------------------- what the log owns

    def _stand(self, standing: Standing, sent: dict[int, str]) -> None:
        """A message that is still the log's. What was tried stays with its relay; the rest is routed anew."""
        message = standing.message
        # Whether the parked store needs the content file, too, is not known here: it will be asked.
        owner = self._scheduler.custody.own(standing.lsn, message, standing.gone, shared_file=True)
        owner.history = standing.history
        content = message.content_file or standing.content
        rows: dict[int, ParkedDelivery] = {}
        for route, indexes in self._s.route(message):
            relay = "" if route.held else route.relays[0]
            left = tuple(index for index in indexes if index not in owner.decided)
            found = {row.index: row for row in fresh_deliveries(message, left, relay)}
            for record in standing.history:
                found.update(follow_record(found, record))
            for index in sent.keys() & found.keys():
                found[index] = at_relay(found[index], sent[index] or found[index].relay)
            # Also what no relay gets now: the rules may be other ones than those it went by.
            doubtful = set(found) if self._power else set()
            moves = self._mend(message.id, found, sent.keys(), doubtful)
            owner.history += moves
            never = route.action is Action.SUPPRESS
            kept = tuple(row for row in found.values() if row.state is _WAITING and (never or not row.relay))
            if kept:
                self._scheduler.keep_from_relays(route, Work(message, kept, content, owner))
            rows.update((index, row) for index, row in found.items() if row not in kept)
        self._place(owner, rows, content)

    def _place(self, owner: LogOwned, rows: dict[int, ParkedDelivery], content: bytes | ContentFile) -> None:
        """What is due stands in line, a suspect goes on trial, the rest goes to the parked store."""
        message = owner.message
        suspect = self._suspects.get(message.id)
        for group in by_relay(tuple(rows.values())):
            waiting = tuple(row for row in group if row.state is _WAITING)
            if suspect is not None and waiting:
                self._tried.setdefault(message.id, []).append(Work(message, waiting, content, owner))
                due = waiting
            else:
                due = tuple(row for row in waiting if row.due_ms <= self._now_ms)
                if due:
                    self._scheduler.place(Work(message, due, content, owner))
            rest = tuple(row for row in group if row not in due)
            if rest:
                self._scheduler.custody.park(Work(message, rest, content, owner))

    # ---------------------------------------------------------------- what the parked store owns

    def _mend_parked(self, message_id: MessageId, sent: Set[int], doubtful: set[int]) -> None:
        parked = self._store.get(message_id, content=False)
        if parked is None:
            return
        rows = {row.index: row for row in parked.deliveries if not row.state.final}
        before = dict(rows)
        self._mend(message_id, rows, sent, doubtful)
        changed = tuple(row for index, row in rows.items() if row is not before[index])
        if changed:
            self._scheduler.custody.change(Update(message_id, changed))

    def _claim_suspects(self) -> None:
        """Behind every change that was made above; then the trial begins, or the usual work."""
        ids = [suspect.id for suspect in self._suspects.values() if not suspect.guilty]
        found: list[ParkedMessage] = []

        def claim(store: ParkedStore) -> None:
            for message_id in ids:
                # A claim takes what waits for one relay.
                while (parked := store.claim_message(message_id)) is not None:
                    found.append(parked)

        def claimed(_: object) -> None:
            # Also where the store failed: mail does not stand still for that. The others go on in company.
            for parked in found:
                self._tried.setdefault(parked.message.id, []).append(parked_work(parked))
            works = [work for works in self._tried.values() for work in works if work.owner is None]
            self._scheduler.announce(works, self._begin)

        self._s.parking.ask(claim, claimed, claimed)

    # ---------------------------------------------------------------- uncertain, quarantined

    def _mend(
        self, message_id: MessageId, rows: dict[int, ParkedDelivery], sent: Set[int], doubtful: set[int]
    ) -> tuple[Moved, ...]:
        """What the end of the last run did to these deliveries; the records are written.

        `sent` left us, and `doubtful` may have: of them only *sending* can say it, and it is lost.
        """
        moves: list[Moved] = []
        for index in sorted(sent & rows.keys()):
            rows[index], records = self._uncertain(message_id, rows[index])
            moves += records
        unseen = [rows[index] for index in sorted((doubtful - sent) & rows.keys())]
        for moved in self._doubt(message_id, unseen):
            rows.update({index: after_move(rows[index], moved) for index in moved.indexes})
            moves.append(moved)
        suspect = self._suspects.get(message_id)
        if suspect is not None and suspect.guilty:
            # What has no relay is going to be held: it was not in hand.
            waiting = tuple(index for index, row in rows.items() if row.state is _WAITING and row.relay)
            if waiting:
                moved = self._quarantine(suspect, waiting)
                moves.append(moved)
                rows.update({index: after_move(rows[index], moved) for index in waiting})
        return tuple(moves)

    def _uncertain(
        self, message_id: MessageId, delivery: ParkedDelivery
    ) -> tuple[ParkedDelivery, list[Moved]]:
        records: list[Moved] = []
        if delivery.state is not DeliveryState.UNCERTAIN:
            records.append(
                Moved(
                    self._now_ms,
                    message_id,
                    (delivery.index,),
                    Move.LOSE_REPLY,
                    DeliveryState.UNCERTAIN,
                    "recovery",
                    LOST_REPLY,
                    relay=delivery.relay or None,
                )
            )
            delivery = after_move(delivery, records[0])
        lane = self._scheduler.lanes.get(delivery.relay)
        policy = settle_by_policy(
            message_id,
            delivery,
            self._s.plan if lane is None else lane.rules.plan,
            "retry" if lane is None else lane.rules.uncertain,
            self._now_ms,
            self._s.chance.uniform(),
        )
        policy = msgspec.structs.replace(policy, relay=delivery.relay or None)
        if policy.move is Move.RETRY and message_id in self._suspects:
            # It is tried alone, first of all: who is innocent must not wait in the shadow of a suspicion.
            policy = msgspec.structs.replace(policy, due_ms=self._now_ms)
        records.append(policy)
        for record in records:
            self._s.book.write(record)
        self._scheduler.uncertain += 1
        return after_move(delivery, policy), records

    def _doubt(self, message_id: MessageId, deliveries: list[ParkedDelivery]) -> list[Moved]:
        """They wait on as they did; that they may have been tried is on record before they are again."""
        together: dict[tuple[int, str], list[int]] = {}
        for delivery in deliveries:
            if delivery.state is _WAITING:
                together.setdefault((delivery.due_ms, delivery.relay), []).append(delivery.index)
        records = [
            Moved(
                self._now_ms,
                message_id,
                tuple(indexes),
                Move.RETRY,
                _WAITING,
                "recovery",
                LOST_POWER,
                due_ms,
                relay or None,
                power=True,
            )
            for (due_ms, relay), indexes in together.items()
        ]
        for record in records:
            self._s.book.write(record)
        return records

    def _quarantine(self, suspect: Suspect, indexes: tuple[int, ...]) -> Moved:
        state = DeliveryState.QUARANTINED
        moved = Moved(self._now_ms, suspect.id, indexes, Move.QUARANTINE, state, "recovery", POISON)
        self._s.book.write(moved)
        if suspect.id not in self._set_aside:
            self._set_aside.add(suspect.id)
            self._s.alarm("message_quarantined", id=spool_form(suspect.id), reason=POISON)
        return moved

    # ---------------------------------------------------------------- the trial

    def _begin(self) -> None:
        line: list[tuple[Suspect, Work]] = []
        for suspect in self._suspects.values():
            works = self._tried.get(suspect.id)
            if works is None:
                # Settled in the meantime, quarantined, or not waiting.
                self._s.in_hand.clear(suspect.slot)
                continue
            works = [part for work in works for part in self._apart(work)]
            self._s.in_hand.share(suspect.slot, len(works))
            line += [(suspect, work) for work in works]
        if line:
            scheduler = self._scheduler

            def over() -> None:
                scheduler.trial = None
                scheduler.look_again()

            scheduler.trial = Trial(self._s.clock, self._s.in_hand, line, self._start, over)
            self._s.clock.call_later(0, scheduler.trial.next)
        self._scheduler.thaw()

    def _apart(self, work: Work) -> Sequence[Work]:
        lane = self._scheduler.lanes.get(work.relay)
        return (work,) if lane is None else lane.apart(work)

    def _start(self, work: Work) -> bool:
        scheduler, now_s = self._scheduler, self._s.clock.monotonic()
        lane = scheduler.lanes.get(work.relay)
        if scheduler.stopping or lane is None or lane.slots(now_s) < 1:
            scheduler.return_work(work)
            return False
        scheduler.start(lane, work, now_s, int(self._s.clock.wall() * 1000))
        return True
