"""A shim under real processes: makes system calls fail, counts and records them, and keeps an undo journal.

A harness puts `environment()` into the environment of what it starts; all that these processes start in
turn is under the shim as well (`LD_PRELOAD`). Meanwhile, from outside::

    with Shim.on_tmpfs(relay.data) as shim:
        relay.environment.update(shim.environment())
        relay.start()
        rule = shim.arm("delivery", {"sync"}, 1, errno.EIO, path="ledger/")   # the next one, once
        until(lambda: rule.fired, "the ledger's sync has failed")
        shim.disarm()

        with MarkSampler(relay.data) as marks:                                # a power cut
            ...
            relay.kill()
        shim.cut(random, marks.samples)
        relay.start()

A process is named by its pid, or by a word of its command line that holds no slash: `"intake"`, `"delivery"`,
`"control"`, `"serve"`, so that also what it calls at its start can fail. Paths are relative to the data
folder, which the processes must call by the name that is given here.

Everything passes through one mapped file (shim.h has its layout); one harness at a time controls it. Mapped
stores are not seen by the shim: `MarkSampler` watches the marks instead.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import tempfile
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntFlag
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple, get_args

from tests.shim.build import built
from tests.shim.power import Report, cut, kept_beside

Kind = Literal[
    "open",
    "create",
    "read",
    "write",
    "sync",
    "truncate",
    "fallocate",
    "rename",
    "unlink",
    "link",
    "mkdir",
    "statvfs",
    "list",
    "mmap",
    "socket",
    "connect",
    "accept",
    "epoll",
    "close",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""In the order of `enum kind`. `read` and `write` are all their variants, also recv and send; `sync` is
fsync and fdatasync, of folders too; `rename` goes by the new name. `close` is counted and never fails."""
_ON_SOCKETS = {"socket", "connect", "accept", "epoll"}

_MAGIC = 0x314D494853
_HEAD = struct.Struct("<QIIQQQQ")
_FIRED_AT = 24
_RECORDED_AT = 32
_RULES_AT = 192
_RULE = struct.Struct("<IiIIiIqQ48s160s")
_RULES = 16
_PROCESSES_AT = _RULES_AT + _RULES * _RULE.size
_RULE_PLACES = range(_RULES_AT, _PROCESSES_AT, _RULE.size)
_PROCESS = struct.Struct("<iI184s32Q")
_PROCESSES = 64
_CALLS_AT = _PROCESSES_AT + _PROCESSES * _PROCESS.size
_CALL = struct.Struct("<iBBBB120s")
CALLS_MAX = 16384
"""Calls that one recording holds."""
_SIZE_BYTES = _CALLS_AT + CALLS_MAX * _CALL.size


class Where(IntFlag):
    """What a call is about."""

    BELOW = 1
    """A file or folder below the data folder."""
    SOCKET = 2
    ELSEWHERE = 4
    """Other files, pipes, devices."""


class Call(NamedTuple):
    kind: Kind
    where: Where
    path: str
    """Relative to the data folder where `BELOW`; "socket"; otherwise what the kernel calls it."""
    failed: bool
    """By a rule."""


class Rule:
    """One armed fault."""

    def __init__(self, block: mmap.mmap, at: int) -> None:
        self._block = block
        self._at = at
        self._fired: int | None = None

    @property
    def fired(self) -> int:
        """How many calls it has failed."""
        if self._fired is not None:
            return self._fired
        return int(_RULE.unpack_from(self._block, self._at)[7])

    def disarm(self) -> None:
        if self._fired is None:
            struct.pack_into("<I", self._block, self._at, 0)
            # The place may be another rule's from now on.
            self._fired = int(_RULE.unpack_from(self._block, self._at)[7])


