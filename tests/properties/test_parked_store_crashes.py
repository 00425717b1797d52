"""The parked store on a disk that tears, fills and fails: what `apply` took is there, whole.

Each seed is the story of one `parked.db` through many lives: changes and claims, deaths of the process at any
disk operation (while a store is being opened too), power cuts, full disks, syncs that fail. A plain model
goes beside it, and the store must agree with it at every opening and after every step:

- `apply` returned: all of its changes are there from now on, with the ledger's LSN that it was given.
- `apply` raised: the store stands where it stood. At the next opening the changes are there as a whole, with
  their LSN, or not at all.
- What a store shows when it has been opened, no power cut takes away.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace

import apsw
import msgspec
import pytest
from tests.simulation.disk import Crash, Operation, SimulatedDisk, SimulatedProcess, io_error
from tests.simulation.vfs import SimulatedVfs, SimulatedVfsFile
from tests.unit.store.messages import message

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.ids import MessageId
from dispatch.store import parked
from dispatch.store.changes import QUEUE_STATES, Change
from dispatch.store.parked import Park, ParkedDelivery, ParkedStore, Settle, Update
from dispatch.store.sqlite import StoreFault, faults, open_database

SEEDS = range(0, 150, 25)
SEEDS_LONG = range(150, 20_150, 200)
STEPS = 40
CHECKPOINT_PAGES = 24
"""So few that most lives see checkpoints, and a WAL that begins anew."""
RELAYS = ("smarthost", "other")
STATES = (DeliveryState.WAITING, DeliveryState.WAITING, DeliveryState.HELD, DeliveryState.BOUNCED)
RECIPIENTS = 3
MESSAGES = [message(number, *(f"r{n}@example.com" for n in range(RECIPIENTS))) for number in range(12)]
NOW_MS = 10


class Shown(msgspec.Struct, frozen=True):
    """All that a store holds."""

    lsn: int
    rows: dict[MessageId, dict[int, ParkedDelivery]]
    content: dict[MessageId, bytes | None]

    def after(self, batch: list[Change], lsn: int) -> Shown:
        rows = {key: dict(deliveries) for key, deliveries in self.rows.items()}
        content = dict(self.content)
        for change in batch:
            known = rows.get(change.id, {})
            match change:
                case Park():
                    rows[change.id] = known
                    content.setdefault(change.id, change.content)
                    known.update({row.index: row for row in change.deliveries})
                case Update():
                    known.update({row.index: row for row in change.deliveries if row.index in known})
                case Settle():
                    for index in change.indexes:
                        known.pop(index, None)
            if not known:
                rows.pop(change.id, None)
                content.pop(change.id, None)
        return Shown(lsn, rows, content)

    def counts(self) -> dict[tuple[str, DeliveryState], int]:
        counts: dict[tuple[str, DeliveryState], int] = {}
        for deliveries in self.rows.values():
            for row in deliveries.values():
                counts[row.relay, row.state] = counts.get((row.relay, row.state), 0) + 1
        return counts


def shown(store: ParkedStore) -> Shown:
    found = {sent.id: store.get(sent.id, content=True) for sent in MESSAGES}
    here = {key: held for key, held in found.items() if held is not None}
    rows = {key: {row.index: row for row in held.deliveries} for key, held in here.items()}
    return Shown(store.ledger_lsn, rows, {key: held.content for key, held in here.items()})


class Story:
    """One database, and what its owner was told of it."""

    def __init__(self, seed: int) -> None:
        self.chance = Random(seed)
        self.disk = SimulatedDisk(seed)
        self.told = Shown(0, {}, {})
        """What must be there."""
        self.untold: list[Shown] = []
        """What may be there instead at the next opening."""
        self.claimed: set[tuple[MessageId, int]] = set()
        self.crash_in: int | None = None
        self.syncs_to_fail = 0
        self.folder_syncs_to_fail = 0
        self.faulty = False
        """In this life the disk misbehaves: the store may raise."""
        self.lives = 0
        self.process: SimulatedProcess
        self.vfs: SimulatedVfs
        self.store: ParkedStore

    # ------------------------------------------------------------ lives

    def start(self) -> None:
        """Until a store is open, and was read."""
        while True:
            self.lives += 1
            self.process = self.disk.process()
            self.disk.fault = self.fault
            self.vfs = SimulatedVfs(self.process, Random(self.lives))
            try:
                self.open()
                return
            except (StoreFault, Crash):
                assert self.faulty
                self.heal()
                self.die()

    def open(self) -> None:
        self.store = ParkedStore.open(Path("parked.db"), vfs=self.vfs.name, disk=self.process)
        (connection,) = self.vfs.connections
        with faults("integrity"):
            assert connection.pragma("integrity_check") == "ok"
        found = shown(self.store)
        assert found in (self.told, *self.untold), "neither what was told nor what was not"
        self.told = found
        self.untold.clear()
        self.claimed.clear()
        self.agree()

    def die(self) -> None:
        power = self.chance.random() < 0.5
        self.process.kill()
        self.vfs.unregister()
        if power:
            self.disk.power_cut()

    def heal(self) -> None:
        self.crash_in = None
        self.syncs_to_fail = self.folder_syncs_to_fail = 0
        self.disk.capacity_bytes = None
        self.faulty = False

    def fault(self, operation: Operation, _: str) -> OSError | None:
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                self.crash_in = None
                raise Crash
        if self.syncs_to_fail and operation == "sync":
            self.syncs_to_fail -= 1
            return io_error()
        if self.folder_syncs_to_fail and operation == "sync_folder":
            self.folder_syncs_to_fail -= 1
            return io_error()
        return None

    def step(self) -> None:
        try:
            self.chance.choices(
                (self.apply, self.claim, self.put_back, self.misfortune, self.restart), (10, 3, 2, 3, 1)
            )[0]()
            if self.process.alive:
                self.agree()
        except StoreFault:
            assert self.faulty, "a fault without a cause"
        if not self.process.alive:
            self.die()
            self.start()

    def end(self) -> None:
        """With a disk that is well, all goes well."""
        self.heal()
        self.apply()
        self.agree()
        self.die()
        self.start()
        self.store.close()
        self.vfs.unregister()
        self.start()
        self.die()

    # ------------------------------------------------------------ steps

    def apply(self) -> None:
        batch = [self.change() for _ in range(self.chance.choice((1, 1, 2, 6)))]
        lsn = self.told.lsn + self.chance.randrange(1, 100)
        after = self.told.after(batch, lsn)
        self.untold.append(after)
        self.store.apply(batch, lsn)
        self.told = after
        self.untold.clear()
        self.claimed -= {(change.id, index) for change in batch for index in indexes_of(change)}

    def change(self) -> Change:
        sent = self.chance.choice(MESSAGES)
        indexes = sorted(self.chance.sample(range(RECIPIENTS), self.chance.randint(1, RECIPIENTS)))
        deliveries = tuple(self.delivery(index) for index in indexes)
        kind = self.chance.random()
        if kind < 0.5:
            content = self.chance.randbytes(self.chance.choice((10, 600, 9000)))
            return Park(sent, content, deliveries)
        if kind < 0.7:
            return Update(sent.id, deliveries)
        return Settle(sent.id, tuple(indexes))

    def delivery(self, index: int) -> ParkedDelivery:
        state, relay = self.chance.choice(STATES), self.chance.choice(RELAYS)
        return ParkedDelivery(index, state, relay, self.chance.randrange(20), 1, 0, 0, "why")

    def claim(self) -> None:
        relay = self.chance.choice(RELAYS)
        for held in self.store.claim(relay, NOW_MS, self.chance.randint(1, 4), 1 << 20):
            assert held.content == self.told.content[held.message.id]
            for row in held.deliveries:
                assert (held.message.id, row.index) not in self.claimed, "in hand already"
                assert self.told.rows[held.message.id][row.index] == row
                assert row.state is DeliveryState.WAITING and row.relay == relay and row.due_ms <= NOW_MS
                self.claimed.add((held.message.id, row.index))

    def put_back(self) -> None:
        back = {key for key in sorted(self.claimed) if self.chance.random() < 0.5}
        self.store.put_back([(key, (index,)) for key, index in back])
        self.claimed -= back

    def restart(self) -> None:
        """Stopped in good order, killed, or cut off."""
        try:
            if self.chance.random() < 0.3:
                self.store.close()
        finally:
            self.process.kill()

    def misfortune(self) -> None:
        kind = self.chance.random()
        self.faulty = True
        if kind < 0.5:
            self.crash_in = self.chance.randrange(60)
        elif kind < 0.7:
            self.syncs_to_fail = self.chance.randint(1, 3)
        elif kind < 0.8:
            self.folder_syncs_to_fail = self.chance.randint(1, 2)
        elif kind < 0.9:
            self.disk.capacity_bytes = self.disk.used_bytes + self.chance.randrange(60_000)
        else:
            self.heal()

    # ------------------------------------------------------------ what must hold

    def agree(self) -> None:
        assert self.store.counts() == self.told.counts()
        assert shown(self.store) == self.told
        queued = [
            key
            for key, rows in self.told.rows.items()
            if any(row.state in QUEUE_STATES for row in rows.values())
        ]
        assert list(self.store.ids()) == sorted(queued)


def indexes_of(change: Change) -> tuple[int, ...]:
    if isinstance(change, Settle):
        return change.indexes
    return tuple(row.index for row in change.deliveries)


def tell(seed: int) -> None:
    story = Story(seed)
    try:
        story.start()
        for _ in range(STEPS):
            story.step()
        story.end()
    except Exception as error:
        error.add_note(f"seed {seed}")
        raise
    finally:
        story.process.kill()
        story.vfs.unregister()


@pytest.fixture(autouse=True)
def _checkpoints_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parked, "CHECKPOINT_PAGES", CHECKPOINT_PAGES)


@pytest.mark.parametrize("first", SEEDS)
def test_what_was_parked_is_there_whole(first: int) -> None:
    for seed in range(first, first + SEEDS.step):
        tell(seed)


@pytest.mark.long
@pytest.mark.parametrize("first", SEEDS_LONG)
def test_what_was_parked_is_there_whole_through_many_stories(first: int) -> None:
    for seed in range(first, first + SEEDS_LONG.step):
        tell(seed)


# ---------------------------------------------------------------- what these stories would find


def _store_that_does_not_sync(patch: pytest.MonkeyPatch) -> None:
    def open_without(*arguments: object, **options: object) -> apsw.Connection:
        connection = open_database(*arguments, **options)  # type: ignore[arg-type]  # handed on as they came
        connection.pragma("synchronous", "OFF")
        return connection

    patch.setattr(parked, "open_database", open_without)


def _disk_that_does_not_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimulatedVfsFile, "xSync", lambda file, flags: None)


def _folder_that_is_not_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimulatedProcess, "sync_folder", lambda process, folder: None)


def _folder_that_is_left_to_sqlite(patch: pytest.MonkeyPatch) -> None:
    """Which passes over it where that fails."""

    def open_without(*arguments: object, **options: object) -> apsw.Connection:
        disk = options["disk"]
        assert isinstance(disk, SimulatedProcess)
        names = ("names", "open", "rename", "remove")
        calls = {name: getattr(disk, name) for name in names}
        options["disk"] = SimpleNamespace(sync_folder=lambda folder: None, **calls)
        return open_database(*arguments, **options)  # type: ignore[arg-type]  # handed on as they came

    patch.setattr(parked, "open_database", open_without)


def _sync_that_hides_its_fault(patch: pytest.MonkeyPatch) -> None:
    sync = SimulatedVfsFile.xSync

    def hide(file: SimulatedVfsFile, flags: int) -> None:
        try:
            sync(file, flags)
        except apsw.IOError:
            pass

    patch.setattr(SimulatedVfsFile, "xSync", hide)


def _lsn_before_its_rows(patch: pytest.MonkeyPatch) -> None:
    apply = ParkedStore.apply

    def in_two(store: ParkedStore, changes: list[Change], lsn: int) -> None:
        apply(store, [], lsn)
        apply(store, changes, lsn)

    patch.setattr(ParkedStore, "apply", in_two)


@pytest.mark.parametrize(
    ("plant", "seeds"),
    [
        (_store_that_does_not_sync, range(10)),
        (_disk_that_does_not_sync, range(10)),
        (_folder_that_is_not_synced, range(10)),
        (_folder_that_is_left_to_sqlite, range(600)),
        (_sync_that_hides_its_fault, range(20)),
        (_lsn_before_its_rows, range(10)),
    ],
)
def test_the_stories_find_a_planted_bug(
    plant: Callable[[pytest.MonkeyPatch], None], seeds: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    # A damaged database may trip over anything.
    with pytest.raises((AssertionError, StoreFault, TypeError, LookupError, apsw.Error)):
        for seed in seeds:
            tell(seed)
