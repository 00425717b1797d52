"""Ways to make two servers disagree about where a message ends, as a table, and a client that tries them.

The ends of data that are none include those of the first publication (SEC Consult, December 2023), of the
scanners SMTP-Smuggling-Tools and smtpsmug, and of the advisories that followed (CVE-2023-51764, -51765 and
-51766, CVE-2024-27305, CVE-2024-27938). They are made by combining all line ends that some server is known to
take; NUL, look-alikes, lengths, chunks and command lines are added by hand.

Behind each stands a whole second transaction. Who finds an end there executes it (`SMUGGLED`); who does not,
reads one message, up to the true end of data behind it.

`Variant.taken` is worked out here from the octets alone, and shares nothing with the product's own decoder.
"""

from __future__ import annotations

import itertools
import re
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.scenarios.exact_upstream import BARE, CRLF, END_OF_DATA, unstuffed
from tests.scenarios.relay import BOUND_S

MODES = ("reject", "normalise")
"""Of `listener.bare_newline`."""
CUTS = ("whole", "before", "inside", "behind", "octets")
"""How the octets come: in one packet, cut at one place of the variant, or one by one around it."""
AT_ONCE = 80
"""Connections at a time."""

SENDER = "me@example.org"
_MAIL = f"MAIL FROM:<{SENDER}>".encode()
_ENVELOPE = (_MAIL, b"RCPT TO:<{to}>")
SMUGGLER = "smuggled@example.org"
SMUGGLED = (
    f"MAIL FROM:<{SMUGGLER}>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\n".encode()
    + b"Subject: Smuggled\r\n\r\nx"
)
HEAD = b"Subject: Outer\r\n\r\nfirst"
_QUIT = b"QUIT\r\n"
_OCTETS_BEHIND = 16
"""So many octets behind the variant still come one by one: the beginning of the smuggled command."""


