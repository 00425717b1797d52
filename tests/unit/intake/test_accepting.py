"""Clients come while none can be taken: they are cut or wait, nobody spins, and it is told once."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop

from dispatch.intake.accepting import CALM_S, PAUSE_FIRST_S, PAUSE_LONGEST_S, Accepting

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param


class HandTimer:
    def __init__(self, due_s: float, callback: Callable[[], None]) -> None:
        self.due_s = due_s
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class HandClock:
    def __init__(self) -> None:
        self.now_s = 0.0
        self._timers: list[HandTimer] = []

    def monotonic(self) -> float:
        return self.now_s

    def wall(self) -> float:
        raise AssertionError("no date is needed")

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> HandTimer:
        self._timers.append(HandTimer(self.now_s + delay_s, callback))
        return self._timers[-1]

    def advance(self, to_s: float) -> None:
        while due := [each for each in self._timers if each.callback and each.due_s <= to_s]:
            first = min(due, key=lambda each: each.due_s)
            self._timers.remove(first)
            self.now_s = first.due_s
            assert first.callback is not None
            first.callback()
        self.now_s = to_s

    @property
    def idle(self) -> bool:
        return not any(each.callback for each in self._timers)


class FaultySocket(socket.socket):
    """Whose `accept` fails with `error` while that is set."""

    error: int | None = None
    asked = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.asked += 1
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        return super().accept()


class Greeter(asyncio.Protocol):
    def __init__(self, greeted: list[int]) -> None:
        self._greeted = greeted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        inner = transport.get_extra_info("socket")
        self._greeted.append(inner.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        transport.write(b"220 here\r\n")  # type: ignore[attr-defined]  # uvloop's are no asyncio.Transport


class Entrance:
    """Accepting from a faulty socket, by a hand clock."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.told: list[tuple[str, dict[str, object]]] = []
        self.nodelay: list[int] = []
        """Of each client that was greeted."""
        self.socket = FaultySocket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(100)
        self.address = self.socket.getsockname()
        self.accepting = Accepting(
            self.socket, lambda announced: Greeter(self.nodelay), clock=self.clock, report=self._report
        )

    def _report(self, event: str, /, **fields: object) -> None:
        self.told.append((event, fields))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.told]

    def client(self) -> socket.socket:
        """One that has connected, as far as the kernel goes."""
        return socket.create_connection(self.address, timeout=20)


async def heard(client: socket.socket) -> bytes:
    client.setblocking(False)
    return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 100), 20)


async def turns(entrance: Entrance) -> None:
    """Long enough for an accept that is asked again at once to be asked hundreds of times."""
    for _ in range(300):
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open nothing more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 3, limits[1]))
    taken = []
    try:
        while True:
            try:
                taken.append(os.dup(0))
            except OSError as error:
                assert error.errno == errno.EMFILE
                break
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_clients_are_greeted_and_their_replies_are_not_held_back(run: Run) -> None:
    async def main() -> None:
        entrance = Entrance()
        for _ in range(3):
            with entrance.client() as client:
                assert await heard(client) == b"220 here\r\n"
        entrance.accepting.close()
        assert entrance.nodelay == [1, 1, 1]
        assert entrance.told == [] and entrance.clock.idle

    run(main())


def test_who_cannot_be_accepted_waits_and_is_served_when_it_is_over(run: Run) -> None:
    async def main() -> None:
        entrance = Entrance()
        entrance.socket.error = errno.ENOBUFS
        with entrance.client() as client:
            await turns(entrance)
            assert entrance.socket.asked == 1, "it is not asked again at once"
            assert entrance.events == ["accept_fault"]
            assert entrance.told[0][1] == {
                "address": "127.0.0.1",
                "port": entrance.address[1],
                "why": os.strerror(errno.ENOBUFS),
                "meanwhile": "new connections wait",
            }
            entrance.clock.advance(10.0)
            await turns(entrance)
            assert 10 <= entrance.socket.asked <= 15, "once a second"
            assert entrance.events == ["accept_fault"], "told once for as long as it lasts"
            entrance.socket.error = None
            entrance.clock.advance(10.0 + PAUSE_LONGEST_S)
            assert await heard(client) == b"220 here\r\n"
            with entrance.client() as next_one:
                assert await heard(next_one) == b"220 here\r\n", "and the next without a wait"
        entrance.clock.advance(20.0)
        assert entrance.events == ["accept_fault", "accept_well"]
        assert entrance.clock.idle
        entrance.accepting.close()

    run(main())


