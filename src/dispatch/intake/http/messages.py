"""What `POST /api/v1/messages` takes: a JSON document, read into a message to be composed.

Nothing is guessed and nothing repaired: whatever cannot be used as it stands is told, every field at once,
each with its path. A field that is not known is a mistake, too: it is more often misspelt than superfluous.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from dispatch.intake.http.problems import FieldError, Problem, invalid
from dispatch.mail.address import split_address
from dispatch.mail.message import PRIORITIES, Priority
from dispatch.mail.showable import showable
from dispatch.mime.compose import OCTETS, Attachment, Draft, is_content_id, is_media_type
from dispatch.mime.inspect import TAG_CHARS_MAX, TAGS_MAX
from dispatch.mime.mailboxes import CONTROL, Mailbox, MalformedMailbox, parse_mailboxes
from dispatch.policy.mail_domains import destination
from dispatch.smtp.grammar import is_address

SUBJECT_CHARS_MAX = 998
NAME_CHARS_MAX = 256
HEADERS_MAX = 100
HEADER_CHARS_MAX = 8192
ATTACHMENTS_MAX = 200
FILE_NAME_CHARS_MAX = 255
FORBIDDEN_HEADERS = frozenset(
    {
        *("from", "sender", "to", "cc", "bcc", "reply-to", "subject", "date", "message-id", "mime-version"),
        *("received", "return-path", "dkim-signature", "authentication-results", "delivered-to"),
        *("arc-seal", "arc-message-signature", "arc-authentication-results", "received-spf"),
        *("resent-from", "resent-to", "resent-cc", "resent-bcc", "resent-sender", "resent-date"),
        "resent-message-id",
    }
)
FORBIDDEN_PREFIXES = ("content-", "x-dispatch-")
"""What other fields of the request say, or only the relay may."""
_NAME_CHARS = frozenset(map(chr, range(33, 127))) - {":"}
_SEPARATORS = frozenset("/\\")

Recipients = tuple[tuple[str, str], ...]
"""Address, and the path of the field that it stands in."""


class Offer(NamedTuple):
    """A message that a program offers."""

    draft: Draft
    recipients: Recipients
    """To, cc and bcc; each address once."""
    tags: tuple[str, ...]
    priority: Priority | None
    relay: str


def read_offer(body: bytes, default_from: Mailbox | None) -> Offer:
    """Raises `Problem`. `default_from`: who a message is from that does not say it."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(400, "invalid_json", f"the body is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise Problem(400, "invalid_json", "the body must be a JSON object")
    return _Reader(document).offer(default_from)


