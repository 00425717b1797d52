"""What becomes of bytes and connections between processes that read slowly, hang up, abort and die."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from tests.simulation.machine import Machine, Process
from tests.simulation.network import LATER_S, End, SimulatedNetwork

PORT = 25
SEEDS = range(25)


class Clock:
    """What the loops share."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.due: list[tuple[float, int, PlainLoop, Callable[..., object], tuple[Any, ...]]] = []
        self.order = count()

    def step(self) -> bool:
        if not self.due:
            return False
        when, _, loop, callback, arguments = heapq.heappop(self.due)
        self.now_s = max(self.now_s, when)
        assert not loop.dead, "a callback of a process that is dead"
        callback(*arguments)
        return True

    def settle(self) -> None:
        while self.step():
            pass


class PlainLoop:
    """As much of a loop as the network uses."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.dead = False

    def time(self) -> float:
        return self.clock.now_s

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return cast(asyncio.AbstractEventLoop, self)

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self.call_at(self.clock.now_s, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> None:
        assert not self.dead, "asked of the loop of a process that is dead"
        heapq.heappush(self.clock.due, (when, next(self.clock.order), self, callback, args))

    def die(self) -> None:
        """Nothing that it was to do is done."""
        self.dead = True
        self.clock.due = [each for each in self.clock.due if each[2] is not self]
        heapq.heapify(self.clock.due)


class Ear(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self, *, half_open: bool = False) -> None:
        self.transport: End
        self.heard: list[bytes] = []
        self.eof = False
        self.lost: list[Exception | None] = []
        self.told_to_pause = False
        self.half_open = half_open
        self.made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, End)
        self.transport = transport
        self.made += 1

    def data_received(self, data: bytes) -> None:
        assert data and self.made == 1 and not self.lost and not self.eof
        assert not self.transport.is_closing()
        self.heard.append(data)

    def eof_received(self) -> bool:
        assert not self.eof and not self.lost
        self.eof = True
        return self.half_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    def pause_writing(self) -> None:
        assert not self.told_to_pause
        self.told_to_pause = True

    def resume_writing(self) -> None:
        assert self.told_to_pause
        self.told_to_pause = False

    def paused(self) -> bool:
        return self.told_to_pause

    @property
    def text(self) -> bytes:
        return b"".join(self.heard)


class Pair:
    """A client and a server, each a process of its own."""

    def __init__(self, seed: int, *, half_open: bool = False, settled: bool = True) -> None:
        self.clock = Clock()
        self.random = Random(seed)
        self.network = SimulatedNetwork(self.random)
        self.here, self.there = PlainLoop(self.clock), PlainLoop(self.clock)
        self.client, self.server = Ear(), Ear(half_open=half_open)
        self.network.listen(self.there.loop, PORT, lambda: self.server)
        self.end = self.network.dial(self.here.loop, PORT, lambda: self.client, "192.0.2.7")
        if settled:
            self.clock.settle()

    def server_dies(self) -> None:
        self.there.die()
        self.network.process_died(self.there.loop)


@pytest.fixture(params=SEEDS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    made = Process(Machine(1, tmp_path))
    yield made
    made.bury()


def test_both_ends_know_each_other() -> None:
    pair = Pair(0)
    assert pair.client.made == pair.server.made == 1
    address = pair.server.transport.get_extra_info("peername")
    assert address[0] == "192.0.2.7"
    assert pair.client.transport.get_extra_info("sockname") == address
    assert pair.client.transport.get_extra_info("peername")[1] == PORT
    assert pair.client.transport.get_extra_info("socket") is None


def test_what_is_said_arrives_in_order_however_it_is_cut(pair: Pair) -> None:
    random = Random(1)
    said = [random.randbytes(random.choice((1, 5, 80, 3000))) for _ in range(40)]
    for piece in said:
        pair.client.transport.write(piece)
        pair.server.transport.writelines([piece, memoryview(piece)])
        if random.random() < 0.5:
            pair.clock.step()
    pair.clock.settle()
    assert pair.server.text == b"".join(said)
    assert pair.client.text == b"".join(piece * 2 for piece in said)


def test_pieces_are_cut_glued_and_dripped_and_may_take_their_time() -> None:
    sizes, waits = set(), set()
    for seed in range(400):
        pair = Pair(seed)
        for _ in range(10):
            began_s = pair.clock.now_s
            pair.client.transport.write(b"five!")
            pair.client.transport.write(b"five!")
            pair.clock.settle()
            waits.add(round(pair.clock.now_s - began_s, 3))
        sizes |= {len(piece) for piece in pair.server.heard}
    assert {10, 5, 7, 3} <= sizes, "mostly whole, sometimes not"
    assert 0.0 in waits and LATER_S in waits and max(waits) > 1.0


def test_where_nobody_listens_the_connection_is_refused() -> None:
    pair = Pair(0)
    with pytest.raises(ConnectionRefusedError):
        pair.network.dial(pair.here.loop, PORT + 1, Ear)
    with pytest.raises(OSError, match="in use"):
        pair.network.listen(pair.here.loop, PORT, Ear)
    pair.network.listeners[PORT].close()
    with pytest.raises(ConnectionRefusedError):
        pair.network.dial(pair.here.loop, PORT, Ear)
    pair.client.transport.write(b"still there")
    pair.clock.settle()
    assert pair.server.text == b"still there"


def test_a_close_lets_everything_arrive_and_ends_both_sides(pair: Pair) -> None:
    pair.client.transport.write(b"last words" * 50_000)
    pair.client.transport.close()
    pair.client.transport.write(b"too late")
    pair.clock.settle()
    assert pair.server.text == b"last words" * 50_000
    assert pair.server.eof and pair.server.lost == pair.client.lost == [None]


def test_a_half_closed_connection_still_carries_the_answer() -> None:
    for seed in SEEDS:
        pair = Pair(seed, half_open=True)
        pair.client.transport.write(b"question")
        pair.client.transport.write_eof()
        pair.clock.settle()
        assert pair.server.eof and not pair.server.lost
        pair.server.transport.write(b"answer")
        pair.server.transport.close()
        pair.clock.settle()
        assert (pair.server.text, pair.client.text) == (b"question", b"answer")
        assert pair.client.lost == pair.server.lost == [None]


def test_a_writer_is_paused_while_nobody_reads(pair: Pair) -> None:
    writer, reader = pair.client.transport, pair.server.transport
    reader.pause_reading()
    while not pair.client.paused():
        writer.write(b"x" * 10_000)
        pair.clock.settle()
    assert writer.get_write_buffer_size() > writer.get_write_buffer_limits()[1]
    assert not pair.server.heard and not reader.is_reading()
    reader.resume_reading()
    pair.clock.settle()
    assert not pair.client.paused() and writer.get_write_buffer_size() == 0
    assert len(pair.server.text) % 10_000 == 0


def test_a_close_waits_for_what_is_not_read_and_an_abort_does_not(pair: Pair) -> None:
    pair.server.transport.pause_reading()
    pair.client.transport.write(b"x" * 1_000_000)
    pair.client.transport.close()
    pair.clock.settle()
    assert not pair.client.lost
    pair.client.transport.abort()
    pair.clock.settle()
    assert pair.client.lost == [None]
    pair.server.transport.resume_reading()
    pair.clock.settle()
    assert len(pair.server.text) < 1_000_000 and len(pair.server.lost) == 1


def test_a_close_that_waits_ends_when_the_reader_is_gone(pair: Pair) -> None:
    pair.server.transport.pause_reading()
    pair.client.transport.write(b"x" * 1_000_000)
    pair.client.transport.close()
    pair.clock.settle()
    assert not pair.client.lost
    pair.server.transport.abort()
    pair.clock.settle()
    assert len(pair.client.lost) == 1


def test_an_abort_leaves_a_prefix_and_ends_the_peer() -> None:
    lengths, errors = set(), set()
    for seed in SEEDS:
        pair = Pair(seed)
        pair.client.transport.write(b"0123456789")
        pair.client.transport.abort()
        pair.clock.settle()
        assert b"0123456789".startswith(pair.server.text)
        assert len(pair.server.lost) == len(pair.client.lost) == 1
        lengths.add(len(pair.server.text))
        errors.add(type(pair.server.lost[0]))
    assert 10 in lengths and len(lengths) > 3
    assert errors == {type(None), ConnectionResetError}


def test_of_a_process_that_dies_only_its_words_remain(pair: Pair) -> None:
    pair.server.transport.write(b"x" * 1000)
    pair.client.transport.write(b"hello?")
    pair.server_dies()
    pair.clock.settle()
    assert not pair.server.heard and not pair.server.lost
    assert set(pair.client.text) <= set(b"x") and len(pair.client.lost) == 1
    with pytest.raises(ConnectionRefusedError):
        pair.network.dial(pair.here.loop, PORT, Ear)
    # What its objects do when they are collected.
    pair.server.transport.write(b"y")
    pair.server.transport.abort()
    pair.server.transport.close()
    pair.server.transport.resume_reading()


def test_a_process_that_dies_before_it_accepts_ends_the_connection() -> None:
    for seed in SEEDS:
        pair = Pair(seed, settled=False)
        pair.end.write(b"hello?")
        pair.server_dies()
        pair.clock.settle()
        assert pair.server.made == 0
        assert pair.client.made == 0 or len(pair.client.lost) == 1


def test_what_was_about_to_be_told_to_a_process_that_dies_is_not(pair: Pair) -> None:
    """Even where its loop still turns."""
    pair.client.transport.write(b"hello?")
    if pair.random.random() < 0.5:
        pair.server.transport.close()
    pair.network.process_died(pair.there.loop)
    pair.clock.settle()
    assert not pair.server.heard and not pair.server.lost
    assert len(pair.client.lost) == 1


def test_a_listener_that_is_closed_accepts_nobody_who_waits() -> None:
    for seed in SEEDS:
        pair = Pair(seed, settled=False)
        pair.network.listeners[PORT].close()
        pair.clock.settle()
        assert pair.server.made == 0 and len(pair.client.lost) == pair.client.made


def test_another_life_listens_at_the_same_port() -> None:
    pair = Pair(0)
    pair.server_dies()
    reborn, again = PlainLoop(pair.clock), Ear()
    pair.network.listen(reborn.loop, PORT, lambda: again)
    caller = Ear()
    pair.network.dial(pair.here.loop, PORT, lambda: caller)
    pair.clock.settle()
    caller.transport.write(b"hello")
    pair.clock.settle()
    assert again.text == b"hello"


def test_who_closes_without_having_read_resets_the_connection() -> None:
    errors = set()
    for seed in SEEDS:
        pair = Pair(seed)
        pair.server.transport.pause_reading()
        pair.client.transport.write(b"unread")
        pair.clock.settle()
        pair.server.transport.write(b"answer")
        pair.server.transport.close()
        pair.clock.settle()
        assert b"answer".startswith(pair.client.text)
        errors.add(type(pair.client.lost[0]))
    assert errors == {ConnectionResetError}


def test_who_writes_to_a_closed_connection_is_told_so() -> None:
    pair = Pair(0, half_open=True)
    pair.client.transport.close()
    pair.clock.settle()
    assert pair.server.eof and not pair.server.lost
    pair.server.transport.write(b"anybody?")
    pair.clock.settle()
    assert [type(error) for error in pair.server.lost] == [ConnectionResetError]


def test_whatever_the_two_do_no_byte_is_invented_and_each_end_ends_once() -> None:
    for seed in range(300):
        pair = Pair(seed, half_open=seed % 2 == 0, settled=False)
        random = pair.random
        said: dict[Ear, bytes] = {pair.client: b"", pair.server: b""}
        for _ in range(random.randrange(60)):
            ear = random.choice((pair.client, pair.server))
            if not ear.made or (ear is pair.server and pair.there.dead):
                pair.clock.step()
                continue
            what = random.random()
            transport = ear.transport
            if what < 0.5:
                piece = random.randbytes(random.choice((3, 200, 90_000)))
                if not transport.is_closing():
                    said[ear] += piece
                transport.write(piece)
            elif what < 0.6:
                transport.pause_reading()
            elif what < 0.7:
                transport.resume_reading()
            elif what < 0.72:
                random.choice((transport.close, transport.abort))()
            elif what < 0.73:
                pair.server_dies()
            else:
                pair.clock.step()
        # Two that close and do not read wait for each other for ever, as they do on a real network.
        for end in (End.resume_reading, End.close, End.abort):
            for ear in (pair.client, pair.server):
                if ear.made and not (ear is pair.server and pair.there.dead):
                    end(ear.transport)
            pair.clock.settle()
        assert said[pair.client].startswith(pair.server.text)
        assert said[pair.server].startswith(pair.client.text)
        assert len(pair.client.lost) == pair.client.made
        assert pair.there.dead or len(pair.server.lost) == pair.server.made


def test_a_seed_is_a_run() -> None:
    def run(seed: int) -> list[tuple[str, str]]:
        told: list[tuple[str, str]] = []
        pair = Pair(seed)
        pair.network.tell = lambda who, what: told.append((who, f"{pair.clock.now_s} {what}"))
        for number in range(30):
            pair.client.transport.write(b"NOOP %d\r\n" % number)
            pair.clock.step()
        pair.client.transport.abort()
        pair.clock.settle()
        return [*told, ("heard", repr(pair.server.heard))]

    assert run(7) == run(7) != run(8)
    assert any("NOOP 3" in what for _, what in run(7))


# ---------------------------------------------------------------- ports.Network


async def _connect(network: SimulatedNetwork, ear: Ear, timeout_s: float = 30.0) -> None:
    loop = asyncio.get_running_loop()
    await network.of(loop).connect("up.example", PORT, lambda: ear, timeout_s)


def test_a_relay_is_connected_when_connect_returns(process: Process) -> None:
    network, server, ear = SimulatedNetwork(Random(3)), Ear(), Ear()
    network.listen(process.loop, PORT, lambda: server)
    process.run(_connect(network, ear))
    assert ear.made == 1


def test_a_relay_is_refused_where_nobody_listens(process: Process) -> None:
    with pytest.raises(ConnectionRefusedError):
        process.run(_connect(SimulatedNetwork(Random(3)), Ear()))


def test_a_troubled_network_refuses_and_lets_time_out(process: Process) -> None:
    network = SimulatedNetwork(Random(3))
    network.listen(process.loop, PORT, Ear)
    network.trouble_at[PORT] = 1.0
    seen = {"connected": 0, "ConnectionRefusedError": 0, "TimeoutError": 0}
    slow = 0
    for _ in range(200):
        began_s = process.monotonic()
        try:
            process.run(_connect(network, Ear(), timeout_s=10.0))
        except OSError as error:
            seen[type(error).__name__] += 1
            assert not isinstance(error, TimeoutError) or process.monotonic() - began_s >= 10.0
        else:
            seen["connected"] += 1
            slow += process.monotonic() - began_s > 0.1
    assert all(seen.values()) and slow and seen["connected"] > 100


def test_a_connection_that_is_not_wanted_any_more_is_aborted(process: Process) -> None:
    network, server, ear = SimulatedNetwork(Random(3)), Ear(), Ear()
    network.listen(process.loop, PORT, lambda: server)

    async def scenario() -> None:
        task = asyncio.get_running_loop().create_task(_connect(network, ear))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(1)

    process.run(scenario())
    assert len(ear.lost) == ear.made
    assert len(server.lost) == server.made == 1
