"""Fixtures of the scenarios."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.scenarios.relay import Relay
from tests.scenarios.upstream import Upstream


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    one = Upstream()
    yield one
    one.close()


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    one = Relay(tmp_path / "relay")
    yield one
    one.kill()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """What fails shows what the relay said."""
    report = yield
    relay = getattr(item, "funcargs", {}).get("relay")
    if report.failed and isinstance(relay, Relay):
        report.sections.append(("the relay's log", relay.log_text()))
    return report
