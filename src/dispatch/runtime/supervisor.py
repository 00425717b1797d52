"""The supervisor: starts the children, keeps them alive, ends them in order. It must never fail itself.

So it does little: no event loop, no threads, no parsing of anything from the network. One `select` over the
signals and the children's status pipes; all else is deadlines. It hands each child the secret of its role and
uses none itself (decision 0015).

Start: hold `<data>/supervisor.lock` (a second supervisor exits 75); wait until the children of an
older set, whose supervisor was killed, have let go of their locks (their lifeline has ended, so they
stop by themselves); only then `prepare` binds the ports and says what to run. Children are started
in that order, without waiting for one another: the logs between them are the buffer.

Life: a child that dies is started again (`restarts` says when, or that the whole gives up); one that
is silent for too long is aborted, so that it shows where it hangs, and then killed.

Faults of the machine in our own work: what a start needs is tried again while the machine may only lack it
for a moment; a child that cannot be started is one that died. Any other is one line and an end, and no child
is left.

End: SIGTERM and SIGINT drain the roles one after another in `drain_order`, each within its own time:
no new mail, then what is under way, then the accounts of it. A second one, `repeat_after_s` later or
more, or SIGQUIT ends all at once; sooner it is the same wish said twice (Ctrl-C and a service manager
that signals the whole group do that). Nothing that was acknowledged depends on any of this: a drain
saves others from seeing cut connections, and us from uncertain attempts.

Exit codes: 0 after a drain or a hurried end; 70 if a child had to be killed or failed in it; 71 after a fault
of the machine; 75 if the data folder is in use; else the code of the child that could not be started.
"""

from __future__ import annotations

import errno
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dispatch.observe import Reporter
from dispatch.runtime import inheritance, notify
from dispatch.runtime.locks import LOCK_NAME, FolderLock, LockHeld, held_by
from dispatch.runtime.process import ChildPace, ChildProcess, ChildSpec
from dispatch.runtime.restarts import GiveUp, RestartLimits, Restarts
from dispatch.runtime.shortage import SHORTAGE
from dispatch.runtime.signals import SignalInbox

T = TypeVar("T")

SUPERVISOR_LOCK = "supervisor.lock"
_NEVER = float("inf")
_OTHER_DATA = "a relay runs on this data directory: stop it, or name another directory with --data"

_STOPS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
# Room may be made, a disk may have failed once, or be mounted for reading until it is checked.
_MAY_PASS = SHORTAGE | {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS}

# A signal of ours may also reach a child that has no handler yet, or no longer.
_ENDS_AS_ASKED = frozenset({os.EX_OK, -signal.SIGTERM, -signal.SIGQUIT, -signal.SIGHUP})


@dataclass(frozen=True, slots=True)
class SupervisorLimits:
    """Every wait of the supervisor."""

    restarts: RestartLimits = field(default_factory=RestartLimits)
    pace: ChildPace = field(default_factory=ChildPace)
    older_set_s: float = 15.0
    """How long the children of a killed supervisor may take to end."""
    patience_s: float = 15.0
    """How long what a start needs is tried again while the machine lacks it."""
    drain_margin_s: float = 10.0
    """How much longer than its own drain time a child may take before it is killed."""
    hurry_s: float = 6.0
    """How long a child may take to end at once."""
    repeat_after_s: float = 1.0
    """From when on a second SIGTERM means more than the first."""
    silence_s: float = 60.0
    """A child that was ready and gives no sign of life for so long hangs."""
    start_s: float = 600.0
    """A child that is not ready after so long hangs."""
    abort_s: float = 5.0
    """From SIGABRT, which shows where it hangs, to SIGKILL."""
    late_s: float = 5.0
    """The supervisor itself woke up so much too late: the machine slept, and nobody was silent."""
    tick_s: float = 1.0
    """It wakes up at least so often, to notice that."""


class _StopAsked(Exception):
    """Before anything was started."""


class _Role:
    """A role, its history, and the process that has it now, if any."""

    def __init__(self, spec: ChildSpec, limits: RestartLimits) -> None:
        self.spec = spec
        self.restarts = Restarts(limits)
        self.process: ChildProcess | None = None
        self.start_at_s = _NEVER
        self.kill_at_s = _NEVER
        self.draining = False


