"""Delivery status notifications (RFC 3464): what became of a message, told to whoever sent it.

A notice has three parts (RFC 6522): words for a person, fields for a program, and of the original what
goes back. It is written as bytes, from values; who is to be told what is decided elsewhere
(`policy.notification`), and nobody is asked for the time.

Rules:

- Nothing that a stranger wrote begins a line. Addresses, replies, subjects, ORCPT and ENVID lose their
  control characters, and every other line break there is, before they come near a field; what xtext hides
  (`+0D+0A`) is decoded only where the result is printable, and stays as it was received elsewhere.
- No line is longer than 998 octets (RFC 5322 section 2.1.1). Fields are folded, texts are quoted-printable.
- A notice is as plain as it can be, because the way back may know less than the way here. It needs SMTPUTF8
  only if the reverse-path itself does: addresses beyond ASCII are written in the seven-bit form of RFC 6533
  section 3 elsewhere, and an international header goes back quoted-printable.
- What goes back is bounded. A whole message goes back only where something failed (RFC 3461 section 4.3).
- What goes back is what a relay was given: without `Bcc`, since a reverse-path is not always its author's.

Traps: `binascii.b2a_qp` writes bare LF unless the first line break of its input is a CRLF. And
message/rfc822 can only be sent as it is (RFC 2046 section 5.2.1): where its lines are too long for that,
only the header goes back.

The same notice and original give the same bytes: Message-ID and boundary come from the notice's id.
"""

from __future__ import annotations

import binascii
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec

from dispatch.mail.ids import MessageId, spool_form
from dispatch.mail.reply import Reply
from dispatch.mail.showable import showable
from dispatch.mime.fields import encoded_words
from dispatch.mime.handover import for_relay
from dispatch.mime.inspect import header_end
from dispatch.mime.trace import date_text, front_fields

Action = Literal["failed", "delayed", "delivered", "relayed"]
"""RFC 3464 section 2.3.3, without `expanded`: we keep no lists."""

WHOLE_BYTES_MAX = 262_144
"""Up to here a message goes back whole where its sender did not say (RET)."""
FULL_BYTES_MAX = 10_485_760
"""Up to here where the sender asked for all of it (RET=FULL), unless the notice says otherwise."""
HEADER_BYTES_MAX = 65_536
"""Of a header section no more goes back."""

_LINE_BYTES_MAX = 998
_COLUMNS_MAX = 76
_TEXT_COLUMNS = 72
_WORD_BYTES_MAX = 900
_REPLY_CHARS_MAX = 1000
_SUBJECT_CHARS_MAX = 120

_LINE_END = re.compile(rb"\r\n|\r|\n")
_XTEXT = re.compile(r"\+([0-9A-F]{2})")
_EMBEDDED = re.compile(r"\\x\{(10[0-9A-F]{4}|[0-9A-F]{2,5})\}")
_NOT_QCHAR = re.compile(r"[^!-*,-<>-\[\]-~]")
"""RFC 6533 section 3: what `utf-8-addr-xtext` spells out."""
_KEYWORD = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}", re.ASCII)
_MESSAGE_ID = re.compile(
    r"<[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9!#$%&'*+/=?^_`{|}~.:\[\]-]+>", re.ASCII
)
_MESSAGE_ID_CHARS_MAX = 250


class NotifiedRecipient(msgspec.Struct, frozen=True, gc=False):
    """What became of the message for one recipient."""

    address: str
    """The forward-path that we were given."""
    action: Action
    status: str
    """RFC 3463, `class.subject.detail`."""
    explanation: str
    """What happened, in one or two sentences of ours, for a person who is no administrator."""
    original: str | None = None
    """ORCPT as received."""
    reply: Reply | None = None
    """What the next hop said about it."""
    remote_mta: str = ""
    """The host that said so: its name, or an address literal."""
    last_attempt_ms: int | None = None
    will_retry_until_ms: int | None = None


