from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.runtime import bus, bus_frames
from dispatch.runtime.bus import BusError, BusServer, socket_path
from dispatch.runtime.bus_client import BusClient, BusUnreachable
from dispatch.runtime.bus_frames import ANSWER_BYTES_MAX, REQUEST_BYTES_MAX, BusGarbled, Kind, answer_frame


class Echo(msgspec.Struct, tag="echo"):
    text: str
    padding: bytes = b""


class Count(msgspec.Struct, tag="count"):
    up_to: int
    then_fail: bool = False


class Crash(msgspec.Struct, tag="crash"):
    pass


class Refuse(msgspec.Struct, tag="refuse"):
    pass


class Silence(msgspec.Struct, tag="silence"):
    pass


class Said(msgspec.Struct, tag="said"):
    text: str


REQUESTS: msgspec.msgpack.Decoder[Echo | Count | Crash | Refuse | Silence] = msgspec.msgpack.Decoder(
    Echo | Count | Crash | Refuse | Silence
)
ANSWERS: msgspec.msgpack.Decoder[Said | int | None] = msgspec.msgpack.Decoder(Said | int | None)


async def handle(request: object) -> object:
    match request:
        case Echo(text, padding):
            return Said(text + str(len(padding)))
        case Count(up_to, then_fail):
            return numbers(up_to, then_fail)
        case Refuse():
            return BusError("no_such_message", "spl_0")
        case Silence():
            return await asyncio.Event().wait()
        case _:
            raise OSError("a secret in its text")


async def numbers(up_to: int, then_fail: bool) -> AsyncIterator[int]:
    for number in range(up_to):
        yield number
    if then_fail:
        raise ValueError("half-way")


class Reports(list[tuple[str, dict[str, object]]]):
    def __call__(self, event: str, /, **fields: object) -> None:
        self.append((event, fields))


@contextlib.asynccontextmanager
async def served(path: Path, reports: Reports | None = None) -> AsyncIterator[BusServer[Any]]:
    server = BusServer(path, REQUESTS, handle, Reports() if reports is None else reports)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


class Client:
    """The product's client, which blocks, beside the loop that its server runs on."""

    def __init__(self, path: Path, timeout_s: float = 20) -> None:
        self._client = BusClient(path, ANSWERS, timeout_s=timeout_s)
        self.close = self._client.close

    async def ask(self, request: object) -> object:
        return await asyncio.to_thread(self._client.ask, request)

    async def all(self, request: object) -> list[object]:
        return await asyncio.to_thread(lambda: list(self._client.stream(request)))

    async def first(self, request: object) -> object:
        """And then goes away in the middle of the answers."""
        return await asyncio.to_thread(lambda: next(iter(self._client.stream(request))))


def connected(path: Path) -> Client:
    return Client(path)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def run(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(main, 60))

    return run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return socket_path(tmp_path / "run", "delivery")


def test_a_request_is_answered_and_the_connection_serves_the_next(run, path) -> None:
    async def main() -> None:
        async with served(path):
            client = connected(path)
            assert await client.ask(Echo("a")) == Said("a0")
            assert await client.ask(Echo("b", bytes(1 << 20))) == Said(f"b{1 << 20}")
            assert await client.all(Count(3)) == [0, 1, 2]
            assert await client.all(Count(0)) == []
            client.close()

    run(main())


def test_many_clients_are_served_at_once(run, path) -> None:
    async def main() -> None:
        async with served(path):
            clients = [connected(path) for _ in range(bus.CONNECTIONS_MAX)]
            answers = await asyncio.gather(*(c.ask(Echo(str(n))) for n, c in enumerate(clients)))
            assert answers == [Said(f"{n}0") for n in range(len(clients))]
            one_too_many = connected(path)
            with pytest.raises(BusUnreachable):
                await one_too_many.ask(Echo(""))
            for client in clients:
                client.close()

    run(main())


