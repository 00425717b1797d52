"""Whatever dies, whenever: every accepted recipient gets one outcome, and every repeat has its record.

The shipped scheduler, parking, recovery, housekeeping and orders run on a simulated machine over logs on a
simulated disk and a real SQLite file. Upstreams answer as chance wills, the process dies at any step, the
power is cut, the parked store is full, the operator gives orders, lanes are replaced. A run is a seed; a
failure names it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.simulation.audit import Audit
from tests.simulation.delivery import IN_HAND_SLOTS, POLICIES, Life, World
from tests.simulation.machine import Death

from dispatch.mail.delivery import DeliveryState
from dispatch.queue.in_hand import DEATHS_ALONE_MAX
from dispatch.queue.requests import Flush, Order
from dispatch.store.changes import QueueFilter

SEEDS = range(300)
SEEDS_A_TEST = 10
LONG_SEEDS = range(1_000, 6_000)


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a file system: a sync of SQLite's should cost nothing here."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def run(seed: int, folder: Path) -> None:
    folder.mkdir()
    world = World(seed, folder)
    random = world.random
    for _ in range(random.randrange(1, 7)):
        life = world.start(die_after=_steps(world))
        try:
            _live(world, life, random.randrange(2, 25))
        except Death:
            pass
        else:
            if random.random() < 0.3:
                # To its end without another start: nothing may have been forgotten in memory.
                _finish(world, life)
                return
        _die(world, life)
    _finish(world, world.start())


def _steps(world: World) -> int | None:
    return None if world.random.random() < 0.2 else int(2 ** world.random.uniform(3, 11))


def _live(world: World, life: Life, events: int) -> None:
    random = world.random
    for _ in range(events):
        what = random.random()
        if what < 0.55:
            for _ in range(random.choice((1, 1, 3, 20))):
                life.offer()
        elif what < 0.75:
            _give_order(world, life)
        elif what < 0.80:
            assert life.store is not None
            life.store.full = not life.store.full
        elif what < 0.85:
            life.replace_lane(random.choice(list(POLICIES)))
        elif what < 0.88:
            life.housekeeping.write_checkpoint()
        life.process.pass_time(random.choice((0.0, 0.001, 0.03, 0.2, 1.0, 6.0, 40.0)))


def _give_order(world: World, life: Life) -> None:
    random = world.random
    if random.random() < 0.2:
        life.order(Flush())
        return
    wanted = QueueFilter()
    if random.random() < 0.5 and world.offered:
        wanted = QueueFilter(id_prefix=random.choice(list(world.offered)).hex())
    elif random.random() < 0.5:
        wanted = QueueFilter(relay=random.choice(list(POLICIES)))
    verb = random.choice(("retry", "retry", "hold", "release", "release", "cancel"))
    life.order(Order(verb, wanted))


def _die(world: World, life: Life) -> None:
    life.bury()
    world.accidents += 1
    if world.random.random() < 0.3:
        world.cut_power()


def _finish(world: World, life: Life) -> None:
    """No more trouble: everything that was acknowledged comes to its end."""
    for _ in range(40):
        life.calm()
        try:
            _let_it_end(life)
        except Death:
            # A poisonous message that has not killed often enough.
            life.bury()
            life = world.start()
            continue
        break
    else:
        raise AssertionError("it never stops dying")
    audit = Audit(life.ledger)
    world.check(audit)
    world.check_explanations(audit)
    _nothing_is_lost(world, audit)
    _nothing_is_left(world, life, audit)
    life.bury()


def _let_it_end(life: Life) -> None:
    """Until no delivery is on its way any more; what is held is released."""
    for _ in range(60):
        life.process.pass_time(40.0)
        if not life.busy:
            break
        life.order(Order("release", QueueFilter(state=DeliveryState.HELD)))
    life.process.pass_time(6.0)


def _nothing_is_lost(world: World, audit: Audit) -> None:
    for message_id in world.acknowledged:
        assert message_id in audit.messages, f"{message_id.hex()} was acknowledged and is gone"
    for (message_id, index), state in audit.states.items():
        if state is DeliveryState.QUARANTINED:
            # Killed from outside while it ran alone, as often as it takes, it looks like poison.
            blamed = message_id in world.received.poison or world.accidents >= DEATHS_ALONE_MAX
            assert blamed, "an innocent message is in quarantine"
        else:
            assert state.final, f"{message_id.hex()} {index} ends {state}"


def _nothing_is_left(world: World, life: Life, audit: Audit) -> None:
    scheduler, store = life.scheduler, life.store
    assert scheduler is not None and store is not None
    assert not scheduler.custody.live, "the log is held on to"
    assert not list(scheduler.works())
    assert not scheduler.frozen
    assert scheduler.trial is None
    assert all(lane.in_flight == 0 and not lane.claiming for lane in scheduler.lanes.values())
    assert life.in_hand.room == IN_HAND_SLOTS
    assert life.parking.idle and life.parking.pending_bytes == 0
    kept = {}
    for message_id in audit.messages:
        parked = store.get(message_id, content=False)
        for row in parked.deliveries if parked else ():
            kept[message_id, row.index] = row.state
    stays = {
        key: state
        for key, state in audit.states.items()
        if state.failed or state is DeliveryState.QUARANTINED
    }
    assert kept == stays
    files = {audit.messages[message_id].content_file for message_id, _ in kept}
    assert world.received.files == {file.name for file in files if file is not None}


@pytest.mark.parametrize("first", range(0, len(SEEDS), SEEDS_A_TEST))
def test_every_recipient_gets_one_outcome_and_every_repeat_has_its_record(first: int, folder: Path) -> None:
    for seed in SEEDS[first : first + SEEDS_A_TEST]:
        _run_named(seed, folder)


@pytest.mark.long
@pytest.mark.parametrize("first", range(LONG_SEEDS.start, LONG_SEEDS.stop, 100))
def test_the_same_for_many_more_seeds(first: int, folder: Path) -> None:
    for seed in range(first, first + 100):
        _run_named(seed, folder)


def _run_named(seed: int, folder: Path) -> None:
    try:
        run(seed, folder / str(seed))
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
