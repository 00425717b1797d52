"""The message that `sendmail` reads: its header, its recipients, its content with the newlines of SMTP.

Programs hand over lines that end as they please, with or without a header, with a `From ` line of a mailbox
in front, with a single dot for an end. Out of it come header lines and a body that can be sent as they are.

Rules:
- All is read before anything is sent: the size is known to MAIL, a slow writer holds no transaction open, and
  one who is cut off within the header sends nothing. Above a mebibyte the body lies in a nameless file.
- A line ends with LF, CR LF, or, in the body, a lone CR: cron's programs draw progress bars, and the relay
  would refuse a bare CR. Within a header field a CR becomes a space: it must not begin a field that nobody
  wrote.
- What does not look like a field ends the header, also without an empty line.
- The header is held in memory and has a limit; what else is in it is for the relay to judge.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would cost a third of this program's start
    from typing import IO

HEADER_BYTES_MAX = 1 << 20
MEMORY_BYTES_MAX = 1 << 20
BLOCK_BYTES = 1 << 16

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_RECIPIENT_FIELDS = (b"to", b"cc", b"bcc")
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\[[^\]]*\]|[()<>,:;]|[^"\[()<>,:;]+|.', re.DOTALL)
_AROUND = re.compile(r"\s*([@.])\s*")
"""RFC 5322 section 4.4: white space may stand beside dots and the at sign."""
_WHOLE_ADDRESS = re.compile(r'(?:"(?:[^"\\\x00-\x1f\x7f]|\\[ -~])*"|[^\s<>"\x00-\x1f\x7f])+')


class NotMail(Exception):
    """What was given cannot be sent: 65 (EX_DATAERR)."""


class Body:
    """Content with CR LF for newlines: in memory while it is small, in a nameless file beyond."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self.eight_bit = False
        self._blocks: list[bytes] = []
        self._file: IO[bytes] | None = None

    def add(self, block: bytes) -> None:
        """Raises `OSError` where there is no room."""
        self.size_bytes += len(block)
        self.eight_bit = self.eight_bit or not block.isascii()
        if self._file is None and self.size_bytes > MEMORY_BYTES_MAX:
            from tempfile import TemporaryFile  # small mail need not wait for it

            self._file = TemporaryFile()  # noqa: SIM115  # `close` does
            self._file.writelines(self._blocks)
            self._blocks.clear()
        if self._file is None:
            self._blocks.append(block)
        else:
            self._file.write(block)

    def blocks(self) -> Iterator[bytes]:
        if self._file is None:
            yield from self._blocks
            return
        self._file.seek(0)
        while block := self._file.read(BLOCK_BYTES):
            yield block

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Message:
    """A header, line by line, without newlines, and what follows it."""

    def __init__(self) -> None:
        self.header: list[bytes] = []
        self.body = Body()

    @property
    def size_bytes(self) -> int:
        return sum(len(line) + 2 for line in self.header) + 2 + self.body.size_bytes

    @property
    def eight_bit(self) -> bool:
        return self.body.eight_bit or not all(line.isascii() for line in self.header)

    def has(self, name: bytes) -> bool:
        return any(field == name for field, _ in self._fields())

    def blocks(self) -> Iterator[bytes]:
        """All of it, as SMTP wants it but for the dots."""
        yield b"".join(line + b"\r\n" for line in self.header) + b"\r\n"
        yield from self.body.blocks()

    def recipients(self) -> list[str]:
        """Of To, Cc and Bcc; of a message that was resent those whom it was resent to (RFC 5322 section
        3.6.6).

        Raises `NotMail`."""
        fields = [(name, value) for name, value in self._fields() if name.endswith(_RECIPIENT_FIELDS)]
        resent = [value for name, value in fields if name in (b"resent-to", b"resent-cc", b"resent-bcc")]
        first = [value for name, value in fields if name in _RECIPIENT_FIELDS]
        return [
            address
            for value in resent or first
            for address in addresses(value.decode(errors="surrogateescape"))
        ]

    def _fields(self) -> Iterator[tuple[bytes, bytes]]:
        """Names in small letters, and unfolded values."""
        name, value = b"", b""
        for line in self.header:
            if line[:1] in b" \t":
                value += line
                continue
            if name:
                yield name, value
            name, _, value = line.partition(b":")
            name = name.rstrip().lower()
        if name:
            yield name, value


def read_message(descriptor: int, *, dot_is_content: bool) -> Message:
    """Read to the end, or to a line with a single dot. Raises `NotMail`, `OSError`."""
    message = Message()
    reader = _Reader(descriptor)
    ended = _read_header(reader, message.header, dot_is_content)
    if not ended:
        for block in _body(reader, dot_is_content):
            message.body.add(block)
    return message


