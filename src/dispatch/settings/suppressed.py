"""The suppression list as control publishes it beside the settings snapshots: `settings/suppressed.list`.

One file for all roles, since there are only digests in it: a line that says what it is, the number of the
list, a checksum, and the digests, ascending, each of them eight bytes. It is replaced as a whole, before the
snapshots: who works by a snapshot's number has a list at least as new as it.

Who cannot read it goes on with the list that it has, and says so; control writes it anew with its next
publication.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from dispatch.policy.suppression import SuppressionList
from dispatch.settings.snapshot import replace_file, sync_folder

SUPPRESSED = "suppressed.list"
_MAGIC = b"dispatch suppression list 1\n"
_HEAD = struct.Struct(">Q16s")


class SuppressedDamaged(ValueError):
    """The file is not as it was written."""


def publish_suppressed(folder: Path, number: int, digests: Iterable[int]) -> None:
    """`digests` are ascending. Raises `OSError`."""
    body = array("Q", digests)
    if sys.byteorder == "little":
        body.byteswap()
    written = body.tobytes()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(folder / SUPPRESSED, _MAGIC + _HEAD.pack(number, _checksum(number, written)) + written)
    sync_folder(folder)


def load_suppressed(folder: Path) -> tuple[int, SuppressionList]:
    """The list and its number; empty, and 0, where none was ever published.

    Raises `SuppressedDamaged` and `OSError`.
    """
    path = folder / SUPPRESSED
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return 0, SuppressionList()
    begin = len(_MAGIC) + _HEAD.size
    if not content.startswith(_MAGIC) or len(content) < begin:
        raise SuppressedDamaged(f"{path} is no suppression list")
    number, checksum = _HEAD.unpack_from(content, len(_MAGIC))
    body = content[begin:]
    if checksum != _checksum(number, body) or len(body) % 8:
        raise SuppressedDamaged(f"{path} was changed or cut off")
    digests = array("Q", body)
    if sys.byteorder == "little":
        digests.byteswap()
    return number, SuppressionList(digests)


def _checksum(number: int, body: bytes) -> bytes:
    return blake2b(body, digest_size=16, key=number.to_bytes(8, "big")).digest()