class Shim:
    """The control of one data folder's processes. Make it before they start; `close` after they ended."""

    def __init__(self, folder: Path, data: Path, *, journaling: bool = True) -> None:
        """`folder`: for the control block and the journals, emptied; on a tmpfs, or it will be slow.

        A hidden folder beside `data` keeps files that lost their names. Without `journaling` only faults,
        counts and records are to be had, and `cut` is not.
        """
        self.data = Path(os.path.abspath(data))
        self.journals = folder / "journals"
        self._kept = kept_beside(self.data)
        for each in (self.journals, self._kept):
            shutil.rmtree(each, ignore_errors=True)
            each.mkdir(parents=True)
        # The processes of one relay may have different users.
        for each in (folder, self.journals, self._kept):
            each.chmod(0o777)
        self._control = folder / "control"
        self._control.unlink(missing_ok=True)
        with self._control.open("w+b") as file:
            file.truncate(_SIZE_BYTES)
            self._block = mmap.mmap(file.fileno(), _SIZE_BYTES)
        self._control.chmod(0o666)
        _HEAD.pack_into(self._block, 0, _MAGIC, 0, int(journaling), 0, 0, 0, 0)
        self._journaling = journaling
        self._rules: list[Rule] = []

    @classmethod
    @contextmanager
    def on_tmpfs(cls, data: Path, *, journaling: bool = True) -> Iterator[Shim]:
        """One in a folder of its own, gone afterwards."""
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(prefix="shim-", dir=memory if memory.is_dir() else None) as folder:
            shim = cls(Path(folder), data, journaling=journaling)
            try:
                yield shim
            finally:
                shim.close()

    def close(self) -> None:
        self._block.close()
        shutil.rmtree(self._kept, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """What the processes need in theirs. Raises `NoCompiler`."""
        return {
            "LD_PRELOAD": " ".join(filter(None, (str(built()), os.environ.get("LD_PRELOAD")))),
            "SHIM_CONTROL": str(self._control),
            "SHIM_DATA": str(self.data),
            "SHIM_JOURNALS": str(self.journals),
            "SHIM_KEPT": str(self._kept),
        }

    def cut(self, random: Random, samples: Mapping[str, Sequence[bytes]] | None = None) -> Report:
        """`power.cut` of this data folder. Every process must have ended."""
        assert self._journaling, "made without journals"
        report = cut(self.data, self.journals, random, samples)
        struct.pack_into("<Q", self._block, _HEAD.size - 8, 0)
        return report

    # ------------------------------------------------------------ faults

    def arm(
        self,
        who: int | str | None,
        kinds: Collection[Kind],
        nth: int,
        error: int,
        *,
        lasting: bool = False,
        where: Where | None = None,
        path: str = "",
    ) -> Rule:
        """The `nth` call from now (1: the next) among `kinds` fails with this errno and is not done.

        `who`: a pid, a word of the command line, or None for anybody; all that it fits count together.
        `lasting`: and every one after it, until disarmed. `where`: by default below the data folder, and
        on sockets for what only sockets know. `path`: only calls whose path contains it, or ends with it
        where a `$` follows; descriptors have one only below the data folder, and a `rename` goes by the new
        name. At most 16 rules at a time.

        A sync that fails on a file leaves what it was to sync to chance at the next power cut, even where
        a later sync of the same file is good, as long as it is not written anew.
        """
        assert nth >= 1
        if where is None:
            where = Where.SOCKET if _ON_SOCKETS.issuperset(kinds) else Where.BELOW
            assert where is Where.SOCKET or not _ON_SOCKETS & set(kinds), "say where"
        at = next((at for at in _RULE_PLACES if not struct.unpack_from("<I", self._block, at)[0]), None)
        assert at is not None, f"more than {_RULES} rules"
        pid, word = (who, "") if isinstance(who, int) else (0, who or "")
        bits = sum(1 << KINDS.index(kind) for kind in set(kinds))
        _RULE.pack_into(
            self._block, at, 0, pid, bits, where, error, lasting, nth, 0, word.encode(), path.encode()
        )
        struct.pack_into("<I", self._block, at, 1)
        rule = Rule(self._block, at)
        self._rules.append(rule)
        return rule

    def disarm(self) -> None:
        """All rules."""
        for rule in self._rules:
            rule.disarm()
        self._rules.clear()

    def fired(self) -> int:
        """Calls that were failed, by all rules since the beginning."""
        return int(struct.unpack_from("<Q", self._block, _FIRED_AT)[0])

    # ------------------------------------------------------------ what the processes call

    def pids(self, word: str | None = None) -> list[int]:
        """Processes that are or were under the shim, those with this word on their command line."""
        found = []
        for at in range(_PROCESSES_AT, _CALLS_AT, _PROCESS.size):
            pid, _, words, *_ = _PROCESS.unpack_from(self._block, at)
            if pid and (word is None or f" {word} ".encode() in words):
                found.append(pid)
        return found

    def _slot(self, pid: int) -> int:
        for at in range(_PROCESSES_AT, _CALLS_AT, _PROCESS.size):
            if struct.unpack_from("<i", self._block, at)[0] == pid:
                return at
        raise KeyError(f"process {pid} is not under the shim")

    def counts(self, pid: int) -> Counter[Kind]:
        """Calls by kind since the process started or `reset_counts`; failed ones count."""
        counts = _PROCESS.unpack_from(self._block, self._slot(pid))[3:]
        return Counter({kind: count for kind, count in zip(KINDS, counts, strict=False) if count})

    def reset_counts(self, pid: int) -> None:
        struct.pack_into("<32Q", self._block, self._slot(pid) + _PROCESS.size - 256, *[0] * 32)

    def start_recording(self, *pids: int) -> None:
        """Record the calls of these processes, and of no other; what was recorded before is forgotten."""
        for at in range(_PROCESSES_AT, _CALLS_AT, _PROCESS.size):
            struct.pack_into("<I", self._block, at + 4, 0)
        slots = [self._slot(pid) for pid in pids]
        self._block[_CALLS_AT:_SIZE_BYTES] = bytes(_SIZE_BYTES - _CALLS_AT)
        struct.pack_into("<Q", self._block, _RECORDED_AT, 0)
        for at in slots:
            struct.pack_into("<I", self._block, at + 4, 1)

    def calls(self, pid: int) -> list[Call]:
        """The recorded calls of a process so far, in order. At most `CALLS_MAX` of all processes together."""
        recorded = min(struct.unpack_from("<Q", self._block, _RECORDED_AT)[0], CALLS_MAX)
        found = []
        for number in range(recorded):
            its_pid, kind, where, failed, written, path = _CALL.unpack_from(
                self._block, _CALLS_AT + number * _CALL.size
            )
            if its_pid == pid and written:
                text = path.rstrip(b"\0").decode(errors="replace")
                found.append(Call(KINDS[kind], Where(where), text, bool(failed)))
        return found


class MarkSampler:
    """Copies every mark's eight bytes now and then while the relay lives; a context manager.

    Begin before the relay starts, one for each time that it is under power: what a mark was before the last
    cut cannot come back. The numbers a mark may fall back to are those of `samples`, never a newer one than
    at the relay's death, because it is not stored to afterwards.
    """

    def __init__(self, data: Path, *, every_s: float = 0.02, pattern: str = "*.mark") -> None:
        self.samples: dict[str, list[bytes]] = {}
        """Path below the data folder to what it held, the oldest first; thinned out when there are many."""
        self._data = data
        self._every_s = every_s
        self._pattern = pattern
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mark-sampler", daemon=True)

    def __enter__(self) -> MarkSampler:
        self._sample(first=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._sample(first=False)

    def _sample(self, *, first: bool) -> None:
        for path in self._data.rglob(self._pattern):
            try:
                with path.open("rb") as file:
                    value = file.read(8).ljust(8, b"\0")
            except OSError:
                continue
            # One that came to be under our eyes was all zeros before.
            known = self.samples.setdefault(str(path.relative_to(self._data)), [] if first else [bytes(8)])
            if not known or known[-1] != value:
                known.append(value)
            if len(known) > 1000:
                del known[1::2]