class _Reader:
    """Blocks as they come, of which some may be put back."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.ahead = b""
        self.ended = False

    def more(self) -> bool:
        """Read on behind what is ahead; False at the end."""
        block = b"" if self.ended else os.read(self._descriptor, BLOCK_BYTES)
        self.ahead += block
        self.ended = not block
        return not self.ended

    def take(self) -> bytes:
        """What is ahead, or the next block; empty at the end."""
        if not self.ahead:
            self.more()
        block, self.ahead = self.ahead, b""
        return block


def _read_header(reader: _Reader, header: list[bytes], dot_is_content: bool) -> bool:
    """Take the header off; True where a single dot ended the message with it."""
    size_bytes = 0
    first = True
    while (line := _next_line(reader)) is not None:
        content = line.rstrip(b"\r\n")
        if content == b"." and not dot_is_content:
            return True
        if first and content.startswith((b"From ", b">From ")) and not _FIELD.match(content):
            first = False
            continue
        first = False
        if not content:
            return False
        if not (_FIELD.match(content) or (header and content[:1] in b" \t")):
            reader.ahead = line + reader.ahead
            return False
        size_bytes += len(content) + 2
        if size_bytes > HEADER_BYTES_MAX:
            raise NotMail(f"the header is larger than {HEADER_BYTES_MAX} bytes")
        header.append(content.replace(b"\r", b" "))
    return True


def _next_line(reader: _Reader) -> bytes | None:
    """A line with its end, None at the end of all; of one that is no field and has no end, what is there."""
    searched = 0
    while (end := reader.ahead.find(b"\n", searched)) < 0:
        searched = len(reader.ahead)
        begun = _FIELD.match(reader.ahead) or reader.ahead[:1] in b" \t"
        endless = searched > BLOCK_BYTES and not begun
        if endless or searched > HEADER_BYTES_MAX or not reader.more():
            line, reader.ahead = reader.ahead, b""
            return line or None
    line, reader.ahead = reader.ahead[: end + 1], reader.ahead[end + 1 :]
    return line


def _body(reader: _Reader, dot_is_content: bool) -> Iterator[bytes]:
    """What is left, with CR LF at the end of each line, the last one too."""
    held = b"\n"
    """With LF for newlines: what may yet be followed by the end. One is put before the first line."""
    began = False
    carriage = b""
    last = b"\n"
    while block := reader.take():
        block = carriage + block
        carriage = b"\r" if block.endswith(b"\r") else b""
        block = block.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        text = held + block
        end = -1 if dot_is_content else text.find(b"\n.\n")
        if end >= 0:
            yield _crlf(text[: end + 1], began)
            return
        keep = 0 if dot_is_content else 2 if text.endswith(b"\n.") else 1 if text.endswith(b"\n") else 0
        text, held = text[: len(text) - keep], text[len(text) - keep :]
        if text:
            yield _crlf(text, began)
            began, last = True, text[-1:]
    text = held + carriage.replace(b"\r", b"\n")
    if not dot_is_content and text in (b"\n.", b"\n.\n"):
        text = b"\n"
    if (text or last)[-1:] != b"\n":
        text += b"\n"
    yield _crlf(text, began)


def _crlf(text: bytes, began: bool) -> bytes:
    """Without the newline that was put before the first line."""
    return (text if began else text[1:]).replace(b"\n", b"\r\n")


def addresses(text: str) -> list[str]:
    """The addresses of a list (RFC 5322 section 3.4): without names, comments and groups' names.

    Raises `NotMail` for what is none."""
    found: list[str] = []
    plain, angle, before = "", "", ""
    depth, inside = 0, False
    for word in (*_WORD.findall(text.replace("\r", "").replace("\n", "")), ","):
        if depth:
            # Within a comment a backslash quotes a parenthesis.
            if not before.endswith("\\"):
                depth += (word == "(") - (word == ")")
        elif word == "(":
            depth = 1
        elif inside:
            angle += word
            inside = word != ">"
        elif word == "<":
            if angle:
                raise NotMail(f"a comma is missing in {_shown(text)}")
            inside, angle = True, word
        elif word == ":":
            plain = ""
        elif word in (",", ";"):
            address = angle[1:-1].strip() if angle else _AROUND.sub(r"\1", plain.strip())
            if address:
                found.append(_whole(address, text))
            plain = angle = ""
        else:
            plain += word
        before = word
    if depth or inside:
        raise NotMail(f"the list of addresses does not end: {_shown(text)}")
    return found


def _whole(address: str, text: str) -> str:
    """What can stand in a command without breaking it; whether it is an address the relay will say."""
    if not _WHOLE_ADDRESS.fullmatch(address):
        raise NotMail(f"there is no address in {_shown(address)} (of {_shown(text)})")
    return address


def _shown(text: str) -> str:
    return ascii(text.strip()[:200])


def from_field(address: str, full_name: str) -> bytes:
    """A From field (RFC 5322 section 3.6.2) for a message that has none."""
    name = "".join(character for character in full_name if character.isprintable()).strip()
    if not name:
        return f"From: {address}".encode(errors="surrogateescape")
    if name.isascii():
        name = name.replace("\\", "\\\\").replace('"', '\\"')
        return f'From: "{name}" <{address}>'.encode(errors="surrogateescape")
    from binascii import b2a_base64

    # RFC 2047 section 2: a word of at most 75 characters, which hold 45 octets.
    words = " ".join(f"=?utf-8?b?{b2a_base64(part, newline=False).decode()}?=" for part in _pieces(name, 45))
    return f"From: {words} <{address}>".encode(errors="surrogateescape")


def _pieces(text: str, bytes_max: int) -> Iterable[bytes]:
    """In UTF-8, cut between characters."""
    piece = b""
    for character in text:
        octets = character.encode()
        if len(piece) + len(octets) > bytes_max:
            yield piece
            piece = b""
        piece += octets
    yield piece
