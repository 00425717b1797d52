"""What `dispatch serve` runs: binds the ports, starts the three processes, keeps them, drains them.

It publishes the settings that it was given, once, when the data directory is its own; from then on only
control publishes. The supervisor itself reads no mail and no network.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import dispatch
from dispatch.app.folders import Folders
from dispatch.observe import Reporter
from dispatch.runtime.process import ChildSpec, RunAs
from dispatch.runtime.sockets import Listening, Wanted, bind_listeners
from dispatch.runtime.supervisor import Supervisor
from dispatch.runtime.users import unprivileged_user
from dispatch.settings import Loaded, Settings
from dispatch.settings.snapshot import publish

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
    settings = loaded.settings
    data = Path(settings.spool.directory)
    folders = Folders(data)
    listening: list[Listening] = []

    def prepare() -> list[ChildSpec]:
        run_as = unprivileged_user(
            "all", USERS, (Path(dispatch.__file__).parent,), (data, *folders.existing()), report
        )
        number = publish(folders.settings, settings)
        report("settings_published", number=number)
        if run_as is not None:
            _give(folders.settings, run_as)
        bound = bind_listeners(wanted_ports(settings), report)
        listening.append(bound)
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
            )
            for role in ROLES
        ]

    supervisor = Supervisor(
        data,
        prepare,
        role_folders={role: folders.lock_of(role) for role in ROLES},
        drain_order=DRAIN_ORDER,
        report=report,
        ready=lambda: welcome(settings, listening[0]),
    )
    return supervisor.run()


def _give(folder: Path, to: RunAs) -> None:
    """What root has published is read, and from now on written, by the user that control runs as."""
    for path in (folder, *folder.iterdir()):
        os.chown(path, to.uid, to.gid)


def wanted_ports(settings: Settings) -> list[Wanted]:
    addresses = tuple(settings.listener.bind)
    everywhere = set(addresses) == {"::", "0.0.0.0"}  # noqa: S104 - compared, not bound
    return [Wanted("smtp", port, () if everywhere else addresses) for port in settings.listener.ports]


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
