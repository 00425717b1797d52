from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from dispatch.runtime.bus import hint_path
from dispatch.runtime.hints import HintListener, Hints


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def run(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(main, 60))

    return run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return hint_path(tmp_path, "delivery")


def test_many_hints_make_one_call_and_a_later_one_another(run, path) -> None:
    async def main() -> None:
        calls = 0
        called = asyncio.Event()

        def callback() -> None:
            nonlocal calls
            calls += 1
            called.set()

        listener, hints = HintListener(path, callback), Hints(path)
        for _ in range(1000):
            hints.send()
        await called.wait()
        assert calls == 1
        called.clear()
        hints.send()
        await called.wait()
        assert calls == 2
        hints.close()
        listener.close()

    run(main())


def test_sending_to_nobody_is_no_fault(path) -> None:
    hints = Hints(path)
    hints.send()
    hints.send()
    hints.close()


def test_a_restarted_listener_is_found_by_the_next_hint(run, path) -> None:
    async def main() -> None:
        hints = Hints(path)
        for _ in range(3):
            called = asyncio.Event()
            listener = HintListener(path, called.set)
            hints.send()
            await called.wait()
            listener.close()
            hints.send()
        hints.close()

    run(main())
