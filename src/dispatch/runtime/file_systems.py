"""On what kind of file system the data lie, and what that means for mail that must not be lost."""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")

_MEMORY = "it is in memory: all mail is lost when the machine stops"
_LAYER = "it is the container's own layer: all mail is lost with the container; mount a volume there"
_NETWORK = "it is on a network: what it calls synced may not be, and its locks may fail; use a local disk"
_REMARKS = {
    "tmpfs": _MEMORY,
    "ramfs": _MEMORY,
    "overlay": _LAYER,
    "aufs": _LAYER,
    "nfs": _NETWORK,
    "nfs4": _NETWORK,
    "cifs": _NETWORK,
    "smb3": _NETWORK,
    "afs": _NETWORK,
    "fuse.sshfs": _NETWORK,
}
_ESCAPE = re.compile(r"\\([0-7]{3})")


def remark_on(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """Why data in this folder are less safe than on a local disk, or None; also where nobody can say."""
    try:
        kind = _kind_of(folder.resolve(), mounts.read_text("utf-8", "surrogateescape"))
    except OSError:
        return None
    why = _REMARKS.get(kind)
    return None if why is None else f"{kind}: {why}"


def _kind_of(folder: Path, mounts: str) -> str:
    """That of the mount which is nearest above; of several at one place the last one hides the others
    (proc_pid_mountinfo(5))."""
    nearest, kind = -1, ""
    for line in mounts.split("\n"):
        place, _, rest = line.partition(" - ")
        fields = place.split(" ")
        if len(fields) < 5 or not rest:
            continue
        point = Path(_ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), fields[4]))
        if folder.is_relative_to(point) and len(point.parts) >= nearest:
            nearest, kind = len(point.parts), rest.split(" ")[0]
    return kind
