"""`kill -9` under load, of each process alone and of all at once: nothing acknowledged is lost, and every
duplicate has a name. The long form is `python -m tests.scenarios.crash --kills 200`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.scenarios.crash import VICTIMS, crash

KILLS = 15
OFFERED_RATE = 600.0
RATE_MIN = 200.0
"""What this test insists on; it prints what was reached."""


@pytest.mark.timeout(400)
def test_killed_fifteen_times_under_load(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    audit = crash(tmp_path, kills=KILLS, rate=OFFERED_RATE, seed=seed, told=print)
    print(audit.table())
    assert not audit.lost, "acknowledged and not delivered"
    assert not audit.unexplained, "delivered twice, and the ledger does not say why"
    assert not audit.uninvited, "delivered, though neither acknowledged nor unanswered"
    assert not audit.miscounted, "history and ledger differ"
    assert audit.killed == dict.fromkeys(VICTIMS, KILLS // len(VICTIMS))
    assert audit.rate >= RATE_MIN