@dataclass(frozen=True)
class Variant:
    """One attack. A client says EHLO, then `opening` in one write, and then the rest."""

    name: str
    group: str
    opening: tuple[bytes, ...]
    """Commands without CRLF; `{to}` is the variant's own recipient."""
    stream: bytes
    """All the rest, with QUIT at its end."""
    place: tuple[int, int]
    """Where in the stream the disputed octets begin and end."""
    taken: dict[str, bytes | None]
    """For each mode the one message that it is, or None: nothing may be taken."""

    def pieces(self, cut: str) -> list[bytes]:
        """The stream as it comes."""
        start, end = self.place
        offsets = {
            "whole": (),
            "before": (start,),
            "inside": ((start + end) // 2,),
            "behind": (end,),
            "octets": (
                *range(max(0, start - 2), min(end + _OCTETS_BEHIND, len(self.stream))),
                *range(len(self.stream) - len(END_OF_DATA + _QUIT), len(self.stream)),
            ),
        }[cut]
        edges = sorted({0, len(self.stream), *offsets})
        return [self.stream[a:b] for a, b in itertools.pairwise(edges)]


def message_of(content: bytes, mode: str) -> bytes | None:
    """What becomes of content under this choice for bare newlines."""
    if BARE.search(content) is None:
        return content
    return None if mode == "reject" else re.sub(rb"\r\n|\r|\n", CRLF, content)


def by_data(name: str, octets: bytes, group: str = "DATA", head: bytes = HEAD) -> Variant:
    """`octets` behind `head`, and the smuggled commands behind them."""
    sent = head + octets + SMUGGLED
    assert END_OF_DATA not in CRLF + sent + CRLF, f"{name}: that is an end of data"
    content = unstuffed(sent) + CRLF
    taken = {mode: message_of(content, mode) for mode in MODES}
    stream = sent + END_OF_DATA + _QUIT
    return Variant(name, group, (*_ENVELOPE, b"DATA"), stream, (len(head), len(head + octets)), taken)


def by_chunks(name: str, *chunks: bytes) -> Variant:
    """The last chunk is LAST; what is disputed is where the first one ends."""
    content = b"".join(chunks)
    commands = [b"BDAT %d\r\n" % len(chunk) for chunk in chunks]
    commands[-1] = commands[-1].replace(CRLF, b" LAST\r\n")
    stream = b"".join(command + chunk for command, chunk in zip(commands, chunks, strict=True)) + _QUIT
    at = len(commands[0]) + min(len(HEAD), len(chunks[0]))
    taken = {mode: message_of(content, mode) for mode in MODES}
    return Variant(f"BDAT, {name}", "BDAT", _ENVELOPE, stream, (at, at + 5), taken)


def refused(name: str, group: str, stream: bytes, *opening: bytes) -> Variant:
    """No message at all; what is disputed stands at the beginning of the stream."""
    first = stream.index(b"\n") + 1
    taken = dict.fromkeys(MODES)
    return Variant(name, group, opening, stream + END_OF_DATA + _QUIT, (first - 2, first), taken)


_LINE_ENDS = {
    "LF": b"\n",
    "CR": b"\r",
    "CRLF": b"\r\n",
    "CR CRLF": b"\r\r\n",
    "LF CR": b"\n\r",
    "LF LF": b"\n\n",
}


def _ends_that_are_none() -> Iterator[Variant]:
    for left, before in _LINE_ENDS.items():
        for right, behind in _LINE_ENDS.items():
            octets = before + b"." + behind
            if END_OF_DATA not in octets:
                yield by_data(f"{left} . {right}", octets)


_OCTETS = {
    "NUL": {
        "CRLF NUL . CRLF": b"\r\n\0.\r\n",
        "CRLF . NUL CRLF": b"\r\n.\0\r\n",
        "CRLF . CR NUL LF": b"\r\n.\r\0\n",
        "CR NUL LF . CR NUL LF": b"\r\0\n.\r\0\n",
        "CR NUL . CR NUL": b"\r\0.\r\0",
        "LF NUL . LF": b"\n\0.\n",
        "UTF-16 CRLF . CRLF": "\r\n.\r\n".encode("utf-16-le"),
    },
    "stuffing": {
        "CRLF .. CRLF": b"\r\n..\r\n",
        "CRLF ... CRLF": b"\r\n...\r\n",
        "LF .. LF": b"\n..\n",
        "CRLF .. LF": b"\r\n..\n",
        "CRLF ..LF.CRLF": b"\r\n..\n.\r\n",
        "CRLF .CR.CRLF": b"\r\n.\r.\r\n",
        "CRLF . and the command": b"\r\n.",
        "CRLF .. CRLF .. CRLF": b"\r\n..\r\n..\r\n",
        "CRLF .. CR, LF . CRLF": b"\r\n..\r\r\n..\n.\r\n",
    },
    "look-alikes": {
        "CRLF . SP CRLF": b"\r\n. \r\n",
        "CRLF SP . CRLF": b"\r\n .\r\n",
        "CRLF . TAB CRLF": b"\r\n.\t\r\n",
        "CRLF . BS CRLF": b"\r\n.\b\r\n",
        "VT . VT": b"\v.\v",
        "FF . FF": b"\f.\f",
        "FS . FS": b"\x1c.\x1c",
        "NEL (0x85) . NEL": b"\x85.\x85",
        "NEL (UTF-8) . NEL": "\x85.\x85".encode(),
        "U+2028 . U+2028": "\u2028.\u2028".encode(),
        "U+2029 . U+2029": "\u2029.\u2029".encode(),
        "CRLF ideographic full stop CRLF": "\r\n\u3002\r\n".encode(),
        "CRLF fullwidth full stop CRLF": "\r\n\uff0e\r\n".encode(),
        "CRLF one dot leader CRLF": "\r\n\u2024\r\n".encode(),
        "CRLF byte order mark . CRLF": "\r\n\ufeff.\r\n".encode(),
        "CRLF zero width space . CRLF": "\r\n\u200b.\r\n".encode(),
        "CRLF . overlong (0xc0 0xae) CRLF": b"\r\n\xc0\xae\r\n",
        "LF overlong (0xc0 0x8a) . LF": b"\xc0\x8a.\xc0\x8a",
        "CRLF . with the eighth bit, CRLF": b"\r\n\xae\r\n",
        "CRLF with the eighth bits . CRLF": b"\x8d\x8a.\x8d\x8a",
        "CRLF telnet IAC NOP . CRLF": b"\r\n\xff\xf1.\r\n",
        "CRLF =2E CRLF": b"\r\n=2E\r\n",
    },
    "commands in content": {
        "CRLF BDAT 0 LAST CRLF": b"\r\nBDAT 0 LAST\r\n",
        "LF . LF BDAT 0 LAST": b"\n.\nBDAT 0 LAST\r\n",
        "CRLF RSET CRLF": b"\r\nRSET\r\n",
    },
}
_AT_THE_START = {
    ". LF": b".\n",
    ". CR": b".\r",
    ". CR CRLF": b".\r\r\n",
    ". NUL CRLF": b".\0\r\n",
    ". SP CRLF": b". \r\n",
    ".. CRLF": b"..\r\n",
    "NUL . CRLF": b"\0.\r\n",
    "LF . LF": b"\n.\n",
    "LF . CRLF": b"\n.\r\n",
    "CR . CR": b"\r.\r",
    "CRLF . LF": b"\r\n.\n",
    "CRLF . CR": b"\r\n.\r",
}
_LENGTHS = (998, 1000, 2048, 4096, 65_536)
"""Of lines: the longest one of RFC 5321, and what servers are known to break lines or reads at."""


def _long_lines() -> Iterator[Variant]:
    for length in _LENGTHS:
        line = b"x" * (length - len(b"first"))
        yield by_data(f"line of {length} octets, then . CRLF", b".\r\n", "long lines", HEAD + line)
        yield by_data(f"line of {length} octets, then LF . CRLF", b"\n.\r\n", "long lines", HEAD + line)
        yield by_data(
            f"line of {length - 1} octets, then CRLF . LF", b"\r\n.\n", "long lines", HEAD + line[1:]
        )


def _chunked() -> Iterator[Variant]:
    rest = SMUGGLED + CRLF
    yield by_chunks("CRLF . CRLF within a chunk", HEAD + END_OF_DATA + rest)
    yield by_chunks("CRLF . CRLF, the rest in the next chunk", HEAD + END_OF_DATA, rest)
    yield by_chunks("CRLF, . CRLF in the next chunk", HEAD + CRLF, b".\r\n" + rest)
    yield by_chunks("CR, LF . CR, LF in chunks of their own", HEAD + b"\r", b"\n.\r", b"\n" + rest)
    yield by_chunks("LF . LF within a chunk", HEAD + b"\n.\n" + rest)
    yield by_chunks("LF, . CRLF in the next chunk", HEAD + b"\n", b".\r\n" + rest)
    yield by_chunks("CR, . CRLF in the next chunk", HEAD + b"\r", b".\r\n" + rest)
    yield by_chunks("CR as the last octet", HEAD + CRLF + rest + b"\r")
    yield by_chunks("an empty LAST behind CRLF . CRLF", HEAD + CRLF + rest + b".\r\n", b"")
    yield by_chunks("an empty chunk between CR and LF", HEAD + b"\r", b"", b"\n.\r\n" + rest)

    behind = CRLF + SMUGGLED
    head = b"BDAT %d\r\n%s" % (len(HEAD), HEAD)
    yield refused("BDAT, then DATA", "BDAT", head + b"DATA\r\n" + SMUGGLED, *_ENVELOPE)
    yield refused("BDAT, then MAIL", "BDAT", head + SMUGGLED, *_ENVELOPE)
    yield refused("BDAT larger than what comes", "BDAT", b"BDAT 99999 LAST\r\n" + HEAD + behind, *_ENVELOPE)
    yield refused(
        "BDAT of 2^64 + 5 octets", "BDAT", b"BDAT 18446744073709551621 LAST\r\n" + HEAD + behind, *_ENVELOPE
    )
    for words in (b"-1 LAST", b"0x17 LAST", b"+23 LAST", b"23 FIRST", b"23 LAST LAST", b"", b"9" * 30):
        name = f"BDAT {words.decode()}".rstrip()
        yield refused(name, "BDAT", b"BDAT %s\r\n%s" % (words, HEAD) + behind, *_ENVELOPE)
    yield refused("BDAT ended by LF", "BDAT", b"BDAT 23 LAST\n" + HEAD + behind, *_ENVELOPE)
    yield refused("BDAT without a recipient", "BDAT", b"BDAT %d LAST\r\n%s" % (len(rest), rest), _MAIL)


def _command_lines() -> Iterator[Variant]:
    group = "command lines"
    more = b"RCPT TO:<victim@example.net>\r\nDATA\r\n" + HEAD
    yield refused("NOOP LF MAIL", group, b"NOOP\n" + SMUGGLED)
    yield refused("NOOP CR MAIL", group, b"NOOP\r" + SMUGGLED)
    yield refused("RSET LF MAIL", group, b"RSET\n" + SMUGGLED)
    yield refused(
        "RCPT LF RCPT", group, b"RCPT TO:<you@example.net>\n" + more.replace(b"DATA", b"BDAT x"), _MAIL
    )
    yield refused(
        "LF within a quoted local part", group, b'RCPT TO:<"a\nDATA\n"@example.net>\r\nDATA\r\n' + HEAD, _MAIL
    )
    yield refused("CRLF within a quoted local part", group, b'RCPT TO:<"a\r\nDATA\r\n' + HEAD, _MAIL)


VARIANTS = (
    *_ends_that_are_none(),
    *(by_data(name, octets, group) for group, table in _OCTETS.items() for name, octets in table.items()),
    *(by_data(f"at once {name}", octets, "at the very start", b"") for name, octets in _AT_THE_START.items()),
    *_long_lines(),
    *_chunked(),
    *_command_lines(),
)


def _behind_refused_data() -> Iterator[Variant]:
    """Of a client that does not look at the answer to DATA, and sends the content whatever it was."""
    group = "content behind a DATA that was refused"
    content = HEAD + b"\r\nRSET\r\n" + SMUGGLED
    yield refused("DATA ended by LF", group, b"DATA\n" + content, *_ENVELOPE)
    yield refused("DATA with NUL", group, b"DATA\0\r\n" + content, *_ENVELOPE)
    yield refused("DATA with an argument", group, b"DATA x\r\n" + content, *_ENVELOPE)
    yield refused("DATA without a recipient", group, b"DATA\r\n" + content, _MAIL)


REFUSED_DATA = tuple(_behind_refused_data())
assert len({variant.name for variant in VARIANTS}) == len(VARIANTS), "two variants have one name"


# ---------------------------------------------------------------- the client


def recipient_of(number: int) -> str:
    """The variant with this number in the table has a recipient of its own."""
    return f"v{number}@example.net"


def accepted(replies: Iterable[bytes]) -> int:
    """Messages that were taken. Also Postfix says so in these words."""
    return sum(b"queued as" in line for line in replies)


def executed(replies: Iterable[bytes]) -> list[bytes]:
    """Replies to the stream which show that commands of an envelope were carried out."""
    return [line for line in replies if re.match(rb"354|250.2\.1\.[05]\b", line)]


def attack(
    port: int, variants: Iterable[Variant], cut: str, at_once: int = AT_ONCE
) -> dict[str, tuple[bytes, ...]]:
    """Try each on a connection of its own; the reply lines to each stream."""
    told: dict[str, tuple[bytes, ...]] = {}
    numbered = list(enumerate(variants))
    for first in range(0, len(numbered), at_once):
        attempts = [_Attempt(port, number, variant) for number, variant in numbered[first : first + at_once]]
        waiting = [(each, iter(each.variant.pieces(cut))) for each in attempts]
        while waiting:
            # One piece of each, then none before the server has read them: so they are cut for it, too.
            waiting = [(each, pieces) for each, pieces in waiting if each.send(next(pieces, b""))]
            _until_read(port)
        for each in attempts:
            told[each.variant.name] = each.end()
    return told


class _Attempt:
    def __init__(self, port: int, number: int, variant: Variant) -> None:
        self.variant = variant
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=BOUND_S)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self._connection.makefile("rb")
        to = recipient_of(number).encode()
        commands = [command.replace(b"{to}", to) for command in variant.opening]
        self._ask(b"", 1)
        self._ask(b"EHLO client.test\r\n", 1)
        self._ask(b"".join(command + CRLF for command in commands), len(commands))

    def _ask(self, words: bytes, replies: int) -> None:
        self._connection.sendall(words)
        while replies:
            line = self._replies.readline()
            assert line[:1] in b"23", (words, line)
            replies -= line[3:4] == b" "

    def send(self, piece: bytes) -> bool:
        """False: there is nothing more to send, or nobody who would read it."""
        try:
            self._connection.sendall(piece)
        except OSError:
            return False
        return bool(piece)

    def end(self) -> tuple[bytes, ...]:
        """Say no more, and hear the rest."""
        lines: list[bytes] = []
        with self._connection, self._replies:
            try:
                self._connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it closed with something unread, and the kernel has sent a reset
            try:
                lines += self._replies
            except ConnectionError:
                pass  # the same, behind the last reply
        return tuple(line.rstrip() for line in lines)


def _until_read(port: int) -> None:
    """Until the server has read from its sockets all that has come."""
    deadline = time.monotonic() + BOUND_S
    while _unread(port):
        assert time.monotonic() < deadline, "the server reads no more"
        time.sleep(0.0005)


_READING = ("01", "08")
"""Established, and closed by the client alone (include/net/tcp_states.h)."""


def _unread(port: int) -> bool:
    here = f":{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, queues, *_ = line.split()
        if local.endswith(here) and state in _READING and not queues.endswith(":00000000"):
            return True
    return False
