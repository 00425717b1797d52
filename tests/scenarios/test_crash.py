"""`kill -9` and power cuts under load: nothing acknowledged is lost, and every duplicate has a name. The long
form is `make crash`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.scenarios.crash import Struck, cut_power, kill, table
from tests.scenarios.victims import Kills
from tests.shim.build import NoCompiler, built

OFFERED_RATE = 600.0
RATE_MIN = 150.0
"""What these tests insist on, beside others on the same cores; they print what was reached."""


def judged(name: str, struck: Struck, seed: int) -> None:
    print(f"seed {seed}\n{table({name: struck})}")
    assert not {fault: found for fault, found in struck.faults.items() if found}
    assert struck.rate >= RATE_MIN
    assert struck.failed_over and struck.audit.books.acknowledged_by_tls


@pytest.mark.timeout(240)
def test_killed_ten_times_under_load(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    struck = kill(tmp_path, kills=10, rate=OFFERED_RATE, seed=seed, told=print)
    judged("kills", struck, seed)
    assert struck.victims == dict.fromkeys(Kills.victims, 2)


@pytest.mark.timeout(240)
def test_without_power_six_times_under_load(tmp_path: Path) -> None:
    try:
        built()
    except NoCompiler as missing:
        pytest.skip(str(missing))
    seed = random.randrange(1 << 32)
    struck = cut_power(tmp_path, cuts=6, rate=OFFERED_RATE, seed=seed, told=print)
    judged("power cuts", struck, seed)
    assert struck.victims.total() == 6
    assert struck.taken_back.total(), "the cuts took something back"