class Supervisor:
    def __init__(
        self,
        data: Path,
        prepare: Callable[[], Sequence[ChildSpec]],
        *,
        role_folders: Mapping[str, Path],
        drain_order: Sequence[str],
        report: Reporter,
        ready: Callable[[], None] = lambda: None,
        limits: SupervisorLimits | None = None,
    ) -> None:
        """`role_folders`: whose `lock` each role holds for life. `ready`: called once, when all are ready.

        `prepare` is called when the data folder is ours, and may take a few seconds to bind its ports. It is
        called again where it raised `OSError`: then nothing of it may have stayed.
        """
        self._data = data
        self._prepare = prepare
        self._role_folders = role_folders
        self._drain_order = drain_order
        self._report = report
        self._ready = ready
        self._limits = limits or SupervisorLimits()
        self._inbox = SignalInbox(
            (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD)
        )
        # No epoll: with a handful of pipes it is no faster, and each of them would be a call that can fail.
        self._selector = selectors.PollSelector()
        self._roles: dict[str, _Role] = {}
        self._lifeline_fd = -1
        """The children's end; ours is only ever closed."""
        self._announced = False
        self._watchdog_s = notify.watchdog_interval_s() or _NEVER
        self._feed_at_s = _NEVER
        self._drain_since_s: float | None = None
        self._to_drain: list[_Role] = []
        self._hurried = False
        self._exit_code = 0

    def run(self) -> int:
        """Block until the end; the exit code. Main thread only. `PermissionError`: this is not our data."""
        os.umask(0o077)
        with ExitStack() as until_end:
            try:
                code = self._live(until_end)
            except LockHeld as held:
                self._report("lock_held", path=held.path, pid=held.pid, hint=_OTHER_DATA)
                return os.EX_TEMPFAIL
            except PermissionError:
                raise
            except OSError as error:
                code = os.EX_OSERR
                self._report("supervisor_fault", why=str(error), code=code)
            finally:
                # Whatever ended us, no child outlives us.
                self._end_children()
            self._report("stopped", code=code)
            return code

    def _live(self, until_end: ExitStack) -> int:
        self._inbox.open()
        until_end.callback(self._inbox.close)
        self._selector.register(self._inbox.fd, selectors.EVENT_READ)
        until_end.callback(self._selector.close)
        self._lifeline_fd, lifeline_own_end = os.pipe2(os.O_CLOEXEC)
        until_end.callback(os.close, self._lifeline_fd)
        until_end.callback(os.close, lifeline_own_end)
        try:
            lock = self._patiently(lambda: FolderLock(self._data / SUPERVISOR_LOCK))
            until_end.callback(lock.release)
            code = self._patiently(self._wait_for_older_set)
            if code is not None:
                return code
            specs = self._patiently(self._prepare)
        except _StopAsked:
            return 0
        self._plan(specs)
        self._serve()
        return self._exit_code

    def _end_children(self) -> None:
        """Those that a fault has left: after an end in order there are none. Takes signals and time only."""
        left = [role.process for role in self._roles.values() if role.process is not None]
        for process in left:
            process.send(signal.SIGQUIT)
        kill_at_s = time.monotonic() + self._limits.hurry_s
        for process in left:
            if not process.wait(max(0.0, kill_at_s - time.monotonic())):
                self._report("child_killed", role=process.spec.role, pid=process.pid)
                process.send(signal.SIGKILL)
                process.wait(self._limits.abort_s)
            code = process.ended()
            how = "not yet" if code is None else _how(code)
            self._report("child_ended", role=process.spec.role, pid=process.pid, how=how)

    # Start

    def _patiently(self, step: Callable[[], T]) -> T:
        """Do it, and again while the machine may only lack it for a moment.

        Raises the last `OSError`, or `_StopAsked`.
        """
        give_up_s = time.monotonic() + self._limits.patience_s
        wait_s = self._limits.restarts.first_s
        while True:
            try:
                return step()
            except OSError as error:
                if error.errno not in _MAY_PASS or time.monotonic() + wait_s > give_up_s:
                    raise
                self._report("supervisor_fault", why=str(error), again_in_s=wait_s)
            self._pause(wait_s)
            wait_s = min(wait_s * 2, self._limits.restarts.longest_s)

    def _pause(self, wait_s: float) -> None:
        """Raises `_StopAsked`."""
        until_s = time.monotonic() + wait_s
        while (left_s := until_s - time.monotonic()) > 0:
            self._selector.select(left_s)
            if self._inbox.take().keys() & _STOPS:
                raise _StopAsked

    def _wait_for_older_set(self) -> int | None:
        """None: the folders are free. Otherwise the code to exit with."""
        deadline_s = time.monotonic() + self._limits.older_set_s
        said = False
        while True:
            holders = {role: held_by(folder / LOCK_NAME) for role, folder in self._role_folders.items()}
            held = {role: pid for role, pid in holders.items() if pid is not None}
            if not held:
                if said:
                    self._report("older_set_gone")
                return None
            if time.monotonic() >= deadline_s:
                self._report("lock_held", **held, hint=_OTHER_DATA)
                return os.EX_TEMPFAIL
            if not said:
                self._report("older_set_waiting", wait_s=self._limits.older_set_s, **held)
                said = True
            self._pause(0.05)

    def _plan(self, specs: Sequence[ChildSpec]) -> None:
        """Every role is to be started now."""
        now_s = time.monotonic()
        for spec in specs:
            assert spec.role in self._drain_order, f"{spec.role} has no place in the drain order"
            role = self._roles[spec.role] = _Role(spec, self._limits.restarts)
            role.start_at_s = now_s
        if self._watchdog_s != _NEVER:
            self._feed_at_s = now_s

    def _start(self, role: _Role, now_s: float) -> None:
        role.start_at_s = _NEVER
        try:
            process = ChildProcess(role.spec, self._data, self._limits.pace, self._lifeline_fd, now_s)
        except OSError as error:
            self._report("child_died", role=role.spec.role, why=str(error))
            self._after_end(role, os.EX_OSERR, now_s, now_s)
            return
        role.process = process
        self._selector.register(process.status_fd, selectors.EVENT_READ, role)
        self._report("child_started", role=role.spec.role, pid=process.pid)

    # Life

    def _serve(self) -> None:
        while not self._is_over():
            now_s = time.monotonic()
            wake_at_s = self._next_deadline_s(now_s)
            events = self._selector.select(max(0.0, wake_at_s - now_s))
            now_s = time.monotonic()
            for key, _ in events:
                if isinstance(key.data, _Role):
                    self._hear(key.data, now_s)
            if now_s - wake_at_s > self._limits.late_s:
                self._forgive_silence(now_s)
            # Before the dead are counted: a signal to the whole group must not look like a crash.
            self._obey(self._inbox.take(), now_s)
            self._reap(now_s)
            self._act_on_deadlines(now_s)

    def _is_over(self) -> bool:
        return self._drain_since_s is not None and not self._to_drain

    def _next_deadline_s(self, now_s: float) -> float:
        wake_at_s = min(now_s + self._limits.tick_s, self._feed_at_s)
        for role in self._roles.values():
            wake_at_s = min(wake_at_s, role.start_at_s, role.kill_at_s)
            if role.process is not None and role.kill_at_s == _NEVER:
                wake_at_s = min(wake_at_s, self._hangs_at_s(role.process))
        return wake_at_s

    def _hangs_at_s(self, process: ChildProcess) -> float:
        if process.is_ready:
            return process.heard_s + self._limits.silence_s
        return process.started_s + self._limits.start_s

    def _forgive_silence(self, now_s: float) -> None:
        for role in self._roles.values():
            if role.process is not None:
                role.process.heard_s = now_s

    def _hear(self, role: _Role, now_s: float) -> None:
        process = role.process
        assert process is not None
        said = process.hear()
        if not said:
            # The pipe ended a moment before its process: `_reap` will see to the rest.
            self._selector.unregister(process.status_fd)
            return
        process.heard_s = now_s
        if inheritance.READY in said and not process.is_ready:
            process.is_ready = True
            role.restarts.ready()
            self._report(
                "child_ready", role=role.spec.role, pid=process.pid, after_s=now_s - process.started_s
            )
            self._announce()
        for word, event in (
            (inheritance.DRAINING, "child_draining"),
            (inheritance.RELOADED, "child_reloaded"),
            (inheritance.RELOAD_FAILED, "reload_failed"),
        ):
            if word in said:
                self._report(event, role=role.spec.role)

    def _announce(self) -> None:
        everybody = all(role.process is not None and role.process.is_ready for role in self._roles.values())
        if everybody and not self._announced and self._drain_since_s is None:
            self._announced = True
            self._report("ready", pid=os.getpid())
            notify.notify(f"READY=1\nMAINPID={os.getpid()}")
            self._ready()

    def _reap(self, now_s: float) -> None:
        own = {role.process.pid: role for role in self._roles.values() if role.process is not None}
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None:
                return
            role = own.get(dead.si_pid)
            if role is None:
                # As process 1 of a container we inherit other people's orphans.
                os.waitpid(dead.si_pid, os.WNOHANG)
                continue
            self._bury(role, now_s)

    def _bury(self, role: _Role, now_s: float) -> None:
        process = role.process
        assert process is not None
        if process.status_fd in self._selector.get_map():
            self._hear(role, now_s)
            if process.status_fd in self._selector.get_map():
                self._selector.unregister(process.status_fd)
        code = process.ended()
        assert code is not None, "waitid said that it is dead"
        process.close()
        role.process = None
        role.kill_at_s = _NEVER
        event = "child_ended" if self._drain_since_s is not None else "child_died"
        self._report(
            event, role=role.spec.role, pid=process.pid, how=_how(code), lived_s=now_s - process.started_s
        )
        if role.draining and code not in _ENDS_AS_ASKED:
            self._exit_code = self._exit_code or (code if code > 0 else os.EX_SOFTWARE)
        self._after_end(role, code, process.started_s, now_s)

    def _after_end(self, role: _Role, code: int, started_s: float, now_s: float) -> None:
        if self._drain_since_s is not None:
            return
        match role.restarts.ended(code, started_s, now_s):
            case GiveUp(whole, why):
                self._report("gave_up", role=role.spec.role, code=whole, why=why)
                self._exit_code = whole
                self._begin_drain(now_s)
            case again:
                role.start_at_s = again.at_s
                self._report("child_restarts", role=role.spec.role, in_s=again.at_s - now_s)

    def _act_on_deadlines(self, now_s: float) -> None:
        if now_s >= self._feed_at_s:
            self._feed_at_s = now_s + self._watchdog_s
            notify.notify("WATCHDOG=1")
        for role in self._roles.values():
            if now_s >= role.start_at_s:
                self._start(role, now_s)
            process = role.process
            if process is None:
                continue
            if now_s >= role.kill_at_s:
                self._report("child_killed", role=role.spec.role, pid=process.pid)
                process.send(signal.SIGKILL)
                role.kill_at_s = _NEVER
            elif role.kill_at_s == _NEVER and now_s >= self._hangs_at_s(process):
                self._report(
                    "child_silent", role=role.spec.role, pid=process.pid, for_s=now_s - process.heard_s
                )
                process.send(signal.SIGABRT)
                role.kill_at_s = now_s + self._limits.abort_s
        self._advance_drain(now_s)

    # Signals and the end

    def _obey(self, came: Mapping[signal.Signals, int], now_s: float) -> None:
        if signal.SIGHUP in came:
            self._forward_hangup()
        if signal.SIGTERM in came or signal.SIGINT in came:
            if self._drain_since_s is None:
                self._begin_drain(now_s)
            elif now_s - self._drain_since_s >= self._limits.repeat_after_s:
                self._hurry(now_s)
        if signal.SIGQUIT in came:
            if self._drain_since_s is None:
                self._begin_drain(now_s)
            self._hurry(now_s)

    def _forward_hangup(self) -> None:
        for role in self._roles.values():
            if role.spec.reload_on_hangup and role.process is not None:
                role.process.send(signal.SIGHUP)
                self._report("reload_forwarded", role=role.spec.role)

    def _begin_drain(self, now_s: float) -> None:
        if self._drain_since_s is not None:
            return
        self._drain_since_s = now_s
        self._report("draining", order=",".join(self._drain_order))
        notify.notify("STOPPING=1")
        self._to_drain = [self._roles[name] for name in self._drain_order if name in self._roles]
        for role in self._roles.values():
            role.start_at_s = _NEVER

    def _advance_drain(self, now_s: float) -> None:
        while self._to_drain:
            role = self._to_drain[0]
            if not role.draining:
                self._drain(role, now_s, role.spec.drain_s + self._limits.drain_margin_s)
            if role.process is not None:
                return
            del self._to_drain[0]

    def _drain(self, role: _Role, now_s: float, limit_s: float) -> None:
        role.draining = True
        for listener in role.spec.listeners:
            # With the child's copy, this ends the listening: a new client is refused, not left to wait.
            listener.socket.close()
        if role.process is not None:
            role.process.send(signal.SIGTERM)
            role.kill_at_s = now_s + limit_s

    def _hurry(self, now_s: float) -> None:
        if self._hurried:
            return
        self._hurried = True
        self._report("hurried")
        for role in self._to_drain:
            self._drain(role, now_s, self._limits.hurry_s)
            if role.process is not None:
                role.process.send(signal.SIGQUIT)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