class Notice(msgspec.Struct, frozen=True, gc=False):
    """One DSN, still as values."""

    id: MessageId
    """The notice's own."""
    at_ms: int
    to: str
    """The reverse-path of the message it is about; never the null one."""
    sender: str
    """The address in `From`; the envelope's reverse-path is the null one (RFC 3464 section 2)."""
    reporting_mta: str
    """Our own name."""
    recipients: tuple[NotifiedRecipient, ...]
    """At least one."""
    arrival_ms: int
    """When the message was accepted."""
    size_bytes: int
    """Of its content."""
    subject: str = ""
    message_id: str = ""
    """The original's own `Message-ID`; goes into the threading fields if it is one."""
    envid: str | None = None
    """As received."""
    ret: Literal["FULL", "HDRS"] | None = None
    full_bytes_max: int = FULL_BYTES_MAX

    def __post_init__(self) -> None:
        assert self.to, "nobody is told what became of mail with a null reverse-path"
        assert self.recipients, "a notice is about somebody"


class _Part(NamedTuple):
    head: str
    body: bytes
    """Ends with CRLF, or is empty."""


def needs_smtputf8(notice: Notice) -> bool:
    """Whether the notice can only be sent with SMTPUTF8 (RFC 6531)."""
    return not (notice.to.isascii() and notice.sender.isascii())


def wants_whole(notice: Notice) -> bool:
    """Whether the whole message is to go back: what to fetch, header or content, before composing."""
    failed = any(recipient.action == "failed" for recipient in notice.recipients)
    if not failed or notice.ret == "HDRS":
        return False
    limit = notice.full_bytes_max if notice.ret == "FULL" else min(WHOLE_BYTES_MAX, notice.full_bytes_max)
    return notice.size_bytes <= limit


def compose(notice: Notice, original: bytes | None, *, header_only: bool = False) -> bytes:
    """The notice as content: header section and body, CRLF throughout.

    `original` is the content of the message, or with `header_only` no more than its header section; None
    where it is lost. The content is ASCII, or needs 8BITMIME; see also `needs_smtputf8`.
    """
    international = needs_smtputf8(notice)
    returned, remark = _returned(notice, original, international, header_only=header_only)
    fields = _status_fields(notice, international)
    status = "delivery-status" if fields.isascii() else "global-delivery-status"
    parts = [
        _quoted("text/plain; charset=utf-8", _text(notice, remark).encode("utf-8", "replace")),
        _as_it_is(f"message/{status}", fields),
    ]
    if returned is not None:
        parts.append(returned)
    written = [f"{part.head}\r\n\r\n".encode() + part.body for part in parts]
    boundary = _boundary(notice.id, written)
    head = _header(notice, boundary, plain=all(map(bytes.isascii, written)))
    delimiter = f"\r\n--{boundary}".encode()
    return b"".join([head, *(delimiter + b"\r\n" + part for part in written), delimiter, b"--\r\n"])


# ---------------------------------------------------------------- the header


_SUBJECTS: dict[Action, str] = {
    "failed": "Not delivered",
    "delayed": "Not delivered yet",
    "relayed": "Passed on",
    "delivered": "Delivered",
}
"""The one that weighs most comes first."""


def _header(notice: Notice, boundary: str, *, plain: bool) -> bytes:
    actions = {recipient.action for recipient in notice.recipients}
    lead = next(subject for action, subject in _SUBJECTS.items() if action in actions)
    subject = _clean(notice.subject, _SUBJECT_CHARS_MAX)
    path = _clean(notice.to)
    fitting = len(path.encode()) <= _WORD_BYTES_MAX
    fields = [
        _field("From", "Mail", "relay", f"<{_clean(notice.sender)}>"),
        _field("To", f"<{path}>" if fitting else "undisclosed-recipients:;"),
        _field("Subject", *(lead + (":" if subject else "")).split(" "), *_phrase(subject)),
        front_fields(
            b"",
            has_date=False,
            has_message_id=False,
            starts_with_body=False,
            own_name=notice.reporting_mta,
            id_text=spool_form(notice.id),
            epoch_s=notice.at_ms // 1000,
        ).decode(),
    ]
    if len(notice.message_id) <= _MESSAGE_ID_CHARS_MAX and _MESSAGE_ID.fullmatch(notice.message_id):
        fields.append(_field("In-Reply-To", notice.message_id))
        fields.append(_field("References", notice.message_id))
    fields += [
        # RFC 3834 section 5: no vacation program answers it.
        "Auto-Submitted: auto-replied\r\n",
        "MIME-Version: 1.0\r\n",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary}"\r\n',
        f"Content-Transfer-Encoding: {'7bit' if plain else '8bit'}\r\n",
    ]
    return "".join(fields).encode()