class _Reader:
    def __init__(self, document: Mapping[str, object]) -> None:
        self._document = document
        self._errors: list[FieldError] = []

    def offer(self, default_from: Mailbox | None) -> Offer:
        for name in self._document:
            if name not in FIELDS:
                self._wrong(name, f"there is no such field; there are {', '.join(FIELDS)}")
        sender = self._sender(default_from)
        told = len(self._errors)
        to, cc, bcc = (self._mailboxes(name) for name in ("to", "cc", "bcc"))
        recipients: dict[str, str] = {}
        for path, (_, address) in (*to, *cc, *bcc):
            recipients.setdefault(address, path)
        if not recipients and len(self._errors) == told:
            self._wrong("to", "a message needs a recipient, in to, cc or bcc")
        draft = Draft(
            sender,
            [mailbox for _, mailbox in to],
            [mailbox for _, mailbox in cc],
            [mailbox for _, mailbox in self._mailboxes("reply_to")],
            subject=self._line("subject", SUBJECT_CHARS_MAX),
            text=self._text("text"),
            html=self._text("html"),
            headers=list(self._headers()),
            attachments=list(self._attachments()),
        )
        if draft.text is None and draft.html is None and not draft.attachments:
            self._wrong("text", "a message needs text, html or an attachment")
        offer = Offer(
            draft,
            tuple(recipients.items()),
            self._tags(),
            self._priority(),
            self._line("relay", 64),
        )
        if self._errors:
            raise invalid(self._errors)
        return offer

    def _wrong(self, path: str, message: str) -> None:
        self._errors.append(FieldError(showable(path[:NAME_CHARS_MAX]), message))

    def _sender(self, default: Mailbox | None) -> Mailbox:
        if self._document.get("from") is None and default is not None:
            return default
        told = len(self._errors)
        found = self._mailboxes("from")
        if len(found) == 1:
            return found[0][1]
        if len(self._errors) == told:
            self._wrong("from", "one address, please" if found else "is missing")
        return Mailbox("", "")

    def _mailboxes(self, name: str) -> list[tuple[str, Mailbox]]:
        """Each with the path of where it stands."""
        given = self._document.get(name)
        if given is None:
            return []
        entries = [(name, given)] if isinstance(given, str) else self._elements(name, given)
        found: list[tuple[str, Mailbox]] = []
        for path, entry in entries:
            if not isinstance(entry, str):
                self._wrong(path, "must be text: an address, or Name <address>")
                continue
            try:
                found += [(path, mailbox) for mailbox in parse_mailboxes(entry)]
            except MalformedMailbox as error:
                self._wrong(path, str(error))
        for path, (shown, address) in found:
            if not is_address(address):
                self._wrong(path, f"{showable(address[:NAME_CHARS_MAX])} is no address")
            elif len(shown) > NAME_CHARS_MAX:
                self._wrong(path, f"the name is longer than {NAME_CHARS_MAX} characters")
        return [(path, Mailbox(shown, _normalised(address))) for path, (shown, address) in found]

    def _elements(self, name: str, given: object) -> list[tuple[str, object]]:
        if not isinstance(given, list):
            self._wrong(name, "must be a list")
            return []
        return [(f"{name}[{place}]", element) for place, element in enumerate(given)]

    def _text(self, name: str) -> str | None:
        given = self._document.get(name)
        if given is None:
            return None
        if not isinstance(given, str) or not _is_unicode(given):
            self._wrong(name, "must be text")
            return None
        return given

    def _line(self, name: str, chars_max: int) -> str:
        return self._short(name, self._document.get(name), chars_max)

    def _short(self, path: str, given: object, chars_max: int) -> str:
        """Text of one line; empty where it is missing, or wrong."""
        if given is None:
            return ""
        if not isinstance(given, str):
            self._wrong(path, "must be text")
        elif CONTROL.search(given):
            self._wrong(path, "holds a line break or another control character")
        elif len(given) > chars_max:
            self._wrong(path, f"is longer than {chars_max} characters")
        else:
            return given
        return ""

    def _headers(self) -> Iterator[tuple[str, str]]:
        given = self._document.get("headers")
        if given is None:
            return
        if not isinstance(given, dict) or len(given) > HEADERS_MAX:
            self._wrong("headers", f"must be an object, with up to {HEADERS_MAX} names and values")
            return
        for name, value in given.items():
            path = f"headers.{name}"
            small = name.lower()
            if not name or len(name) > 128 or not _NAME_CHARS.issuperset(name):
                self._wrong(path, "is no name of a header field")
            elif small in FORBIDDEN_HEADERS or small.startswith(FORBIDDEN_PREFIXES):
                self._wrong(path, "may not be set: it is written by the relay, or by another field")
            elif text := self._short(path, value, HEADER_CHARS_MAX):
                yield name, text

    def _tags(self) -> tuple[str, ...]:
        given = self._document.get("tags")
        if given is None:
            return ()
        tags = [self._short(path, each, TAG_CHARS_MAX) for path, each in self._elements("tags", given)]
        if len(tags) > TAGS_MAX:
            self._wrong("tags", f"more than {TAGS_MAX}")
        return tuple(dict.fromkeys(filter(None, tags)))

    def _priority(self) -> Priority | None:
        given = self._document.get("priority")
        if given is None or given in PRIORITIES:
            return given
        self._wrong("priority", f"must be one of {', '.join(PRIORITIES)}")
        return None

    def _attachments(self) -> Iterator[Attachment]:
        given = self._document.get("attachments")
        if given is None:
            return
        elements = self._elements("attachments", given)
        if len(elements) > ATTACHMENTS_MAX:
            self._wrong("attachments", f"more than {ATTACHMENTS_MAX}")
            return
        for path, element in elements:
            if not isinstance(element, dict):
                self._wrong(path, "must be an object")
                continue
            for name in element:
                if name not in ATTACHMENT_FIELDS:
                    self._wrong(
                        f"{path}.{name}", f"there is no such field; there are {', '.join(ATTACHMENT_FIELDS)}"
                    )
            yield self._attachment(path, element)

    def _attachment(self, path: str, given: Mapping[str, object]) -> Attachment:
        filename = self._short(f"{path}.filename", given.get("filename"), FILE_NAME_CHARS_MAX)
        content_type = self._short(f"{path}.content_type", given.get("content_type"), 255) or OCTETS
        content_id = self._short(f"{path}.content_id", given.get("content_id"), 250)
        if _SEPARATORS.intersection(filename):
            self._wrong(f"{path}.filename", "must be a name without a folder")
        elif not filename and not content_id:
            self._wrong(f"{path}.filename", "is missing")
        if not is_media_type(content_type):
            self._wrong(f"{path}.content_type", "must be like application/pdf, without parameters")
        if content_id and not is_content_id(content_id):
            self._wrong(f"{path}.content_id", "must be like logo or logo@example.org, without angle brackets")
        return Attachment(
            filename, content_type, (self._octets(f"{path}.content", given.get("content")),), content_id
        )

    def _octets(self, path: str, given: object) -> bytes:
        if not isinstance(given, str):
            self._wrong(path, "must be text: the file in base64")
            return b""
        try:
            return binascii.a2b_base64(given, strict_mode=True)
        except ValueError:
            self._wrong(path, "is no base64 (RFC 4648 section 4, padded, without line breaks)")
            return b""


FIELDS: Sequence[str] = (
    *("from", "to", "cc", "bcc", "reply_to", "subject", "text", "html", "headers", "tags", "attachments"),
    *("priority", "relay"),
)
ATTACHMENT_FIELDS = ("filename", "content_type", "content", "content_id")


def _normalised(address: str) -> str:
    """With its domain as DNS has it: a host that knows no SMTPUTF8 can be handed it, unless the rest needs
    that."""
    local_part, domain = split_address(address)
    return address if domain.isascii() else f"{local_part}@{destination(address)}"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
