"""The key of the vault, where it lies and how it gets there without ever being half there.

It is looked for in this order, and the first that exists is the key:

1. `$CREDENTIALS_DIRECTORY/dispatch-key`: a systemd credential (LoadCredentialEncrypted=), read only;
2. `$DISPATCH_KEY_DIR/.dispatch-key`, where that is set;
3. `.dispatch-key` in the data directory, where DISPATCH_KEY_DIR is not set.

The file is one line, to be kept in a password safe: `dispatch-key-v1.3f2a91bc.<the key in base64url>`. In the
middle is the key's fingerprint, as sealed values name it, which also tells when a letter was lost.

Rules:
- A key is written beside, synced, and given its name by a link, which fails where there is one: two processes
  that start at once both have the first one's key, and after a power cut there is a whole key or none.
- An existing file is never overwritten or removed, however damaged: it may be all there is.
- Only its owner reads it. Others' rights are taken away; where that is impossible the key is refused, except
  on a volume whose group is the only way to it (a pod's fsGroup): that is remarked upon.
- A DISPATCH_KEY_DIR that is not there is not made: it is a volume that was not mounted, and the key is on it.

**Rotation** has two phases. `begin_rotation` puts `.dispatch-key.new` beside the key; the caller seals all
its values anew, durably; `commit_rotation` renames. Whenever that is cut short, `load_key` gives both keys
(`unfinished`), and the caller repeats it: what is sealed with the new key already stays (`Vault.reseal`).

Trap: `make_key` does not know whether anything was sealed before. Whoever has sealed values and finds `NoKey`
has lost the key, and must not make one. All calls block (for starts and commands), and may raise `OSError`.

    KeyFault
    ├── NoKey         there is none yet
    ├── DamagedKey    a file is there, and no key is in it
    ├── ExposedKey    others can read it, and that cannot be changed
    └── NoPlaceForKey the folder is missing or cannot keep a key, or the key is a credential
"""

from __future__ import annotations

import errno
import os
import re
import stat
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dispatch.security.vault import KEY_BYTES, key_id_of

KEY_NAME = ".dispatch-key"
CREDENTIAL_NAME = "dispatch-key"
KEY_DIR_VARIABLE = "DISPATCH_KEY_DIR"
_CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
_NEW_SUFFIX = ".new"
_MADE_SUFFIX = ".made-"
_FILE_BYTES_MAX = 4096
_LINE = re.compile(r"dispatch-key-v1\.([0-9a-f]{8})\.([A-Za-z0-9_-]{43})", re.ASCII)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class KeyFault(Exception):
    """There is no key to work with. The message is for the operator, and holds nothing of a key."""


class NoKey(KeyFault): ...


class DamagedKey(KeyFault): ...


class ExposedKey(KeyFault): ...


class NoPlaceForKey(KeyFault): ...


@dataclass(frozen=True, slots=True)
class KeyFile:
    path: Path
    key: bytes = field(repr=False)
    """32 bytes."""
    new_key: bytes | None = field(default=None, repr=False)
    """The key of a rotation that was begun and not committed."""
    read_only: bool = False
    """A credential of the service manager: it is changed there."""
    remarks: tuple[str, ...] = ()
    """What the operator should hear, in whole sentences."""

    @property
    def unfinished(self) -> bool:
        """Some values may be sealed with `new_key` already: seal all anew, and commit."""
        return self.new_key is not None


def load_key(data: Path, environ: Mapping[str, str]) -> KeyFile:
    """The key, its file's rights set right. Raises every `KeyFault`; makes nothing."""
    credentials = environ.get(_CREDENTIALS_VARIABLE)
    if credentials and (credential := Path(credentials) / CREDENTIAL_NAME).exists():
        key, remarks = _read(credential, read_only=True)
        return KeyFile(credential, key, read_only=True, remarks=remarks)
    path = _place(data, environ)
    beside = _new(path)
    try:
        key, remarks = _read(path)
    except FileNotFoundError:
        if beside.exists():
            raise DamagedKey(
                f"{path} is gone, and {beside} of a rotation is still there: put the old key back, "
                f"since values may be sealed with either"
            ) from None
        raise NoKey(f"there is no key at {path}") from None
    try:
        new_key, new_remarks = _read(beside)
    except FileNotFoundError:
        return KeyFile(path, key, remarks=remarks)
    return KeyFile(path, key, new_key, remarks=remarks + new_remarks)


def make_key(
    data: Path, environ: Mapping[str, str], *, chance: Callable[[int], bytes] = os.urandom
) -> KeyFile:
    """`load_key`, and where there is none, a new one first. Raises as `load_key`, but never `NoKey`.

    When it returns, the key survives a power cut, whoever made it.
    """
    try:
        found = load_key(data, environ)
    except NoKey:
        path = _place(data, environ)
        _make_folder(path.parent)
        _install(path, chance(KEY_BYTES))
        found = load_key(data, environ)
    if not found.read_only:
        _settle(found.path)
    return found


def begin_rotation(current: KeyFile, *, chance: Callable[[int], bytes] = os.urandom) -> KeyFile:
    """The same with a `new_key`, which is on stable storage; one that was begun before is gone on with."""
    if current.read_only:
        raise NoPlaceForKey(f"{current.path} is a credential: it can only be changed where it comes from")
    beside = _new(current.path)
    _install(beside, chance(KEY_BYTES))
    _settle(beside)
    new_key, _ = _read(beside)
    return replace(current, new_key=new_key)


