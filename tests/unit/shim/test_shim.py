"""The shim under small programs: what was synced survives a power cut, what was not may go, calls fail."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from tests.shim.build import NoCompiler, built
from tests.shim.control import Kind, MarkSampler, Shim, Where
from tests.shim.power import Report

SEEDS = range(20)
DIE = "\nos.kill(os.getpid(), 9)\n"
BOUND_S = 60


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def shim(data: Path) -> Iterator[Shim]:
    try:
        built()
    except NoCompiler as missing:
        pytest.skip(str(missing))
    with Shim.on_tmpfs(data) as one:
        yield one


def start(shim: Shim, program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", "import os, sys\n" + textwrap.dedent(program)],
        cwd=shim.data,
        env={**os.environ, **shim.environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(shim: Shim, program: str, code: int = 0) -> str:
    process = start(shim, program)
    output, errors = process.communicate(timeout=BOUND_S)
    assert process.returncode == code, errors
    return output


def after_cuts(shim: Shim, before: str, program: str, look: Callable[[], object]) -> list[object]:
    """What is seen after the power was cut at the end of `program`, over many seeds."""
    seen = []
    for seed in SEEDS:
        for path in shim.data.iterdir():
            path.unlink()
        run(shim, before + SYNC_FOLDER + program + DIE, -signal.SIGKILL)
        shim.cut(Random(seed))
        seen.append(look())
    return seen


SYNC_FOLDER = "\nhere = os.open('.', os.O_RDONLY); os.fsync(here)\n"
A = "a = os.open('a', os.O_RDWR | os.O_CREAT); os.pwrite(a, b'1' * 2000, 0); os.fsync(a)\n"


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def test_what_was_synced_is_always_there(shim: Shim, data: Path) -> None:
    program = "os.pwritev(a, [b'2' * 500, b'2' * 1000], 1000); os.fdatasync(a)"
    seen = after_cuts(shim, A, program, lambda: content(data / "a"))
    assert set(seen) == {b"1" * 1000 + b"2" * 1500}


def test_what_was_not_synced_falls_back_by_sectors_or_stays(shim: Shim, data: Path) -> None:
    seen = after_cuts(shim, A, "os.pwrite(a, b'2' * 1024, 512)", lambda: content(data / "a"))
    assert b"1" * 2000 in seen
    assert b"1" * 512 + b"2" * 1024 + b"1" * 464 in seen
    assert set(seen) <= {
        b"1" * 512 + first * 512 + second * 512 + b"1" * 464
        for first in (b"1", b"2")
        for second in (b"1", b"2")
    }
    assert len(set(seen)) > 2


def test_a_sector_falls_back_to_any_version_since_the_sync(shim: Shim, data: Path) -> None:
    program = "for digit in b'234': os.pwrite(a, bytes([digit]) * 512, 0)"
    seen = after_cuts(shim, A, program, lambda: (content(data / "a") or b"")[:512])
    assert {b"1" * 512, b"4" * 512} < set(seen) <= {digit * 512 for digit in (b"1", b"2", b"3", b"4")}


def test_a_file_that_grew_may_be_short_again_or_have_holes(shim: Shim, data: Path) -> None:
    program = "os.lseek(a, 0, os.SEEK_END); os.write(a, b'2' * 3000)"
    seen = [str(each) for each in after_cuts(shim, A, program, lambda: content(data / "a"))]
    assert str(b"1" * 2000) in seen
    assert str(b"1" * 2000 + b"2" * 3000) in seen
    assert any("\\x00" in each for each in seen)


def test_what_a_truncation_took_may_come_back(shim: Shim, data: Path) -> None:
    for program in ("os.ftruncate(a, 700)", "os.close(os.open('a', os.O_WRONLY | os.O_TRUNC))"):
        seen = after_cuts(shim, A, program, lambda: content(data / "a"))
        assert set(seen) == {b"1" * 2000, b"1" * (700 if "700" in program else 0)}


def test_names_may_go_until_their_folder_is_synced(shim: Shim, data: Path) -> None:
    program = "b = os.open('b', os.O_RDWR | os.O_CREAT); os.write(b, b'x'); os.fsync(b)\n"
    assert set(after_cuts(shim, A, program, lambda: content(data / "b"))) == {b"x", None}
    assert set(after_cuts(shim, A, program + SYNC_FOLDER, lambda: content(data / "b"))) == {b"x"}


def test_a_replaced_file_may_come_back_whole(shim: Shim, data: Path) -> None:
    program = "b = os.open('b', os.O_RDWR | os.O_CREAT); os.write(b, b'x'); os.fsync(b); os.rename('b', 'a')"
    seen = after_cuts(shim, A, program, lambda: (content(data / "a"), content(data / "b")))
    # The last: the creation is durable, the rename is not.
    assert set(seen) == {(b"x", None), (b"1" * 2000, None), (b"1" * 2000, b"x")}
    seen = after_cuts(shim, A, program + SYNC_FOLDER, lambda: (content(data / "a"), content(data / "b")))
    assert set(seen) == {(b"x", None)}


def test_a_removed_file_may_come_back_whole(shim: Shim, data: Path) -> None:
    assert set(after_cuts(shim, A, "os.unlink('a')", lambda: content(data / "a"))) == {b"1" * 2000, None}
    assert set(after_cuts(shim, A, "os.unlink('a')" + SYNC_FOLDER, lambda: content(data / "a"))) == {None}
    assert not list(shim.data.parent.glob(".*.kept/*"))


def test_a_folder_that_nobody_syncs_keeps_a_bounded_number_of_removed_files(shim: Shim) -> None:
    run(shim, "for n in range(2000): os.close(os.open('a', os.O_RDWR | os.O_CREAT)); os.unlink('a')")
    assert 0 < len(list(shim.data.parent.glob(".*.kept/*"))) <= 513


def test_what_a_failed_sync_was_to_write_stays_in_doubt_until_it_is_written_anew(
    shim: Shim, data: Path
) -> None:
    failing = """