def test_who_fails_now_and_then_is_not_told_of_each_time(run: Run) -> None:
    async def main() -> None:
        entrance = Entrance()
        for _ in range(5):
            entrance.socket.error = errno.ENOMEM
            with entrance.client() as client:
                await turns(entrance)
                entrance.socket.error = None
                entrance.clock.advance(entrance.clock.now_s + PAUSE_LONGEST_S)
                assert await heard(client) == b"220 here\r\n"
        assert entrance.events == ["accept_fault"]
        entrance.clock.advance(entrance.clock.now_s + CALM_S + PAUSE_LONGEST_S)
        assert entrance.events == ["accept_fault", "accept_well"]
        entrance.accepting.close()

    run(main())


def test_without_descriptors_new_clients_are_cut_at_once_and_the_open_ones_served(run: Run) -> None:
    async def main() -> None:
        entrance = Entrance()
        with entrance.client() as served:
            assert await heard(served) == b"220 here\r\n"
            clients = [entrance.client() for _ in range(5)]
            # What the kernel has accepted, the process has not: it had no turn since.
            with no_descriptors():
                assert [await heard(client) for client in clients] == [b""] * 5
                await turns(entrance)
                entrance.clock.advance(5.0)
                assert entrance.events == ["accept_fault"]
                assert entrance.told[0][1]["meanwhile"] == "new connections are cut"
            for client in clients:
                client.close()
            with entrance.client() as next_one:
                assert await heard(next_one) == b"220 here\r\n"
            entrance.clock.advance(10.0)
            assert entrance.events == ["accept_fault", "accept_well"]
        entrance.accepting.close()

    run(main())


def test_without_even_the_reserve_clients_wait(run: Run) -> None:
    async def main() -> None:
        entrance = Entrance()
        # The whole machine has none: what we give up, somebody else takes.
        entrance.socket.error = errno.ENFILE
        with entrance.client() as client:
            await turns(entrance)
            assert entrance.socket.asked == 2
            assert entrance.told[0][1]["meanwhile"] == "new connections wait"
            entrance.socket.error = None
            entrance.clock.advance(PAUSE_FIRST_S)
            assert await heard(client) == b"220 here\r\n"
        entrance.accepting.close()

    run(main())


def test_a_client_that_left_before_it_was_accepted_is_no_fault(run: Run) -> None:
    async def main() -> None:
        entrance = Entrance()
        entrance.socket.error = errno.ECONNABORTED
        with entrance.client() as client:
            await asyncio.sleep(0.01)
            entrance.socket.error = None
            assert await heard(client) == b"220 here\r\n"
        assert entrance.told == [] and entrance.clock.idle
        entrance.accepting.close()

    run(main())


@pytest.mark.parametrize("error", [None, errno.ENOBUFS])
def test_after_the_close_clients_are_refused_and_nothing_goes_on(run: Run, error: int | None) -> None:
    async def main() -> None:
        entrance = Entrance()
        entrance.socket.error = error
        with entrance.client():
            await turns(entrance)
            entrance.accepting.close()
            with pytest.raises(ConnectionRefusedError):
                entrance.client()
        assert entrance.clock.idle

    before = len(os.listdir("/proc/self/fd"))
    run(main())
    assert len(os.listdir("/proc/self/fd")) <= before
