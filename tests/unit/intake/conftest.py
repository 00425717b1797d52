"""A door to knock at."""

from __future__ import annotations

import pytest
from tests.unit.intake.door import Door


@pytest.fixture
def door() -> Door:
    return Door()