def _boundary(notice_id: MessageId, parts: Iterable[bytes]) -> str:
    """A delimiter that stands in no part, not even as the beginning of another word."""
    everything = b"\n".join(parts)
    number = 0
    while (boundary := f"=_dsn-{notice_id.hex()}-{number}").encode() in everything:
        number += 1
    return boundary


def _phrase(text: str) -> list[str]:
    """The words of an unstructured field; encoded words (RFC 2047) where ASCII does not do."""
    return text.split() if text.isascii() and "=?" not in text else encoded_words(text)


# ---------------------------------------------------------------- for a person


_LEADS: dict[Action, str] = {
    "failed": "could not be delivered to:",
    "delayed": "has not been delivered yet to:",
    "relayed": "was passed on to a mail server that sends no confirmations, for:",
    "delivered": "was delivered to:",
}

_ADVICE: tuple[tuple[str, str], ...] = (
    (".1.8", "Your own address was refused. Ask your administrator."),
    (".1.7", "Your own address was refused. Ask your administrator."),
    (".1.", "Check the address for mistakes, or ask the recipient for the right one."),
    (".2.2", "The mailbox is full. Reach the recipient in another way, or send again later."),
    (".2.3", "The message is too large for this recipient. Send less, or a link to it."),
    (".2.", "Reach the recipient in another way: this mailbox does not take mail."),
    (".3.4", "The message is too large. Send it in smaller pieces, or a link to it."),
    (".4.2", "Ask the recipient whether it arrived before you send it again."),
    (".4.", "Send it again later. If that fails too, tell your administrator."),
    (".6.", "Send it in another form: as plain text, or to and from addresses without special letters."),
    (".7.", "It was a decision, not an accident. Show this notice to your administrator."),
    ("", "If you do not see what is wrong, show this notice to your administrator."),
)
"""What a status begins with behind its class (RFC 3463 section 3), and what a person can do. The first match
wins."""


def _text(notice: Notice, remark: str) -> str:
    """The first part: short, and in this order: what, to whom, why, what to do."""
    subject = _clean(notice.subject, _SUBJECT_CHARS_MAX)
    named = [f"    Subject: {subject}"] if subject else []
    lines = ["Your message", "", *named, f"    Sent: {date_text(notice.arrival_ms // 1000)}", ""]
    for alike in _alike(notice.recipients):
        first = alike[0]
        lines += [_LEADS[first.action], ""]
        lines += [f"    {_clean(recipient.address)}" for recipient in alike]
        lines += ["", *_wrapped(f"What happened: {_clean(first.explanation)}")]
        if first.reply is not None:
            by = f" ({first.remote_mta})" if _HOST.fullmatch(first.remote_mta) else ""
            lines += ["", f"The next mail server{by} said:", ""]
            lines += _wrapped(_clean(str(first.reply), _REPLY_CHARS_MAX), "    ")
        lines += ["", *_wrapped(_what_to_do(first)), ""]
    lines += _wrapped(remark)
    lines += ["", *_wrapped(f"This notice was written by the mail relay {_clean(notice.reporting_mta)}."), ""]
    return "\r\n".join(lines)


def _alike(recipients: Sequence[NotifiedRecipient]) -> list[list[NotifiedRecipient]]:
    """Recipients about whom the same is to be said, together."""
    together: dict[tuple[object, ...], list[NotifiedRecipient]] = {}
    for one in recipients:
        said = str(one.reply) if one.reply is not None else None
        same = (one.action, one.status, one.explanation, said, one.remote_mta, one.will_retry_until_ms)
        together.setdefault(same, []).append(one)
    return list(together.values())