os.pwrite(a, b'2' * 512, 0)
try: os.fdatasync(a)
except OSError: pass
else: raise SystemExit('not failed')
"""
    shim.arm(None, {"sync"}, 1, errno.EIO, path="failing", lasting=True)
    # The rule is for a file of that name; the first sync goes by another.
    before = A + "os.rename('a', 'failing'); a = os.open('failing', os.O_RDWR)\n"
    again = "os.rename('failing', 'b'); os.close(a); a = os.open('b', os.O_RDWR)\n"

    def look() -> bytes:
        return (content(data / "b") or b"")[:512]

    again += SYNC_FOLDER
    assert set(after_cuts(shim, before, failing + again + "os.fdatasync(a)", look)) == {
        b"1" * 512,
        b"2" * 512,
    }
    rewritten = "os.pwrite(a, b'2' * 512, 0); os.fdatasync(a)"
    assert set(after_cuts(shim, before, failing + again + rewritten, look)) == {b"2" * 512}


def test_a_sync_by_another_process_counts(shim: Shim, data: Path) -> None:
    program = """os.pwrite(a, b'2' * 2000, 0)
if os.fork() == 0:
    os.fsync(os.open('a', os.O_RDWR))
    os._exit(0)
os.wait()
"""
    seen = after_cuts(shim, A, program, lambda: content(data / "a"))
    assert set(seen) == {b"2" * 2000}
    program = (
        "import subprocess\nsubprocess.run([sys.executable, '-c', \"open('a', 'r+').write('2' * 2000)\"])"
    )
    assert len(set(after_cuts(shim, A, program, lambda: content(data / "a")))) > 1


def test_threads_that_write_while_others_sync_lose_nothing_that_was_synced(shim: Shim, data: Path) -> None:
    program = """
        import threading
        file = os.open('a', os.O_RDWR | os.O_CREAT)
        os.fsync(os.open('.', os.O_RDONLY))
        def work(slot):
            for number in range(1, 1 << 30):
                os.pwrite(file, b'%08d' % number * 128, slot * 1024)
                os.fdatasync(file)
                os.write(1, b'%d %d\\n' % (slot, number))
        for slot in range(6):
            threading.Thread(target=work, args=(slot,)).start()
    """
    lost_something = False
    for seed in range(8):
        (data / "a").unlink(missing_ok=True)
        process = start(shim, program)
        assert process.stdout is not None
        synced: dict[int, int] = {}
        for line in process.stdout:
            slot, number = map(int, line.split())
            synced[slot] = number
            if sum(synced.values()) > 300 + 7 * seed:
                process.kill()
                break
        for line in process.stdout.read().splitlines():
            slot, number = map(int, line.split())
            synced[slot] = number
        process.communicate()
        before = (data / "a").read_bytes()
        shim.cut(Random(seed))
        after = (data / "a").read_bytes()
        lost_something |= before != after
        for slot, number in synced.items():
            for at in range(slot * 1024, slot * 1024 + 1024, 8):
                assert number <= int(after[at : at + 8]) <= number + 1
    assert lost_something


def test_sqlite_keeps_every_full_commit_and_is_caught_losing_lax_ones(shim: Shim, data: Path) -> None:
    program = """
        import apsw
        db = apsw.Connection('db')
        db.pragma('locking_mode', 'EXCLUSIVE'); db.pragma('journal_mode', 'WAL')
        db.pragma('synchronous', '{}'); db.pragma('wal_autocheckpoint', 20)
        db.execute('CREATE TABLE t (n INTEGER, filler TEXT)')
        for number in range(1, 1 << 30):
            db.execute('INSERT INTO t VALUES (?, ?)', (number, 'x' * 700))
            os.write(1, b'%d\\n' % number)
    """
    assert commits_lost(shim, program.format("FULL")) == [0] * 10
    assert max(commits_lost(shim, program.format("OFF"))) > 0


def commits_lost(shim: Shim, program: str) -> list[int]:
    lost = []
    for seed in range(10):
        for path in shim.data.iterdir():
            path.unlink()
        process = start(shim, program)
        assert process.stdout is not None
        committed = 0
        for line in process.stdout:
            committed = int(line)
            if committed >= 60 + 5 * seed:
                process.kill()
                break
        committed = max([committed, *map(int, process.stdout.read().split())])
        process.communicate()
        shim.cut(Random(seed))
        lost.append(committed - kept_commits(shim.data / "db"))
    return [max(0, each) for each in lost]


def kept_commits(path: Path) -> int:
    import apsw

    if not path.exists():
        return 0
    try:
        with apsw.Connection(str(path)) as db:
            rows = [row[0] for row in db.execute("SELECT n FROM t ORDER BY n")]
    except apsw.Error:
        return 0
    return len(rows) if rows == list(range(1, len(rows) + 1)) else 0


# ---------------------------------------------------------------- marks and the machine's start


def test_a_mark_falls_back_to_what_it_was_and_shared_memory_goes(shim: Shim, data: Path) -> None:
    (data / "db-shm").write_bytes(b"x")
    (data / "in-hand").write_bytes(b"noted")
    (data / "low.mark").write_bytes((5).to_bytes(8, "little"))
    with MarkSampler(data, every_s=0.001) as marks:
        (data / "late.mark").write_bytes((7).to_bytes(8, "little"))
        (data / "low.mark").write_bytes((6).to_bytes(8, "little"))
        while min(len(marks.samples.get(name, ())) for name in ("low.mark", "late.mark")) < 2:
            pass
    fallen = set()
    noted = set()
    for seed in SEEDS:
        (data / "low.mark").write_bytes((9).to_bytes(8, "little"))
        (data / "in-hand").write_bytes(b"noted")
        report = shim.cut(Random(seed), marks.samples)
        assert isinstance(report, Report)
        fallen.add(int.from_bytes((data / "low.mark").read_bytes(), "little"))
        noted.add((data / "in-hand").read_bytes())
    assert {5, 9} <= fallen <= {0, 5, 6, 9}
    assert noted == {b"noted", bytes(5)}
    assert marks.samples["late.mark"][0] == bytes(8)
    assert not (data / "db-shm").exists()


def test_after_a_power_cut_the_machine_has_started_anew(shim: Shim) -> None:
    program = "print(open('/proc/sys/kernel/random/boot_id').read().strip())"
    ids = [run(shim, program), run(shim, program)]
    for seed in (1, 2):
        shim.cut(Random(seed))
        ids += [run(shim, program), run(shim, program)]
    assert ids[0::2] == ids[1::2]
    assert len(set(ids)) == 3
    assert all(len(each) == len(ids[0]) for each in ids)


# ---------------------------------------------------------------- faults

CALLS: dict[Kind, str] = {
    "open": "os.open('a', os.O_RDWR)",
    "create": "os.open('new', os.O_RDWR | os.O_CREAT)",
    "read": "os.pread(a, 10, 0)",
    "write": "os.pwritev(a, [b'x'], 0)",
    "sync": "os.fdatasync(a)",
    "truncate": "os.ftruncate(a, 5)",
    "fallocate": "os.posix_fallocate(a, 0, 9000)",
    "rename": "os.rename('a', 'new')",
    "unlink": "os.unlink('a')",
    "link": "os.link('a', 'new')",
    "mkdir": "os.mkdir('new')",
    "statvfs": "os.statvfs('.')",
    "list": "os.listdir('.')",
    "mmap": "mmap.mmap(a, 1000)",
    "socket": "socket.socket()",
    "connect": "client.connect(server.getsockname())",
    "accept": "server.accept()",
    "epoll": "select.epoll().register(server)",
}
SOCKETS = ("socket", "connect", "accept", "epoll")


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EMFILE])
def test_a_call_fails_with_the_error_it_was_told_to_and_is_not_done(
    shim: Shim, data: Path, kind: Kind, error: int
) -> None:
    process = start(
        shim,
        f"""
        import mmap, select, socket
        a = os.open('a', os.O_RDWR | os.O_CREAT); os.write(a, b'1' * 2000)
        server = socket.create_server(('127.0.0.1', 0)); client = socket.socket()
        server.setblocking(False)
        print('ready')
        sys.stdin.readline()
        try:
            {CALLS[kind]}
        except OSError as fault:
            print(fault.errno)
        """,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    rule = shim.arm(process.pid, {kind}, 1, error)
    output, errors = process.communicate("go\n", timeout=BOUND_S)
    assert (output, errors) == (f"{error}\n", "")
    assert rule.fired == shim.fired() == 1
    assert [path.name for path in data.iterdir()] == ["a"]
    assert (data / "a").read_bytes() == b"1" * 2000


def test_the_nth_call_fails_once_or_from_then_on_and_only_where_it_was_meant(shim: Shim, data: Path) -> None:
    program = """
        files = {name: os.open(name, os.O_RDWR | os.O_CREAT) for name in ('log', 'other', '../outside')}
        for name, file in [*files.items()] * 4:
            try: os.write(file, b'x')
            except OSError: print(name)
    """
    once = shim.arm(None, {"write"}, 2, errno.EIO, path="log")
    assert run(shim, program) == "log\n"
    shim.disarm()
    lasting = shim.arm("-c", {"write", "sync"}, 3, errno.EIO, lasting=True)
    assert run(shim, program).split() == ["log", "other"] * 3
    assert (once.fired, lasting.fired) == (1, 6)
    lasting.disarm()
    shim.arm("somebody-else", {"write"}, 1, errno.EIO)
    assert run(shim, program) == ""


def test_calls_are_counted_and_recorded(shim: Shim) -> None:
    process = start(
        shim,
        """
        import socket
        print('ready')
        sys.stdin.readline()
        a = os.open('new', os.O_RDWR | os.O_CREAT); os.write(a, b'1' * 2000); os.fsync(a)
        here = os.open('.', os.O_RDONLY); os.fsync(here)
        os.rename('new', 'old'); os.unlink('old')
        ours, theirs = socket.socketpair(); ours.send(b'x'); theirs.recv(1)
        print('done')
        sys.stdin.readline()
        """,
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    shim.start_recording(process.pid)
    shim.reset_counts(process.pid)
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"
    calls = [(kind, path) for kind, where, path, _ in shim.calls(process.pid) if where is not Where.ELSEWHERE]
    assert calls == [
        ("create", "new"),
        ("write", "new"),
        ("sync", "new"),
        ("open", ""),
        ("sync", ""),
        ("rename", "old"),
        ("unlink", "old"),
        ("write", "socket"),
        ("read", "socket"),
    ]
    counts = shim.counts(process.pid)
    assert (counts["create"], counts["sync"], counts["rename"], counts["unlink"]) == (1, 2, 1, 1)
    assert shim.pids("-c") == [process.pid]
    process.communicate("\n", timeout=BOUND_S)
