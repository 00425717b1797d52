"""What intake and history need to know of a message, read in one pass over its header section.

The body is never looked at, and the header section is never parsed as a whole: one compiled
expression finds the few fields that matter, so a message of a million fields or parts costs no more
than the bytes of its head (and of those at most `HEAD_BYTES_MAX` are read).

What the header section is, `header_end` decides for this whole package: it ends at the first
empty line. Lines within it that are no fields are passed over. (Some parsers let the body
begin at such a line. To look further than they do is the safe side for loops and for `Bcc`.)

Bare LF is not let in by intake; here it ends a line like CRLF, so that nothing hides behind it.

Trap: never `str.splitlines` or `\\s` on decoded header text; both know line breaks that mail does not.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from dispatch.mail.message import PRIORITIES, Priority, Summary
from dispatch.mail.showable import showable
from dispatch.mime.encoded_words import decode_words

HEAD_BYTES_MAX = 262_144
SUBJECT_CHARS_MAX = 998
FROM_CHARS_MAX = 512
MESSAGE_ID_CHARS_MAX = 512
MAILER_CHARS_MAX = 256
TAGS_MAX = 20
TAG_CHARS_MAX = 64
RELAY_CHARS_MAX = 64
WANTED_MAX = 50
"""Fields that rules ask for, of one message."""
WANTED_CHARS_MAX = 998

_FIELD_NAME = re.compile(rb"[!-9;-~]+[ \t]*:")
"""RFC 5322 section 3.6.8; section 4.5 allows space before the colon."""
_EMPTY_LINE = (b"\r\n", b"\n")
_MBOX_LINES = re.compile(rb"(?:>?From [^\n]*\n)+")
_FIELDS = re.compile(
    r"\n((?:[Rr](?i:eceived)|[Dd](?i:ate)|[Ss](?i:ubject)|[Mm](?i:essage-id)|[Ff](?i:rom)|[Uu](?i:ser-agent)"
    r"|[Xx]-(?i:mailer|dispatch-(?:tag|priority|relay))))[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)",
    re.ASCII,
)
"""The first letters stand outside the case folding: so most lines are passed over after one character."""

_FOLD = re.compile(r"\r?\n(?=[ \t])")


class Inspection(msgspec.Struct, frozen=True, gc=False):
    """What one look at the header section told."""

    summary: Summary
    has_date: bool
    has_message_id: bool
    received_count: int
    own_received_count: int
    """Of those `Received` fields, how many were written under our own name."""
    priority: Priority | None
    """None: the message does not say."""
    header_start: int
    """0, or the length of an mbox `From ` line, which is no part of the message and is to be left out."""
    header_end: int
    """Offset of the empty line behind the last field, or of the content's end where there is none."""
    starts_with_body: bool
    """The first line is no field: an empty line must stand between what is put in front and the content."""
    relays: tuple[str, ...] = ()
    """What `X-Dispatch-Relay` says, each once: a message that is to be understood names one."""


def header_end(content: bytes, start: int = 0) -> int:
    """Offset of the empty line that ends the header section; the content's length where there is none."""
    if content.startswith(_EMPTY_LINE, start):
        return start
    return _end_of_fields(content, start)


def _end_of_fields(content: bytes, start: int) -> int:
    found = content.find(b"\n\r\n", start)
    bare = content.find(b"\n\n", start, found if found >= 0 else len(content))
    if bare >= 0:
        found = bare
    return found + 1 if found >= 0 else len(content)


