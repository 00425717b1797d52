"""The command line's way to the settings: control's socket while the relay runs, else by itself.

Without a relay the command does what control would do, by the same code: it holds the supervisor's lock
meanwhile, so that none starts half-way.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import typer

from dispatch.app.folders import Folders
from dispatch.cli.options import fail, print_json
from dispatch.mail.report import CheckStep
from dispatch.operations.logs import reporter
from dispatch.runtime.bus import socket_path
from dispatch.runtime.bus_client import BusClient, BusError, BusFault
from dispatch.runtime.locks import FolderLock, LockHeld
from dispatch.runtime.process import RunAs
from dispatch.runtime.supervisor import SUPERVISOR_LOCK
from dispatch.security.key_file import KeyFault
from dispatch.security.vault import VaultFault
from dispatch.settings import SettingsUnreadable
from dispatch.settings.loading import data_directory
from dispatch.settings.requests import Answer, Changed, Refused, Request, TestRelay
from dispatch.store.sqlite import NewerSchema, StoreFault

Wanted = TypeVar("Wanted")
_ANSWERS: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)

TIMEOUT_S = 70.0
"""More than control waits for the other processes, and for one step of a relay's test."""
NOT_YET = "its control process does not answer yet, or no more; try again in a moment"


class Sources(NamedTuple):
    """What the options of a command say."""

    config: Path | None
    data: Path | None
    overrides: Sequence[str]

    @property
    def folder(self) -> Path:
        """The data directory, which need not exist."""
        if self.data is not None:
            return self.data.absolute()
        try:
            return data_directory(self.config, os.environ, self.overrides)
        except SettingsUnreadable as error:
            fail(os.EX_IOERR, str(error))

    def arguments(self) -> list[str]:
        """As `dispatch.app.publishing` takes them."""
        config = [] if self.config is None else ["--config", str(self.config.absolute())]
        return [*config, *(word for override in self.overrides for word in ("--set", override))]


def ask_control(sources: Sources, request: Request, wanted: type[Wanted]) -> Wanted:
    """The answer. Ends the program with 65 (EX_DATAERR), and every mistake, where it was refused."""
    _check_text(request)
    data = sources.folder
    path = socket_path(Folders(data).run, "control")
    answer = _asked(path, request) if path.exists() else None
    if answer is None:
        answer = _done_here(data, sources, request)
    if isinstance(answer, Refused):
        fail(os.EX_DATAERR, *answer.mistakes)
    assert isinstance(answer, wanted), f"{type(answer).__name__} where {wanted.__name__} was expected"
    return answer


def watch_test(sources: Sources, test: TestRelay) -> Iterator[CheckStep]:
    """The steps, as they come. Ends the program with 65 (EX_DATAERR) where the test is refused."""
    _check_text(test)
    data = sources.folder
    path = socket_path(Folders(data).run, "control")
    steps = _stream(path, test) if path.exists() else None
    for answer in _tested_here(data, sources, test) if steps is None else steps:
        if isinstance(answer, Refused):
            fail(os.EX_DATAERR, *answer.mistakes)
        assert isinstance(answer, CheckStep), f"{type(answer).__name__} where a step was expected"
        yield answer


def _check_text(request: Request) -> None:
    try:
        msgspec.msgpack.encode(request)
    except UnicodeEncodeError:
        fail(os.EX_USAGE, "what was given is not UTF-8, as all settings are.")


def _asked(path: Path, request: Request) -> Answer | None:
    """None: nobody listens there."""
    answers = _stream(path, request)
    return None if answers is None else next(answers)


def _stream(path: Path, request: Request) -> Iterator[Answer] | None:
    """The answers as they come; None: nobody listens there."""
    answers = _answers(path, request)
    first = next(answers, None)
    return None if first is None else chain((first,), answers)