def commit_rotation(rotating: KeyFile) -> KeyFile:
    """The new key takes the old one's place. Only when every value is sealed with it, durably.

    Raises `DamagedKey`, and changes nothing, where the files are not those of this rotation any more.
    """
    assert rotating.new_key is not None, "no rotation was begun"
    path, beside = rotating.path, _new(rotating.path)
    if _read(path)[0] != rotating.key or _read(beside)[0] != rotating.new_key:
        raise DamagedKey(f"{path} or {beside} was changed by somebody else during the rotation")
    beside.rename(path)
    _sync_folder(path.parent)
    return KeyFile(path, rotating.new_key, remarks=rotating.remarks)


def _place(data: Path, environ: Mapping[str, str]) -> Path:
    chosen = environ.get(KEY_DIR_VARIABLE)
    if not chosen:
        return data / KEY_NAME
    if not Path(chosen).is_dir():
        raise NoPlaceForKey(
            f"{KEY_DIR_VARIABLE} names {chosen}, which is no folder: mount the volume that has the key, "
            f"or make the folder (0700) for a new one"
        )
    return Path(chosen) / KEY_NAME


def _new(path: Path) -> Path:
    return path.with_name(path.name + _NEW_SUFFIX)


def _encode(key: bytes) -> str:
    return f"dispatch-key-v1.{key_id_of(key)}.{urlsafe_b64encode(key).rstrip(b'=').decode('ascii')}"


def _decode(text: str) -> bytes | None:
    line = _LINE.fullmatch(text.strip())
    if line is None:
        return None
    key = urlsafe_b64decode(line[2] + "=")
    return key if _encode(key) == line[0] else None


def _read(path: Path, *, read_only: bool = False) -> tuple[bytes, tuple[str, ...]]:
    """The key of a file, and remarks about its rights. Links are followed: mounted secrets are links."""
    # Without blocking: a named pipe in its place would stop the start for ever.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DamagedKey(f"{path} is no file")
        remarks = _keep_private(path, fd, read_only)
        content = os.read(fd, _FILE_BYTES_MAX)
    finally:
        os.close(fd)
    key = _decode(content.decode("ascii", "replace"))
    if key is None:
        raise DamagedKey(
            f"{path} is damaged: it holds no line like dispatch-key-v1.<8 digits>.<43 letters>; "
            f"put it back from a backup or a password safe (it was left as it is)"
        )
    return key, remarks


def _keep_private(path: Path, fd: int, read_only: bool) -> tuple[str, ...]:
    """Take others' rights away, or raise `ExposedKey`; what is to be said about it."""
    found = os.fstat(fd)
    rights = stat.S_IMODE(found.st_mode)
    # systemd lets the service in by an access list, whose mask stands where the group's rights do.
    if not rights & (0o007 if read_only else 0o077):
        return ()
    if _is_volume_group(path, found):
        return (f"{path} can be read by group {found.st_gid}, as the volume has it; it was left so.",)
    try:
        os.fchmod(fd, 0o600)
        why = "the file system does not keep the change"
    except OSError as error:
        why = str(error.strerror)
    if stat.S_IMODE(os.fstat(fd).st_mode) & 0o077:
        raise ExposedKey(
            f"{path} can be read by others ({rights:04o}), and that cannot be changed ({why}): "
            f"make it 0600 (0400 where it is mounted)"
        )
    return (f"{path} could be read by others ({rights:04o}) and is 0600 now: consider a new key.",)


def _is_volume_group(path: Path, found: os.stat_result) -> bool:
    """Whether group rights are how we get at it: file and folder are another's, and of one group."""
    folder, us = path.parent.stat(), os.geteuid()
    return (
        stat.S_IMODE(found.st_mode) in (0o440, 0o640, 0o660)
        and us not in (found.st_uid, folder.st_uid)
        and found.st_gid == folder.st_gid
    )


def _install(path: Path, key: bytes) -> None:
    """Put the key at a path where there is none, in one step; one that is there already stays."""
    beside = path.with_name(path.name + _MADE_SUFFIX + os.urandom(8).hex())
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(_encode(key) + "\n")
            file.flush()
            os.fsync(fd)
        os.link(beside, path)
    except (FileExistsError, FileNotFoundError):
        # Somebody was first, and may have swept ours away as a remainder.
        if not path.exists():
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise NoPlaceForKey(
            f"{path.parent} is on a file system without links, on which no key can be made safely: "
            f"set {KEY_DIR_VARIABLE} to a folder on another one"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def _settle(path: Path) -> None:
    """Make the key's name survive a power cut, and remove what one left of an installation."""
    # A key that nobody has, or a second name of the one in use, which would outlive a rotation.
    for remainder in path.parent.glob(path.name + _MADE_SUFFIX + "*"):
        remainder.unlink(missing_ok=True)
    try:
        _sync_folder(path.parent)
    except OSError as error:
        # A folder that we cannot open or write is not where we have just made a key.
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise


def _make_folder(folder: Path) -> None:
    """With the folders above it, each durable in the one that it stands in."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