def _what_to_do(recipient: NotifiedRecipient) -> str:
    match recipient.action:
        case "failed":
            behind_class = _status(recipient)[1:]
            advice = next(advice for beginning, advice in _ADVICE if behind_class.startswith(beginning))
            return f"What you can do: {advice} It is not tried again."
        case "delayed":
            until_ms = recipient.will_retry_until_ms
            until = f" until {date_text(until_ms // 1000)}" if until_ms is not None else ""
            return (
                f"What you can do: nothing for now, and there is no need to send it again. It will be tried"
                f"{until}, and you will be told if that fails."
            )
        case "relayed" | "delivered":
            return "You asked for this notice. There is nothing to do."


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        _TEXT_COLUMNS,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


# ---------------------------------------------------------------- for a program


def _status_fields(notice: Notice, international: bool) -> bytes:
    """RFC 3464 section 2: fields of the message, then a block of fields for each recipient."""
    block = ""
    if notice.envid is not None:
        # Printable ASCII, once decoded (RFC 3461 section 4.4): a client that hides more gets its own back.
        block += _field("Original-Envelope-Id", *_words(_decoded(notice.envid), international))
    block += _field("Reporting-MTA", "dns;", *_words(notice.reporting_mta, international))
    block += _field("Arrival-Date", date_text(notice.arrival_ms // 1000))
    blocks = [block]
    for recipient in notice.recipients:
        block = ""
        if recipient.original is not None:
            block += _original_recipient(recipient.original, international)
        block += _field("Final-Recipient", *_typed(_clean(recipient.address), international))
        block += _field("Action", recipient.action)
        block += _field("Status", _status(recipient))
        if _HOST.fullmatch(recipient.remote_mta):
            block += _field("Remote-MTA", "dns;", recipient.remote_mta)
        if recipient.reply is not None:
            said = _clean(str(recipient.reply), _REPLY_CHARS_MAX)
            block += _field("Diagnostic-Code", "smtp;", *_words(said, international))
        if recipient.last_attempt_ms is not None:
            block += _field("Last-Attempt-Date", date_text(recipient.last_attempt_ms // 1000))
        if recipient.will_retry_until_ms is not None and recipient.action == "delayed":
            block += _field("Will-Retry-Until", date_text(recipient.will_retry_until_ms // 1000))
        blocks.append(block)
    return "\r\n".join(blocks).encode()


_CLASSES: dict[Action, str] = {
    "failed": "5.0.0",
    "delayed": "4.0.0",
    "relayed": "2.0.0",
    "delivered": "2.0.0",
}


def _status(recipient: NotifiedRecipient) -> str:
    return recipient.status if _STATUS.fullmatch(recipient.status) else _CLASSES[recipient.action]


def _original_recipient(original: str, international: bool) -> str:
    """`Original-Recipient` from ORCPT (RFC 3464 section 2.3.1), or nothing where it is none."""
    kind, semicolon, xtext = original.partition(";")
    if not semicolon or not _KEYWORD.fullmatch(kind):
        return ""
    if kind.lower() == "utf-8":
        return _field("Original-Recipient", *_typed(_clean(_decoded_utf8(xtext)), international, kind))
    words = _words(_clean(_decoded(xtext)), international)
    return _field("Original-Recipient", f"{kind};", " ".join(words)) if words else ""


def _typed(address: str, international: bool, kind: str = "rfc822") -> tuple[str, str]:
    """Address type and address, for one field (RFC 3464 section 2.3.2, RFC 6533 section 3)."""
    if address.isascii() and kind == "rfc822":
        return "rfc822;", address
    if international:
        return "utf-8;", address
    return "utf-8;", _NOT_QCHAR.sub(lambda char: f"\\x{{{ord(char[0]):02X}}}", address)


def _decoded(xtext: str) -> str:
    """RFC 3461 section 4; as it is where what comes out is not printable ASCII."""
    text = _XTEXT.sub(lambda pair: chr(int(pair[1], 16)), xtext)
    return text if text.isascii() and text.isprintable() else xtext


def _decoded_utf8(encoded: str) -> str:
    """Any of the three forms of RFC 6533 section 3; as it is where what comes out is not printable."""
    text = _EMBEDDED.sub(lambda point: chr(int(point[1], 16)), _decoded(encoded))
    return text if text.isprintable() else encoded


# ---------------------------------------------------------------- what goes back


def _returned(
    notice: Notice, original: bytes | None, international: bool, *, header_only: bool
) -> tuple[_Part | None, str]:
    """The third part, and what the text says of it."""
    if original is None:
        return None, "Below is a report for programs. The message itself is no longer at hand."
    content = _LINE_END.sub(b"\r\n", for_relay(original, verbatim=False))
    head = content[: header_end(content)]
    because = ""
    if wants_whole(notice) and not header_only:
        if _beyond_ascii(head):
            fits = international and _carriable(content)
            write = _as_it_is if fits else _quoted
            return write("message/global", content), "Below are a report for programs, and your message."
        if _carriable(content):
            return _as_it_is("message/rfc822", content), "Below are a report for programs, and your message."
        because = " Its lines are longer than mail may carry, so the rest cannot be sent back."
    elif any(recipient.action == "failed" for recipient in notice.recipients):
        if notice.ret == "HDRS":
            because = " The rest is not sent back, as was asked for when you sent it."
        elif not wants_whole(notice):
            because = " The rest is too large to be sent back."
    if len(head) > HEADER_BYTES_MAX:
        head = head[: head.rfind(b"\n", 0, HEADER_BYTES_MAX) + 1] or head[:HEADER_BYTES_MAX]
        because = f" The header is long, and its end was left out.{because}"
    if _beyond_ascii(head):
        write = _as_it_is if international and _carriable(head) else _quoted
        part = write("message/global-headers", head)
    else:
        write = _as_it_is if head.isascii() and _carriable(head) else _quoted
        part = write("text/rfc822-headers", head)
    return part, f"Below are a report for programs, and the header of your message.{because}"


def _beyond_ascii(head: bytes) -> bool:
    """Whether a header section is an international one (RFC 6532), not just one with stray octets."""
    if head.isascii():
        return False
    try:
        head.decode()
    except UnicodeDecodeError:
        return False
    return True


def _carriable(content: bytes) -> bool:
    """Whether it may stand in a message as it is (RFC 2045 section 2.8): CRLF is given."""
    return b"\0" not in content and max(map(len, content.split(b"\r\n"))) <= _LINE_BYTES_MAX


def _as_it_is(kind: str, content: bytes) -> _Part:
    encoding = "7bit" if content.isascii() else "8bit"
    return _Part(f"Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}", content)


def _quoted(kind: str, content: bytes) -> _Part:
    # See the module's traps: it has to meet a CRLF.
    body = binascii.b2a_qp(content if content.endswith(b"\r\n") else content + b"\r\n", istext=True)
    return _Part(f"Content-Type: {kind}\r\nContent-Transfer-Encoding: quoted-printable", body)


# ---------------------------------------------------------------- words and fields


def _clean(text: str, chars_max: int = _WORD_BYTES_MAX) -> str:
    """One line of harmless text: what a stranger wrote, on its way into a field or before a person."""
    text = showable(text).encode("utf-8", "replace").decode()
    return text[:chars_max].strip(" ")


def _words(text: str, international: bool) -> list[str]:
    """The words of a field of the report, in ASCII unless the report is international."""
    text = _clean(text)
    if not international:
        text = text.encode("ascii", "replace").decode()
    return [word for word in text.split(" ") if word]


def _field(name: str, *words: str) -> str:
    """A field, folded between its words (RFC 5322 section 2.2.3); they hold no line breaks any more."""
    lines: list[str] = []
    line = f"{name}:"
    for word in words:
        for piece in _pieces(word):
            if len(line) + 1 + len(piece) > _COLUMNS_MAX and line:
                lines.append(line)
                line = ""
            line += f" {piece}"
    return "\r\n".join([*lines, line]) + "\r\n"


def _pieces(word: str) -> list[str]:
    """The word; cut where no line would hold it, which no address and no text in use comes near.

    None of the pieces is blank: a line of white space could be read as the end of the fields.
    """
    if len(word.encode()) <= _WORD_BYTES_MAX:
        return [word]
    chars = _WORD_BYTES_MAX // 4
    pieces = (word[at : at + chars] for at in range(0, len(word), chars))
    return [piece for piece in pieces if piece.strip(" ")]