def _answers(path: Path, request: Request) -> Iterator[Answer]:
    try:
        with BusClient(path, _ANSWERS, TIMEOUT_S) as client:
            for answer in client.stream(request):
                if isinstance(answer, BusError):
                    why = f"the control process could not do it: {answer.message}; its log says more"
                    fail(os.EX_SOFTWARE, why)
                yield answer
    except BusFault as fault:
        match fault.__cause__:
            case PermissionError():
                fail(os.EX_NOPERM, str(fault), "Run this as the user whose relay it is, or as root.")
            case ConnectionRefusedError() | FileNotFoundError():
                # What is left of a relay that was killed.
                return
            case _:
                fail(os.EX_UNAVAILABLE, f"no answer from the control process: {fault}")


@contextmanager
def holding(data: Path, otherwise: str) -> Iterator[Folders]:
    """Be the only one to work on the data directory; ends the program where that cannot be, or fails.

    `otherwise`: what to do where a relay runs.
    """
    if not data.is_dir():
        fail(os.EX_NOINPUT, f"{data} does not exist; name the data directory of the relay with --data.")
    folders = Folders(data)
    umask = os.umask(0o077)
    try:
        with FolderLock(data / SUPERVISOR_LOCK):
            try:
                yield folders
            finally:
                _give_to_owner(folders)
    except LockHeld as held:
        fail(os.EX_TEMPFAIL, f"a relay works on {data} (process {held.pid}): {otherwise}.")
    except (KeyFault, VaultFault, NewerSchema) as error:
        fail(os.EX_CONFIG, str(error))
    except StoreFault as error:
        fail(os.EX_IOERR, str(error))
    finally:
        os.umask(umask)


def _done_here(data: Path, sources: Sources, request: Request) -> Answer:
    # What only this way needs: a relay that runs is asked without it.
    from dispatch.app.configuring import Configuring
    from dispatch.app.publishing import Publisher
    from dispatch.app.vault_key import open_key

    report = reporter("command", "warning", "text")
    with holding(data, NOT_YET) as folders:
        key = open_key(folders, os.environ, report).key
        configuring = Configuring(Publisher(folders, sources.arguments(), key, report), report)
        try:
            return configuring.handle(request)
        finally:
            configuring.close()


def _tested_here(data: Path, sources: Sources, test: TestRelay) -> Iterator[Answer]:
    import asyncio

    from dispatch.app.checkups import Checkups
    from dispatch.app.configuring import Configuring
    from dispatch.app.machine import this_machine
    from dispatch.app.publishing import Publisher
    from dispatch.app.vault_key import open_key

    report = reporter("command", "warning", "text")
    with holding(data, NOT_YET) as folders, asyncio.Runner() as runner:
        key = open_key(folders, os.environ, report).key
        configuring = Configuring(Publisher(folders, sources.arguments(), key, report), report)

        async def begin() -> AsyncIterator[Answer]:
            return Checkups(this_machine(data), configuring, report).steps(test)

        try:
            steps = runner.run(begin())
            while (step := runner.run(_next(steps))) is not None:
                yield step
        finally:
            configuring.close()


async def _next(steps: AsyncIterator[Answer]) -> Answer | None:
    return await anext(steps, None)


def _give_to_owner(folders: Folders) -> None:
    """What root has written here belongs to whose data these are, or their relay could not read it."""
    owner = folders.data.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    from dispatch.app.supervise import give

    give(folders, RunAs(owner.st_uid, owner.st_gid))
    for name in (SUPERVISOR_LOCK, ".dispatch-key"):
        path = folders.data / name
        if path.exists():
            os.chown(path, owner.st_uid, owner.st_gid)


def print_changed(what: str, changed: Changed, as_json: bool) -> None:
    """Say that it was done, and with what consequences."""
    if as_json:
        print_json(msgspec.structs.asdict(changed))
        return
    typer.echo(what)
    for remark in changed.remarks:
        typer.echo(f"note: {remark}", err=True)
    if changed.unconfirmed:
        late = " and ".join(changed.unconfirmed)
        typer.echo(f"note: {late} did not confirm it within seconds; it is in force once they do.", err=True)
