"""The command line's way to the settings: control's socket while the relay runs, else by itself.

Without a relay the command does what control would do, by the same code: it holds the supervisor's lock
meanwhile, so that none starts half-way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import typer

from dispatch.app.folders import Folders
from dispatch.cli.options import fail, print_json
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
from dispatch.settings.requests import Answer, Changed, Refused, Request
from dispatch.store.sqlite import NewerSchema, StoreFault

Wanted = TypeVar("Wanted")
_ANSWERS: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)

TIMEOUT_S = 30.0
"""More than control waits for the other processes."""


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
    try:
        msgspec.msgpack.encode(request)
    except UnicodeEncodeError:
        fail(os.EX_USAGE, "what was given is not UTF-8, as all settings are.")
    data = sources.folder
    path = socket_path(Folders(data).run, "control")
    answer = _asked(path, request) if path.exists() else None
    if answer is None:
        answer = _done_here(data, sources, request)
    if isinstance(answer, Refused):
        fail(os.EX_DATAERR, *answer.mistakes)
    assert isinstance(answer, wanted), f"{type(answer).__name__} where {wanted.__name__} was expected"
    return answer


def _asked(path: Path, request: Request) -> Answer | None:
    """None: nobody listens there."""
    try:
        with BusClient(path, _ANSWERS, TIMEOUT_S) as client:
            answer = client.ask(request)
    except BusFault as fault:
        match fault.__cause__:
            case PermissionError():
                fail(os.EX_NOPERM, str(fault), "Run this as the user whose relay it is, or as root.")
            case ConnectionRefusedError() | FileNotFoundError():
                # What is left of a relay that was killed.
                return None
            case _:
                fail(os.EX_UNAVAILABLE, f"no answer from the control process: {fault}")
    if isinstance(answer, BusError):
        fail(os.EX_SOFTWARE, f"the control process could not do it: {answer.message}; its log says more")
    return answer


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
    otherwise = "its control process does not answer yet, or no more; try again in a moment"
    with holding(data, otherwise) as folders:
        key = open_key(folders, os.environ, report).key
        configuring = Configuring(Publisher(folders, sources.arguments(), key, report), report)
        try:
            return configuring.handle(request)
        finally:
            configuring.close()


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
