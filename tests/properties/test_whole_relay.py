"""Whatever happens to the whole relay: nothing acknowledged is lost, and every repeat has its record.

Intake, delivery and control, as they ship, run on one simulated machine between clients and upstreams that
misbehave (`tests.simulation.world`). Each seed has at least 50 messages, 3 deaths and 1 fault of the disk.
A failure names its seed: `python -m tests.simulation SEED` shows what happened.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.simulation.many import run_chunk, run_many
from tests.simulation.sabotage import BUGS, Bug, refused_and_kept
from tests.simulation.world import DEATHS_MIN, DISK_FAULTS_MIN, MESSAGES_MIN, World

# SQLite passes over a WAL that it cannot remove when it closes; its driver can only print that.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SEEDS = 1_000
SEEDS_A_TEST = 25
LONG_SEEDS = 100_000
LONG_SEEDS_A_TEST = 250
SEEDS_FOR_A_BUG = 300


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a file system; it holds one small mapped file."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def _run(seed: int, folder: Path) -> World:
    own = folder / str(seed)
    own.mkdir(exist_ok=True)
    try:
        world = World(seed, own)
        world.run()
    except BaseException as error:
        error.add_note(f"python -m tests.simulation {seed}")
        raise
    return world


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_nothing_is_lost_and_every_repeat_has_its_record(first: int, folder: Path) -> None:
    for seed in range(first, first + SEEDS_A_TEST):
        world = _run(seed, folder)
        assert len(world.books.offered) >= MESSAGES_MIN
        assert len(world.relay.deaths) >= DEATHS_MIN
        assert world.disk_faults >= DISK_FAULTS_MIN


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(SEEDS, SEEDS + LONG_SEEDS, LONG_SEEDS_A_TEST))
def test_the_same_for_many_more_seeds(first: int, folder: Path) -> None:
    for seed in range(first, first + LONG_SEEDS_A_TEST):
        _run(seed, folder)


def test_a_seed_is_the_same_run_each_time(folder: Path) -> None:
    told: list[list[str]] = []
    for attempt in range(2):
        lines: list[str] = []
        own = folder / str(attempt)
        own.mkdir()
        World(7, own, tell=lambda who, what, lines=lines: lines.append(f"{who} {what}")).run()
        told.append(lines)
    assert told[0] == told[1]
    assert len(told[0]) > 500


def test_many_seeds_in_processes_are_told_in_all() -> None:
    told: list[str] = []
    assert run_many(range(3), 1, told.append)
    assert "| seeds | 3 |" in told
    assert "| failed | 0 |" in told


def test_a_seed_that_fails_among_many_is_named_and_the_others_go_on() -> None:
    with refused_and_kept():
        chunk = run_chunk(range(3))
    assert chunk.totals.seeds == 3
    assert chunk.totals.failed == len(chunk.failures) >= 1
    assert all("\n" not in why for _, why in chunk.failures)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_the_seeds_find_a_planted_bug(
    bug: Bug, folder: Path, record_property: pytest.RecordProperty, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(SEEDS_FOR_A_BUG):
        try:
            with bug():
                _run(seed, folder)
        except (AttributeError, NameError, TypeError):
            # The bug does not fit the code any more: that is no find.
            raise
        except Exception as found:
            record_property("seeds needed", seed + 1)
            what = str(found).partition("\n")[0] or type(found).__name__
            with capsys.disabled():
                print(f"\n{bug.__name__}: found by seed {seed}: {what}")
            return
    raise AssertionError(f"{bug.__name__} was not found by {SEEDS_FOR_A_BUG} seeds")
