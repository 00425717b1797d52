"""The bench that the queue's tests stand on."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.queue.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
