"""What `dispatch serve` runs: binds the ports, starts the three processes, keeps them, drains them.

When the data directory is its own, it opens or makes the vault's key, and publishes the settings once; from
then on only control publishes. Each process is born with what it may open: control with the vault's key,
intake and delivery with that of their snapshots (decision 0015). The supervisor itself reads no mail and no
network.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import dispatch
from dispatch.app.folders import Folders
from dispatch.app.publishing import Publisher
from dispatch.app.vault_key import open_key
from dispatch.observe import Reporter
from dispatch.runtime.file_systems import remark_on
from dispatch.runtime.process import ChildSpec, RunAs
from dispatch.runtime.sockets import Listening, Wanted, bind_listeners
from dispatch.runtime.supervisor import Supervisor
from dispatch.runtime.users import unprivileged_user
from dispatch.security.key_file import KeyFault
from dispatch.security.role_keys import role_key
from dispatch.security.vault import VaultFault
from dispatch.settings import Loaded, Settings, SettingsErrors
from dispatch.settings.deployment import VARIABLES as DEPLOYMENT_VARIABLES
from dispatch.store.sqlite import NewerSchema, StoreFault

ROLES = ("delivery", "intake", "control")
"""In the order in which they are started."""
USERS = ("dispatch",)
"""Who the processes become when the relay is started as root: one for all, who read each other's files."""
DRAIN_ORDER = ("intake", "delivery", "control")


def supervise(
    loaded: Loaded, sources: Sequence[str], report: Reporter, welcome: Callable[[Settings, Listening], None]
) -> int:
    """Run the relay until it is told to stop; the exit code.

    `sources` are the arguments with which control reads the settings again. `welcome` is called once, when
    everything is ready.
    """
    # We have the keys of all that follows, and must not write them to a core file; a limit of 1 counts also
    # where the kernel hands cores to a program (core(5)).
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    data = Path(loaded.settings.spool.directory)
    folders = Folders(data)
    started: list[tuple[Settings, Listening]] = []

    def prepare() -> list[ChildSpec]:
        run_as = unprivileged_user(
            "all", USERS, (Path(dispatch.__file__).parent,), (data, *folders.existing()), report
        )
        if run_as is not None:
            refuse_links(folders)
        if (remark := remark_on(data)) is not None:
            report("data_remark", folder=data, what=remark)
        key = open_key(folders, os.environ, report).key
        publisher = Publisher(folders, sources, key, report)
        try:
            settings = publisher.publish()
        finally:
            publisher.close()
        if run_as is not None:
            give(folders, run_as)
        bound = bind_listeners(wanted_ports(settings), report)
        started.append((settings, bound))
        return [
            ChildSpec(
                role,
                (
                    sys.executable,
                    "-m",
                    "dispatch.app",
                    role,
                    str(data),
                    *(sources if role == "control" else ()),
                ),
                bound.listeners if role == "intake" else (),
                reload_on_hangup=role == "control",
                run_as=run_as,
                environment=None if role == "control" else _without_settings(os.environ),
                secret=key if role == "control" else role_key(key, role),
            )
            for role in ROLES
        ]

    supervisor = Supervisor(
        data,
        prepare,
        role_folders={role: folders.lock_of(role) for role in ROLES},
        drain_order=DRAIN_ORDER,
        report=report,
        ready=lambda: welcome(*started[0]),
    )
    try:
        return supervisor.run()
    except (SettingsErrors, KeyFault, VaultFault, StoreFault) as fault:
        code = os.EX_CONFIG
        if isinstance(fault, StoreFault) and not isinstance(fault, NewerSchema):
            code = os.EX_IOERR
        for why in fault.mistakes if isinstance(fault, SettingsErrors) else (fault,):
            report("start_refused", why=str(why), code=code)
        return code


def _without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Settings among the variables, which may hold secrets, are control's to read and nobody else's."""
    return {
        name: value
        for name, value in environ.items()
        if not ((name.startswith("DISPATCH_") and "__" in name) or name in DEPLOYMENT_VARIABLES)
    }


def refuse_links(folders: Folders) -> None:
    """Where root writes for another user, who could have put a link there to something of root's."""
    for path in (folders.settings, folders.certificates, *_databases(folders)):
        if path.is_symlink():
            raise StoreFault(
                f"{path} is a link, which root does not write through: put a folder or file there"
            )


def give(folders: Folders, to: RunAs) -> None:
    """What root has written is read, and from now on written, by the user that control runs as. Not the key:
    control is handed what it needs of it. No link is followed, and nothing that has another name besides."""
    for folder in (folders.settings, folders.certificates):
        if folder.is_dir():
            _give(folder, to, os.O_DIRECTORY)
            for path in folder.iterdir():
                _give(path, to)
    for path in _databases(folders):
        _give(path, to)


def _give(path: Path, to: RunAs, kind: int = 0) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | kind)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return
        raise
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1):
            os.fchown(descriptor, to.uid, to.gid)
    finally:
        os.close(descriptor)


def _databases(folders: Folders) -> list[Path]:
    return sorted(folders.data.glob(f"{folders.settings_db.name}*"))


def wanted_ports(settings: Settings) -> list[Wanted]:
    wanted: list[Wanted] = []
    for section, purposes in ((settings.listener, ("smtp", "smtps")), (settings.api, ("http", "https"))):
        everywhere = set(section.bind) == {"::", "0.0.0.0"}  # noqa: S104 - compared, not bound
        addresses = () if everywhere else section.bind
        for purpose, ports in zip(purposes, (section.ports, section.tls_ports), strict=True):
            wanted += [Wanted(purpose, port, addresses) for port in ports]
    return wanted


def make_data_directory(data: Path) -> str | None:
    """Make it where it is missing, for its owner only; what is wrong with it, or None."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return f"{data} cannot be made: {error.strerror}. Name another folder with --data."
    if not os.access(data, os.R_OK | os.W_OK | os.X_OK):
        return f"{data} cannot be written by this user. Name another folder with --data."
    mode = data.stat().st_mode & 0o077
    if mode:
        try:
            data.chmod(0o700)
        except OSError:
            return f"{data} can be read by others (mode {mode:o}) and is not ours to repair: chmod 700 it."
    return None