def inspect(head_and_body: bytes, own_name: str, wanted: frozenset[str] = frozenset()) -> Inspection:
    """Look at a content, or at the first block of a large one. `own_name` is `listener.server_name`.

    `wanted`: names of other fields, in small letters, whose values the summary is to have.
    """
    start = 0
    starts_with_body = False
    if _FIELD_NAME.match(head_and_body) is None:
        start, starts_with_body = _odd_start(head_and_body)
        end = start if starts_with_body else header_end(head_and_body, start)
    else:
        end = _end_of_fields(head_and_body, 0)

    head = head_and_body[start : min(end, start + HEAD_BYTES_MAX)].decode("utf-8", "replace")
    first: dict[str, str] = {}
    received: list[str] = []
    raw_tags: list[str] = []
    relays: dict[str, None] = {}
    # The line break in front makes the first line begin like every other.
    for name, value in _FIELDS.findall("\n" + head):
        name = name.lower()
        if name == "received":
            received.append(value)
        elif name == "x-dispatch-tag":
            raw_tags.append(value)
        elif name == "x-dispatch-relay":
            relays[_text(value, RELAY_CHARS_MAX)] = None
        elif name not in first:
            first[name] = value

    mailer = first.get("x-mailer") or first.get("user-agent")
    return Inspection(
        Summary(
            _text(first["subject"], SUBJECT_CHARS_MAX) if "subject" in first else "",
            _text(first["from"], FROM_CHARS_MAX) if "from" in first else "",
            _text(first["message-id"], MESSAGE_ID_CHARS_MAX) if "message-id" in first else "",
            _text(mailer, MAILER_CHARS_MAX) if mailer else "",
            _tags(raw_tags) if raw_tags else (),
            _wanted_fields(head, wanted) if wanted else (),
        ),
        "date" in first,
        "message-id" in first,
        len(received),
        _count_own(received, own_name) if received else 0,
        _priority(first["x-dispatch-priority"]) if "x-dispatch-priority" in first else None,
        start,
        end,
        starts_with_body,
        tuple(relays),
    )


def _odd_start(content: bytes) -> tuple[int, bool]:
    """Where the header section starts when the first line is no field, and whether there is none."""
    mbox_lines = _MBOX_LINES.match(content)
    start = mbox_lines.end() if mbox_lines else 0
    empty = start == len(content) or content.startswith(_EMPTY_LINE, start)
    return start, not empty and _FIELD_NAME.match(content, start) is None


def _count_own(received: list[str], own_name: str) -> int:
    name = own_name.lower()
    own = 0
    for value in received:
        # To look for the name alone is quicker, and in most mail the whole answer.
        value = value.lower()
        if name in value and _written_by(name).search(value):
            own += 1
    return own


@lru_cache(maxsize=16)
def _written_by(own_name: str) -> re.Pattern[str]:
    """Matches the `by` clause of RFC 5321 section 4.4 with this name, and not with a longer one."""
    return re.compile(r"by(?<=[ \t\n)]by)[ \t\r\n]+" + re.escape(own_name) + r"(?![a-z0-9_.-])")


def _text(value: str, chars_max: int) -> str:
    """A field's value as a person may be shown it: unfolded, decoded, without control characters."""
    text = value[: chars_max * 8].strip(" \t\r\n")
    if "\n" in text:
        text = _FOLD.sub("", text)
    if "=?" in text:
        text = decode_words(text)
    if not text.isprintable():
        text = showable(text).strip(" ")
    return text[:chars_max]


def _priority(value: str) -> Priority | None:
    wanted = value.strip(" \t\r\n").lower()
    return next((priority for priority in PRIORITIES if priority == wanted), None)


def _wanted_fields(head: str, names: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """Name, in small letters, and value of each, as often as it stands there, up to a bound."""
    found = _expression_for(names).findall("\n" + head)
    return tuple((name.lower(), _text(value, WANTED_CHARS_MAX)) for name, value in found[:WANTED_MAX])


@lru_cache(maxsize=16)
def _expression_for(names: frozenset[str]) -> re.Pattern[str]:
    alternatives = "|".join(map(re.escape, sorted(names)))
    return re.compile(rf"\n((?i:{alternatives}))[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.ASCII)


def _tags(values: list[str]) -> tuple[str, ...]:
    """Each once, in their order, as many as are kept."""
    tags = (_text(value, TAG_CHARS_MAX) for value in values)
    return tuple(dict.fromkeys(tag for tag in tags if tag))[:TAGS_MAX]
