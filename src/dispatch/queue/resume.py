"""Begin where the last run ended: hand what recovery found back to the scheduler.

What recovery read is turned into ledger records first (what became uncertain, who is quarantined) and
then into works, changes of the parked store and a trial of the suspects, in the same way in which a
run would have done it.

Nothing is started or claimed before all of that is on stable storage: a parked delivery that has just become
uncertain still looks like one that is due.
"""

from __future__ import annotations

from functools import partial

import msgspec

from dispatch.mail.delivery import DeliveryState, Move
from dispatch.mail.ids import MessageId, spool_form
from dispatch.mail.message import ContentFile
from dispatch.queue.in_hand import Suspect
from dispatch.queue.moves import after_move
from dispatch.queue.recovery import Recovered
from dispatch.queue.replay import Standing, follow_record
from dispatch.queue.scheduler import Scheduler, Seams
from dispatch.queue.settle import settle_by_policy
from dispatch.queue.trial import Trial
from dispatch.queue.work import LogOwned, Work, by_relay, fresh_deliveries, parked_work
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
        self._tried: list[tuple[Suspect, Work]] = []
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
            self._stand(standing, recovered.sent.get(standing.message.id, set()))
        self._scheduler.abandoned(freed)
        for entry in recovered.unreadable:
            self._scheduler.take(entry)
        claimed = recovered.claimed if power else {}
        for message_id in recovered.sent.keys() | claimed.keys() | self._suspects.keys():
            sent, doubtful = recovered.sent.get(message_id, set()), claimed.get(message_id, set())
            self._mend_parked(message_id, sent, doubtful)
        on_trial = {work.message.id for _, work in self._tried}
        parked = [suspect for suspect in self._suspects.values() if suspect.id not in on_trial]
        self._s.book.once_durable(partial(self._claim_suspects, parked))

    # ---------------------------------------------------------------- what the log owns

    def _stand(self, standing: Standing, sent: set[int]) -> None:
        """A message that is still the log's."""
        message = standing.message
        # Whether the parked store needs the content file, too, is not known here: it will be asked.
        owner = self._scheduler.custody.own(standing.lsn, message, standing.gone, shared_file=True)
        owner.history = standing.history
        rows: dict[int, ParkedDelivery] = {}
        for route, indexes in self._s.route(message):
            relay = "" if route.held else route.relays[0]
            left = tuple(index for index in indexes if index not in owner.decided)
            found = {row.index: row for row in fresh_deliveries(message, left, relay)}
            for record in standing.history:
                found.update(follow_record(found, record))
            doubtful = {index for index, row in found.items() if row.relay} if self._power else set()
            moves = self._mend(message.id, found, sent, doubtful)
            owner.history += moves
            for index, row in found.items():
                held = row.state is _WAITING and not row.relay
                rows[index] = _held(row, route.hold_reason) if held else row
        self._place(owner, rows, message.content_file or standing.content)

    def _place(self, owner: LogOwned, rows: dict[int, ParkedDelivery], content: bytes | ContentFile) -> None:
        """What is due stands in line, a suspect goes on trial, the rest goes to the parked store."""
        message = owner.message
        suspect = self._suspects.get(message.id)
        for group in by_relay(tuple(rows.values())):
            waiting = tuple(row for row in group if row.state is _WAITING)
            if suspect is not None and waiting and not self._on_trial(message.id):
                self._tried.append((suspect, Work(message, waiting, content, owner)))
                due = waiting
            else:
                due = tuple(row for row in waiting if row.due_ms <= self._now_ms)
                if due:
                    self._scheduler.place(Work(message, due, content, owner))
            rest = tuple(row for row in group if row not in due)
            if rest:
                self._scheduler.custody.park(Work(message, rest, content, owner))

    def _on_trial(self, message_id: MessageId) -> bool:
        return bool(self._tried) and self._tried[-1][1].message.id == message_id

    # ---------------------------------------------------------------- what the parked store owns

    def _mend_parked(self, message_id: MessageId, sent: set[int], doubtful: set[int]) -> None:
        parked = self._store.get(message_id, content=False)
        if parked is None:
            return
        rows = {row.index: row for row in parked.deliveries if not row.state.final}
        before = dict(rows)
        self._mend(message_id, rows, sent, doubtful)
        changed = tuple(row for index, row in rows.items() if row is not before[index])
        if changed:
            self._scheduler.custody.change(Update(message_id, changed))

    def _claim_suspects(self, parked: list[Suspect]) -> None:
        """Behind every change that was made above; then the trial begins, or the usual work."""
        ids = [suspect.id for suspect in parked if not suspect.guilty]

        def failed(_: Exception) -> None:
            # The store cannot say. Mail does not stand still for that: they go on in company.
            claimed([])

        def claimed(found: list[ParkedMessage | None]) -> None:
            taken = {message.message.id: message for message in found if message is not None}
            for suspect in parked:
                message = taken.get(suspect.id)
                if message is None:
                    # Settled in the meantime, quarantined, or not waiting.
                    self._s.in_hand.clear(suspect.slot)
                    continue
                self._tried.append((suspect, parked_work(message)))
            self._scheduler.announce([work for _, work in self._tried if work.owner is None], self._begin)

        self._s.parking.ask(
            lambda store: [store.claim_message(message_id) for message_id in ids],
            claimed,
            failed,
        )

    # ---------------------------------------------------------------- uncertain, quarantined

    def _mend(
        self, message_id: MessageId, rows: dict[int, ParkedDelivery], sent: set[int], doubtful: set[int]
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
            waiting = tuple(index for index, row in rows.items() if row.state is _WAITING)
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
        together: dict[int, list[int]] = {}
        for delivery in deliveries:
            if delivery.state is _WAITING:
                together.setdefault(delivery.due_ms, []).append(delivery.index)
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
                power=True,
            )
            for due_ms, indexes in together.items()
        ]
        for record in records:
            self._s.book.write(record)
        return records

    def _quarantine(self, suspect: Suspect, indexes: tuple[int, ...]) -> Moved:
        state = DeliveryState.QUARANTINED
        moved = Moved(self._now_ms, suspect.id, indexes, Move.QUARANTINE, state, "recovery", POISON)
        self._s.book.write(moved)
        self._s.alarm("message_quarantined", id=spool_form(suspect.id), reason=POISON)
        return moved

    # ---------------------------------------------------------------- the trial

    def _begin(self) -> None:
        if self._tried:
            scheduler = self._scheduler

            def over() -> None:
                scheduler.trial = None
                scheduler.look_again()

            scheduler.trial = Trial(self._s.clock, self._s.in_hand, self._tried, self._start, over)
            self._s.clock.call_later(0, scheduler.trial.next)
        self._scheduler.thaw()

    def _start(self, work: Work) -> bool:
        scheduler, now_s = self._scheduler, self._s.clock.monotonic()
        lane = scheduler.lanes.get(work.relay)
        if scheduler.stopping or lane is None or lane.slots(now_s) < 1:
            scheduler.return_work(work)
            return False
        scheduler.start(lane, work, now_s)
        return True


def _held(row: ParkedDelivery, reason: str | None) -> ParkedDelivery:
    return msgspec.structs.replace(row, state=DeliveryState.HELD, reason=reason or row.reason)
