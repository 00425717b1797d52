"""An upstream that counts and stamps: where the time of arrival matters, or two kinds of mail are told apart.

In a process of its own (`python -m bench.upstream PORT FILE`), with numbers in a mapped file that the bench
reads at any time; or, for latencies, as a protocol on the bench's own loop. It offers what smtp-sink offers.
With `--hang` it takes messages whole and never answers their end of data.
"""

from __future__ import annotations

import argparse
import asyncio
import mmap
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import uvloop

from bench.contestants import wait_for_port

LARGE_BYTES = 1 << 20
"""From here on a message counts as large."""
_GREETING = b"220 upstream.test ESMTP\r\n"
_EHLO = b"250-upstream.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n"
_OK = b"250 2.0.0 Ok\r\n"
_END = b"\r\n.\r\n"
_SMALL, _LARGE, _FIRST_NS, _LAST_SMALL_NS, _LAST_LARGE_NS = range(5)

Arrived = Callable[[int, int], None]
"""A message is here whole: its bytes, and the monotonic clock in nanoseconds."""


class Session(asyncio.Protocol):
    def __init__(self, arrived: Arrived, *, hangs: bool = False) -> None:
        self._arrived = arrived
        self._hangs = hangs
        self._rest = b""
        """A piece of a line, or so much of content as could be a piece of its end."""
        self._in_content = False
        self._content_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write: Callable[[bytes], None] = transport.write  # type: ignore[attr-defined]  # uvloop's are no asyncio.Transport
        self._write(_GREETING)

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        data = self._rest + data
        at = 0
        replies: list[bytes] = []
        while True:
            if self._in_content:
                end = data.find(_END, at)
                if end < 0:
                    kept = max(at, len(data) - len(_END) + 1)
                    self._content_bytes += kept - at
                    self._rest = data[kept:]
                    break
                self._arrived(self._content_bytes + end - at, now_ns)
                self._content_bytes, self._in_content, at = 0, False, end + len(_END)
                if not self._hangs:
                    replies.append(_OK)
            else:
                end = data.find(b"\r\n", at)
                if end < 0:
                    self._rest = data[at:]
                    break
                replies.append(self._command(data[at : at + 4].upper()))
                at = end + 2
        if replies:
            self._write(b"".join(replies))

    def _command(self, verb: bytes) -> bytes:
        if verb == b"DATA":
            self._in_content = True
            return b"354 Go ahead\r\n"
        return _EHLO if verb == b"EHLO" else _OK


class Upstream:
    """The process, as the bench sees it. Its numbers go on over `stop` and `start`."""

    def __init__(self, folder: Path, port: int, *, hangs: bool = False) -> None:
        self.port = port
        self._file = folder / f"upstream-{port}"
        self._file.write_bytes(bytes(mmap.PAGESIZE))
        self._numbers = _mapped(self._file)
        self._options = ["--hang"] if hangs else []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def small(self) -> int:
        """Messages below `LARGE_BYTES` so far."""
        return self._numbers[_SMALL]

    @property
    def large(self) -> int:
        return self._numbers[_LARGE]

    @property
    def first_s(self) -> float:
        """When the first message since `start` came, on the monotonic clock; 0 before it."""
        return self._numbers[_FIRST_NS] / 1e9

    @property
    def last_small_s(self) -> float:
        return self._numbers[_LAST_SMALL_NS] / 1e9

    @property
    def last_large_s(self) -> float:
        return self._numbers[_LAST_LARGE_NS] / 1e9

    def start(self) -> None:
        self._numbers[_FIRST_NS] = 0
        command = [sys.executable, "-m", "bench.upstream", str(self.port), str(self._file), *self._options]
        self._process = subprocess.Popen(command)
        wait_for_port(self.port, self._process)

    def stop(self) -> None:
        """From now on nobody listens there."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def __enter__(self) -> Upstream:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _mapped(file: Path) -> memoryview:
    with file.open("r+b") as opened:
        return memoryview(mmap.mmap(opened.fileno(), mmap.PAGESIZE)).cast("Q")


async def _serve(port: int, file: Path, hangs: bool) -> None:
    numbers = _mapped(file)

    def arrived(size_bytes: int, now_ns: int) -> None:
        if not numbers[_FIRST_NS]:
            numbers[_FIRST_NS] = now_ns
        is_large = size_bytes >= LARGE_BYTES
        numbers[_LARGE if is_large else _SMALL] += 1
        numbers[_LAST_LARGE_NS if is_large else _LAST_SMALL_NS] = now_ns

    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await loop.create_server(lambda: Session(arrived, hangs=hangs), "127.0.0.1", port, backlog=1000)
    await ended.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("--hang", action="store_true")
    given = parser.parse_args()
    uvloop.run(_serve(given.port, given.file, given.hang))


if __name__ == "__main__":
    main()