def test_errors_are_values_and_tell_no_secret(run, path) -> None:
    async def main() -> None:
        reports = Reports()
        async with served(path, reports):
            client = connected(path)
            assert await client.ask(Refuse()) == BusError("no_such_message", "spl_0")
            assert await client.ask(Crash()) == BusError("internal", "OSError")
            assert await client.all(Count(2, then_fail=True)) == [
                0,
                1,
                BusError("internal", "ValueError"),
            ]
            assert await client.ask(Echo("still here")) == Said("still here0")
            client.close()
        assert [event for event, _ in reports] == ["bus_fault", "bus_fault"]

    run(main())


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (struct.pack(">I", REQUEST_BYTES_MAX + 1), b"too_large"),
        (struct.pack(">I", 3) + b"\xc1\xc1\xc1", b"malformed"),
        (struct.pack(">I", 0), b"malformed"),
        (struct.pack(">I", 5) + b"\xa4mail", b"malformed"),
    ],
)
def test_what_cannot_be_read_closes_only_its_own_connection(run, path, sent: bytes, code: bytes) -> None:
    async def main() -> None:
        async with served(path):
            neighbour = connected(path)
            await neighbour.ask(Echo(""))
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(sent)
            answer = await reader.read()  # to the end: the server closes
            assert answer[4] == Kind.ERROR and code in answer
            writer.close()
            assert await neighbour.ask(Echo("unharmed")) == Said("unharmed0")
            neighbour.close()

    run(main())


def test_a_client_that_goes_away_half_way_harms_nobody(run, path) -> None:
    async def main() -> None:
        async with served(path):
            _, writer = await asyncio.open_unix_connection(path)
            writer.write(struct.pack(">I", 100) + b"half")
            writer.close()
            client = connected(path)
            assert await client.first(Count(100_000)) == 0
            assert await client.ask(Echo("")) == Said("0")
            client.close()

    run(main())


def test_a_restarted_server_is_found_again(run, path) -> None:
    async def main() -> None:
        client = connected(path)
        async with served(path):
            await client.ask(Echo(""))
        with pytest.raises(BusUnreachable):
            await client.ask(Echo(""))
        async with served(path):
            assert await client.ask(Echo("")) == Said("0")
        client.close()

    run(main())


def test_an_answer_that_does_not_come_is_not_confused_with_the_next(run, path) -> None:
    async def main() -> None:
        async with served(path):
            client = Client(path, timeout_s=0.05)
            with pytest.raises(BusUnreachable):
                await client.ask(Silence())
            assert await client.ask(Echo("next")) == Said("next0")
            client.close()

    run(main())


def test_the_socket_is_for_its_user_only_and_replaces_a_dead_one(run, path) -> None:
    async def main() -> None:
        for _ in range(2):
            async with served(path):
                assert path.stat().st_mode & 0o777 == 0o600
                # As after kill -9: the file stays.
                os.link(path, path.with_suffix(".left"))
            os.rename(path.with_suffix(".left"), path)

    run(main())


def test_a_stranger_is_turned_away_by_the_kernels_word_for_him(run, path, monkeypatch) -> None:
    async def main() -> None:
        reports = Reports()
        async with served(path, reports) as server:
            server._uids = frozenset({4242})
            with pytest.raises(BusUnreachable):
                await connected(path).ask(Echo(""))
        assert reports[0][0] == "bus_refused" and reports[0][1]["uid"] == os.getuid()

    run(main())


def test_a_data_folder_deeper_than_a_socket_address_works(run, tmp_path) -> None:
    async def main() -> None:
        deep = tmp_path / ("x" * 120) / "delivery.sock"
        async with served(deep):
            client = connected(deep)
            assert await client.ask(Echo("deep")) == Said("deep0")
            client.close()
            assert deep.is_socket()
        assert not deep.exists()

    run(main())


def test_where_nobody_listens_is_said(path) -> None:
    with pytest.raises(BusUnreachable):
        BusClient(path, ANSWERS).ask(Echo(""))


def test_the_client_does_not_wait_for_ever(path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen()
        with pytest.raises(BusUnreachable):
            BusClient(path, ANSWERS, timeout_s=0.05).ask(Echo(""))


def test_the_client_needs_no_event_loop() -> None:
    program = "import sys, dispatch.runtime.bus_client; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_answer_beyond_the_limit_becomes_an_error() -> None:
    frame = answer_frame(Kind.LAST, bytes(ANSWER_BYTES_MAX))
    kind, answers = bus_frames.read_answer(frame[4:], ANSWERS)
    assert kind is Kind.ERROR
    assert isinstance(answers[0], BusError) and answers[0].code == "too_large"


@given(st.binary(min_size=1, max_size=40))
@settings(max_examples=200)
def test_no_bytes_from_the_other_end_do_more_than_be_garbled(frame: bytes) -> None:
    try:
        kind, _ = bus_frames.read_answer(frame, ANSWERS)
    except BusGarbled:
        return
    assert kind in Kind
