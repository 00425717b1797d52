"""Whatever is done to the parked store, and however often it fails or restarts, it agrees with a dict."""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.unit.store.full_disk import FullDisk
from tests.unit.store.messages import message

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.ids import MessageId
from dispatch.mail.message import PRIORITIES, Message
from dispatch.store.changes import QUEUE_STATES, Change
from dispatch.store.parked import Park, ParkedDelivery, ParkedStore, Settle, Update
from dispatch.store.sqlite import StoreFull

RELAYS = ("smarthost", "other")
STATES = (DeliveryState.WAITING, DeliveryState.WAITING, DeliveryState.HELD, DeliveryState.BOUNCED)
RECIPIENTS = 3
names = count()


def _message(number: int) -> Message:
    """The same number is always the same message; some have nearly the same id."""
    made = message(
        number // 2,
        *(f"r{index}@example.com" for index in range(RECIPIENTS)),
        login=f"login{number % 3}",
        priority=PRIORITIES[number % len(PRIORITIES)],
    )
    twin = MessageId(made.id[:-1] + bytes([number % 2]))
    return message(
        0,
        *(recipient.address for recipient in made.envelope.recipients),
        login=made.origin.login,
        priority=made.priority,
        exact_id=twin,
    )


deliveries = st.builds(
    ParkedDelivery,
    index=st.integers(0, RECIPIENTS - 1),
    state=st.sampled_from(STATES),
    relay=st.sampled_from(RELAYS),
    due_ms=st.integers(0, 20),
    attempts=st.integers(0, 3),
    family=st.just(0),
    since_ms=st.just(0),
    reason=st.sampled_from(["", "why"]),
)
rows = st.lists(deliveries, min_size=1, max_size=RECIPIENTS, unique_by=lambda row: row.index).map(tuple)
messages = st.integers(0, 9).map(_message)
changes = st.one_of(
    st.builds(Park, messages, st.binary(max_size=20), rows),
    st.builds(lambda sent, changed: Update(sent.id, changed), messages, rows),
    st.builds(
        lambda sent, indexes: Settle(sent.id, tuple(sorted(indexes))),
        messages,
        st.sets(st.integers(0, RECIPIENTS - 1), min_size=1),
    ),
)


class ParkedStoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "parked.db"
        self.disk = FullDisk(f"full disk {next(names)}")
        self.store = ParkedStore.open(self.path, vfs=self.disk.name)
        self.rows: dict[MessageId, dict[int, ParkedDelivery]] = {}
        self.content: dict[MessageId, bytes | None] = {}
        self.claimed: set[tuple[MessageId, int]] = set()

    def teardown(self) -> None:
        self.store.close()
        self.disk.unregister()
        self.folder.cleanup()

    @rule(batch=st.lists(changes, max_size=6))
    def apply(self, batch: list[Change]) -> None:
        self.store.apply(batch, 1)
        for change in batch:
            self._follow(change)

    @rule(batch=st.lists(changes, min_size=1, max_size=6), writes=st.integers(0, 3))
    def apply_on_a_full_disk(self, batch: list[Change], writes: int) -> None:
        try:
            with self.disk.full_after(writes):
                self.store.apply(batch, 2)
        except StoreFull:
            return
        for change in batch:
            self._follow(change)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = ParkedStore.open(self.path, vfs=self.disk.name)
        self.claimed.clear()

    @rule(relay=st.sampled_from(RELAYS), now_ms=st.integers(0, 20), limit=st.integers(1, 4))
    def claim(self, relay: str, now_ms: int, limit: int) -> None:
        due = self._due(relay, now_ms)
        found = self.store.claim(relay, now_ms, limit, 1 << 20)
        taken = {(parked.message.id, row.index) for parked in found for row in parked.deliveries}
        assert len(found) == min(limit, len({message_id for message_id, _ in due}))
        for parked in found:
            complete = {index for message_id, index in due if message_id == parked.message.id}
            assert {row.index for row in parked.deliveries} == complete
            assert parked.content == self.content[parked.message.id]
            assert all(self.rows[parked.message.id][row.index] == row for row in parked.deliveries)
        self.claimed |= taken

    @rule(sent=messages)
    def put_back(self, sent: Message) -> None:
        every = tuple(range(len(sent.envelope.recipients)))
        self.store.put_back([(sent.id, every)])
        self.claimed = {key for key in self.claimed if key[0] != sent.id}

    @rule(sent=messages, index=st.integers(0, 2))
    def put_one_back(self, sent: Message, index: int) -> None:
        self.store.put_back([(sent.id, (index,))])
        self.claimed.discard((sent.id, index))

    @rule(sent=messages)
    def claim_message(self, sent: Message) -> None:
        found = self.store.claim_message(sent.id)
        free = [row for row in self._waiting() if row[0] == sent.id]
        assert (found is not None) == bool(free)
        if found is not None:
            self.claimed |= {(sent.id, row.index) for row in found.deliveries}

    @invariant()
    def everything_agrees(self) -> None:
        counts: dict[tuple[str, DeliveryState], int] = {}
        for parked in self.rows.values():
            for row in parked.values():
                counts[row.relay, row.state] = counts.get((row.relay, row.state), 0) + 1
        assert self.store.counts() == counts
        for relay in RELAYS:
            free = [self.rows[key][index] for key, index in self._waiting()]
            waiting = [row.due_ms for row in free if row.relay == relay]
            assert self.store.next_due_ms(relay) == min(waiting, default=None)
        queued = [
            key for key, parked in self.rows.items() if any(r.state in QUEUE_STATES for r in parked.values())
        ]
        assert sorted(self.store.ids()) == sorted(queued)

    def _follow(self, change: Change) -> None:
        match change:
            case Park():
                known = self.rows.setdefault(change.id, {})
                self.content.setdefault(change.id, change.content)
                known.update({row.index: row for row in change.deliveries})
                named = {row.index for row in change.deliveries}
            case Update():
                known = self.rows.get(change.id, {})
                known.update({row.index: row for row in change.deliveries if row.index in known})
                named = {row.index for row in change.deliveries}
            case Settle():
                known = self.rows.get(change.id, {})
                for index in change.indexes:
                    known.pop(index, None)
                named = set(change.indexes)
        if not known:
            self.rows.pop(change.id, None)
            self.content.pop(change.id, None)
        self.claimed -= {(change.id, index) for index in named}

    def _waiting(self) -> set[tuple[MessageId, int]]:
        """Waiting, and not in hand."""
        return {
            (message_id, row.index)
            for message_id, parked in self.rows.items()
            for row in parked.values()
            if row.state is DeliveryState.WAITING and (message_id, row.index) not in self.claimed
        }

    def _due(self, relay: str, now_ms: int) -> set[tuple[MessageId, int]]:
        rows = self.rows
        return {
            (message_id, index)
            for message_id, index in self._waiting()
            if rows[message_id][index].relay == relay and rows[message_id][index].due_ms <= now_ms
        }


TestParkedStore = ParkedStoreMachine.TestCase
TestParkedStore.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
