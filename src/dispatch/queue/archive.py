"""The file in which a queue moves to another host.

A tar archive that every tool can open, written and read in one pass, one message after another::

    dispatch-queue.json     format, when, how it was made
    spl_….json              one message: envelope, deliveries, the digest of its content
    spl_….eml               its content, byte for byte
    …
    end.json                how many messages, and the digest of all their descriptions

Each message holds those recipients that were exported, and no others. An archive without its end, or whose
digests do not fit, is refused as a whole (`check`): nothing of it is believed. No path in it is ever used.

The file appears under its name only when it is whole and on stable storage.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, TypeVar, cast

import msgspec

from dispatch.mail.ids import spool_form
from dispatch.mail.message import Message
from dispatch.store.parked import ParkedDelivery, ParkedMessage

FORMAT = 1
HEAD, END = "dispatch-queue.json", "end.json"
DESCRIPTION_BYTES_MAX = 64 << 20
_PIECE_BYTES = 1 << 20

Described = TypeVar("Described")


class ArchiveError(ValueError):
    """It is no archive of a queue, or not as it was written."""


class Head(msgspec.Struct, frozen=True):
    format: int
    exported_ms: int
    exported_by: str


class Description(msgspec.Struct, frozen=True):
    """One message, without its content."""

    id: str
    """For people, like `sender` and `subject`: what counts stands in `message`."""
    sender: str
    subject: str
    content_bytes: int
    content_sha256: str
    message: Message
    deliveries: tuple[ParkedDelivery, ...]


class End(msgspec.Struct, frozen=True):
    messages: int
    descriptions_sha256: str


class Archived(NamedTuple):
    """A message as an archive holds it; its content can be read until the next one is asked for."""

    message: Message
    deliveries: tuple[ParkedDelivery, ...]
    content_bytes: int
    content: IO[bytes]


def alone(parked: ParkedMessage) -> tuple[Message, tuple[ParkedDelivery, ...]]:
    """The message with those of its recipients that these deliveries are for, counted anew."""
    message = parked.message
    everybody = message.envelope.recipients
    envelope = msgspec.structs.replace(
        message.envelope, recipients=tuple(everybody[row.index] for row in parked.deliveries)
    )
    rows = tuple(msgspec.structs.replace(row, index=index) for index, row in enumerate(parked.deliveries))
    return msgspec.structs.replace(message, envelope=envelope, content_file=None), rows


class ArchiveWriter:
    """Makes a new file; leave its `with` block by an exception, and there is none. Raises `OSError`."""

    def __init__(self, path: Path, *, now_ms: int, made_by: str) -> None:
        """Raises `FileExistsError` where there is one already."""
        if path.exists():
            raise FileExistsError(f"{path} is there already")
        self._path = path
        self._unfinished = path.with_name(path.name + ".part")
        # It is mail: for nobody else's eyes.
        descriptor = os.open(self._unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w")  # noqa: SIM115 - closed in `__exit__`
        self._digest = hashlib.sha256()
        self.messages = 0
        self._describe(HEAD, Head(FORMAT, now_ms, made_by), now_ms)

    def add(self, parked: ParkedMessage, content: IO[bytes]) -> None:
        """`content` can be read twice from its beginning; its length and digest are found out first."""
        message, rows = alone(parked)
        digest, size_bytes = hashlib.sha256(), 0
        while piece := content.read(_PIECE_BYTES):
            digest.update(piece)
            size_bytes += len(piece)
        name = spool_form(message.id)
        description = Description(
            name,
            message.envelope.reverse_path,
            message.summary.subject,
            size_bytes,
            digest.hexdigest(),
            message,
            rows,
        )
        self._digest.update(self._describe(f"{name}.json", description, message.accepted_ms))
        content.seek(0)
        self._tar.addfile(_member(f"{name}.eml", size_bytes, message.accepted_ms), content)
        self.messages += 1
        _forget_members(self._tar)

    def _describe(self, name: str, described: msgspec.Struct, at_ms: int) -> bytes:
        encoded = msgspec.json.encode(described)
        self._tar.addfile(_member(name, len(encoded), at_ms), io.BytesIO(encoded))
        return encoded

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._describe(END, End(self.messages, self._digest.hexdigest()), 0)
                self._tar.close()
                self._file.flush()
                os.fsync(self._file.fileno())
                self._unfinished.rename(self._path)
                sync_folder(self._path.absolute().parent)
        finally:
            self._file.close()
            self._unfinished.unlink(missing_ok=True)


def check(path: Path) -> int:
    """Read all of it; how many messages it holds. Raises `ArchiveError`, `OSError`."""
    messages = 0
    for archived in read(path):
        messages += 1
        while archived.content.read(_PIECE_BYTES):
            pass
    return messages


def read(path: Path) -> Iterator[Archived]:
    """Each message in order. Digests are compared when a message's content has been read to its end, and the
    archive's at its end: whoever wants to believe nothing that is not whole calls `check` before.

    Raises `ArchiveError`, `OSError`.
    """
    try:
        with tarfile.open(path, mode="r:") as tar:
            yield from _read(tar)
    except tarfile.TarError as error:
        raise ArchiveError(f"{path}: {error}") from error


def _read(tar: tarfile.TarFile) -> Iterator[Archived]:
    head = _decode(_described(tar, _next(tar, HEAD)), Head)
    if head.format != FORMAT:
        raise ArchiveError(f"format {head.format}: this version reads {FORMAT}")
    digest, messages = hashlib.sha256(), 0
    while (member := _next(tar)).name != END:
        encoded = _described(tar, member)
        digest.update(encoded)
        found = _decode(encoded, Description)
        content = tar.extractfile(_next(tar, member.name.removesuffix(".json") + ".eml"))
        if content is None or not _fits(found):
            raise ArchiveError(f"{member.name} is no description of a message")
        whole = _Whole(content, found)
        yield Archived(found.message, found.deliveries, found.content_bytes, cast("IO[bytes]", whole))
        whole.finish()
        messages += 1
        _forget_members(tar)
    end = _decode(_described(tar, member), End)
    if end != End(messages, digest.hexdigest()):
        raise ArchiveError("its end does not fit: it was changed")


class _Whole:
    """Content that is compared with its digest when it ends."""

    def __init__(self, content: IO[bytes], description: Description) -> None:
        self._content = content
        self._description = description
        self._digest = hashlib.sha256()
        self._left = description.content_bytes

    def read(self, size_bytes: int = -1) -> bytes:
        piece = self._content.read(size_bytes)
        self._digest.update(piece)
        self._left -= len(piece)
        return piece

    def finish(self) -> None:
        """Raises `ArchiveError`."""
        while self.read(_PIECE_BYTES):
            pass
        if self._left or self._digest.hexdigest() != self._description.content_sha256:
            raise ArchiveError(f"the content of {self._description.id} was changed")


def _fits(found: Description) -> bool:
    recipients = len(found.message.envelope.recipients)
    indexes = [row.index for row in found.deliveries]
    return recipients > 0 and indexes == list(range(recipients)) and found.message.content_file is None


def _next(tar: tarfile.TarFile, name: str = "") -> tarfile.TarInfo:
    member = tar.next()
    if member is None:
        raise ArchiveError("it ends too soon")
    if name and member.name != name:
        raise ArchiveError(f"{member.name!r} stands where {name} should")
    return member


def _described(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    if file is None or member.size > DESCRIPTION_BYTES_MAX:
        raise ArchiveError(f"{member.name!r} is no description")
    return file.read()


def _decode(encoded: bytes, kind: type[Described]) -> Described:
    try:
        return msgspec.json.decode(encoded, type=kind)
    except msgspec.MsgspecError as error:
        raise ArchiveError(f"not to be read: {error}") from error


def _forget_members(tar: tarfile.TarFile) -> None:
    """It would keep a kilobyte of each, and never needs it: nothing is looked up by name."""
    tar.members.clear()  # type: ignore[attr-defined] # a plain list, which typeshed leaves out


def _member(name: str, size_bytes: int, at_ms: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size_bytes, 0o600, at_ms // 1000
    return member


def sync_folder(folder: Path) -> None:
    """Names in it survive a power cut. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
