"""A child's life around its service: born, ready, beating, drained, gone.

`run_child` is only a shell. What it gives to a service, a `ChildContext`, can be made by anybody,
so tests and simulations run the same services together on one loop, without processes.

Signals: SIGTERM drains (as often as it comes: a service manager may signal the whole group),
SIGQUIT ends at once, SIGHUP reloads, SIGINT is the supervisor's business. The end of the lifeline
means that the supervisor is gone: the child drains for a short time and ends, so that the next set
finds the locks free. Should it hang then, nobody is left to kill it but SIGALRM, which it sets itself.

Faults: what a callback or a task lets escape ends the child with code 70, without cleaning up: the
state is unknown, the logs are made for it, and the supervisor starts a fresh one. Two are excepted, because
a peer could cause them at will: `OSError`, and what escapes from one connection's protocol (the loop closes
that connection). Both are reported.

Exit codes: 0 drained; 70 a fault; 71 the machine has nothing left to live on (no descriptor for a loop); 75 a
lock is held; what `ChildFault` says (74: settings cannot be read just now, 78: bad configuration).
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import os
import resource
import signal
import socket
import sys
import traceback
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from dispatch.observe import Reporter
from dispatch.runtime import inheritance
from dispatch.runtime.inheritance import Inheritance, Listener, take_inheritance
from dispatch.runtime.locks import LockHeld
from dispatch.runtime.process import HELD_BACK

_CLOSE_S = 5.0
"""How long `close` may take."""
_DRAIN_MARGIN_S = 2.0
"""How much longer than its grace `drain` may take."""

# Long-lived objects are frozen out of the collector's sight after the start; what a message leaves
# behind is freed by reference counts, so looking for cycles often only costs.
_GC_THRESHOLD = (50_000, 20, 50)


class ChildFault(Exception):
    """A child cannot go on, and says with which code it ends and why."""

    def __init__(self, code: int, why: str) -> None:
        self.code = code
        super().__init__(why)


class Service(Protocol):
    """What a role does; made by its `start` function."""

    async def drain(self, grace_s: float) -> None:
        """Take nothing new, finish what is under way, within `grace_s`."""
        ...

    async def reload(self) -> None:
        """Look at the settings again. Raising keeps what was."""
        ...

    async def close(self) -> None:
        """Let go of everything, durably. Called after `drain`, or instead of it when time is up."""
        ...


class ChildContext:
    """What a service is given at its start."""

    def __init__(
        self,
        role: str,
        data: Path,
        listeners: tuple[Listener, ...] = (),
        *,
        secret: bytes = b"",
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self.role = role
        self.data = data
        self.listeners = listeners
        self.secret = secret
        """What the supervisor gave this role and no other; empty where it gave nothing."""
        self.stopping = asyncio.Event()
        """Set before `drain` is called."""
        self._on_ready = on_ready
        self._is_ready = False

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        return tuple(listener.socket for listener in self.listeners)

    def ready(self) -> None:
        """The service works. Called for it after `start` returned, if it did not say so earlier."""
        if not self._is_ready:
            self._is_ready = True
            self._on_ready()


Start = Callable[[ChildContext], Awaitable[Service]]


def child_main(role: str, start: Start, report: Reporter) -> int:
    """Run a child on the best loop there is; what its process exits with. For the entry point."""
    faulthandler.enable()  # SIGABRT from the supervisor then shows where we hang
    # And must not write our secrets to a core file; 1 counts also where cores go to a program (core(5)).
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The low default is for programs that use select(); a connection is a descriptor.
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    runner = asyncio.Runner(loop_factory=_best_loop())
    life = run_child(role, start, report)
    try:
        code = runner.run(life)
    except OSError as error:
        # From the loop itself, its signals and pipes: what a service raises does not come here.
        report("child_fatal", role=role, code=os.EX_OSERR, why=str(error))
        life.close()
        code = os.EX_OSERR
    if code != 0:
        # The loop's own clean-up waits for threads and tasks that may hang for the reason we end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    runner.close()
    return code


async def run_child(role: str, start: Start, report: Reporter) -> int:
    """Live as the child that the environment describes; its exit code."""
    return await _Life(take_inheritance(), role, report).live(start)


class _Life:
    def __init__(self, inherited: Inheritance, role: str, report: Reporter) -> None:
        assert inherited.role == role, f"started as {inherited.role}, but the program is {role}"
        self._inherited = inherited
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._fault: asyncio.Future[int] = self._loop.create_future()
        self._hurry = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        os.set_blocking(inherited.status_fd, False)
        self._context = ChildContext(
            role,
            Path(inherited.data),
            inherited.listeners(),
            secret=inherited.secret(),
            on_ready=lambda: self._say(inheritance.READY),
        )

    async def live(self, start: Start) -> int:
        self._listen()
        self._beat()
        life = self._loop.create_task(self._live(start))
        await asyncio.wait((life, self._fault), return_when=asyncio.FIRST_COMPLETED)
        self._stop_listening()
        if not self._fault.done():
            fault = life.exception()
            if fault is None:
                return os.EX_OK
            self._end_for(fault)
        life.cancel()
        return self._fault.result()

    async def _live(self, start: Start) -> None:
        starting = self._loop.create_task(self._start(start))
        if not await _finished(starting, self._context.stopping):
            return
        service = starting.result()
        reloads = self._loop.create_task(self._reload_on_demand(service))
        await self._context.stopping.wait()
        reloads.cancel()
        self._say(inheritance.DRAINING)
        await _finished(self._loop.create_task(self._drain(service)), self._hurry)
        async with asyncio.timeout(_CLOSE_S):
            await service.close()

    async def _start(self, start: Start) -> Service:
        service = await start(self._context)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLD)
        self._context.ready()
        return service

    async def _drain(self, service: Service) -> None:
        try:
            async with asyncio.timeout(self._inherited.drain_s + _DRAIN_MARGIN_S):
                await service.drain(self._inherited.drain_s)
        except TimeoutError:
            self._report("drain_overdue", role=self._context.role, grace_s=self._inherited.drain_s)

    async def _reload_on_demand(self, service: Service) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            try:
                await service.reload()
            except Exception as error:
                self._report("reload_failed", role=self._context.role, why=str(error) or repr(error))
                self._say(inheritance.RELOAD_FAILED)
            else:
                self._say(inheritance.RELOADED)

    def _listen(self) -> None:
        """From here on nothing that is sent to us is lost or deadly."""
        loop = self._loop
        loop.set_exception_handler(self._on_loop_fault)
        loop.add_signal_handler(signal.SIGTERM, self._context.stopping.set)
        loop.add_signal_handler(signal.SIGQUIT, self._end_at_once)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
        loop.add_reader(self._inherited.lifeline_fd, self._on_orphaned)

    def _stop_listening(self) -> None:
        """What is still sent to us changes nothing any more.

        Left to the loop, its close would give the signals their deadly default back, while we are ending.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)

    def _end_at_once(self) -> None:
        self._hurry.set()
        self._context.stopping.set()

    def _on_orphaned(self) -> None:
        self._loop.remove_reader(self._inherited.lifeline_fd)
        self._report("supervisor_gone", role=self._context.role)
        grace_s = self._inherited.orphan_drain_s
        self._context.stopping.set()
        self._loop.call_later(grace_s, self._hurry.set)
        # SIGALRM has no handler on purpose: the kernel ends a process that cannot end itself.
        signal.setitimer(signal.ITIMER_REAL, grace_s + _CLOSE_S + 1)

    def _beat(self) -> None:
        self._say(inheritance.BEAT)
        self._loop.call_later(self._inherited.beat_s, self._beat)

    def _say(self, word: bytes) -> None:
        try:
            os.write(self._inherited.status_fd, word)
        except OSError:
            # Full: it does not listen and will find enough there. Broken: the lifeline says the rest.
            pass

    def _on_loop_fault(self, loop: AbstractEventLoop, context: dict[str, Any]) -> None:
        fault = context.get("exception")
        if fault is None or isinstance(fault, OSError) or "transport" in context or "protocol" in context:
            self._report("connection_fault", what=context.get("message", ""), why=_trace(fault))
        else:
            self._end_for(fault)

    def _end_for(self, fault: BaseException) -> None:
        if self._fault.done():
            return
        role = self._context.role
        match fault:
            case LockHeld():
                hint = "end that process, or name another data directory"
                self._report("lock_held", role=role, path=fault.path, pid=fault.pid, hint=hint)
                self._fault.set_result(os.EX_TEMPFAIL)
            case ChildFault():
                self._report("child_fatal", role=role, code=fault.code, why=str(fault))
                self._fault.set_result(fault.code)
            case _:
                self._report("child_fatal", role=role, code=os.EX_SOFTWARE, why=_trace(fault))
                self._fault.set_result(os.EX_SOFTWARE)


async def _finished(work: asyncio.Task[Any], interruption: asyncio.Event) -> bool:
    """Wait until the work is done (True; then what it raised is raised here), or cancel it at the event."""
    interrupted = asyncio.get_running_loop().create_task(interruption.wait())
    try:
        await asyncio.wait((work, interrupted), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
            return True
        work.cancel()
        await asyncio.wait((work,))
        return False
    finally:
        interrupted.cancel()


def _trace(fault: BaseException | None) -> str:
    return "" if fault is None else "".join(traceback.format_exception(fault)).rstrip()


def _best_loop() -> Callable[[], AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
