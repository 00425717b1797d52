"""DKIM signatures (RFC 6376, RFC 8301, RFC 8463): the fields that vouch for a content, put in front of it.

Made last, from the bytes as the relay gets them: whatever is taken out, rewritten or put in later breaks
them. Two things are signed, apart: a hash of the body, and a selection of header fields that ends with
the signature field itself. So a body too large for memory is fed to `BodyHash` block by block; `sign` needs
the header section and that hash. Several keys share the work; each gets a field of its own.

Which fields are signed (RFC 6376 section 5.4): what people read, what replies and lists go by, and what
says how the body is to be read. All occurrences are, from the last to the first (section 5.4.2). Some
are *oversigned*: named once more than they occur, so that nobody can add one (section 8.15). Those that
a relay behind us adds where missing (`Date`, `Message-ID`, MIME) only if they are present. What is
rewritten on the way (`Received`, `Return-Path`) never is.

Keys are objects behind `Signer`; what makes them from PEM is `security.dkim_keys`. There is deliberately
no `l=` (section 8.2: whoever can append to the body can change what is shown) and no verifier.
Lines end in CRLF here; intake lets no other in.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Literal, Protocol

import msgspec

from dispatch.mime.inspect import header_end

Algorithm = Literal["rsa-sha256", "ed25519-sha256"]
Canonicalization = Literal["relaxed/relaxed", "relaxed/simple", "simple/simple"]
"""Of the header section and of the body (RFC 6376 section 3.4)."""
BodyCanonicalization = Literal["relaxed", "simple"]

SIGNED_FIELDS_MAX = 100
_COLUMNS_MAX = 76

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
DOMAIN = rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})+"
SELECTOR = rf"(?=.{{1,200}}\Z){_LABEL}(?:\.{_LABEL})*"
_DOMAIN = re.compile(DOMAIN)
_SELECTOR = re.compile(SELECTOR)
_AUID_LOCAL_PART = re.compile(r"[A-Za-z0-9!#$%&'*+/?^_`{|}~.-]{0,64}")
"""What needs no encoding in a tag, without `=`."""

_OVERSIGNED = (1, 1)
_OVERSIGNED_IF_PRESENT = (0, 1)
_SIGNED_IF_PRESENT = (0, 0)
_SIGNED: dict[bytes, tuple[int, int]] = {
    b"from": _OVERSIGNED,
    b"to": _OVERSIGNED,
    b"cc": _OVERSIGNED,
    b"reply-to": _OVERSIGNED,
    b"subject": _OVERSIGNED,
    b"sender": _OVERSIGNED_IF_PRESENT,
    b"date": _OVERSIGNED_IF_PRESENT,
    b"message-id": _OVERSIGNED_IF_PRESENT,
    b"in-reply-to": _OVERSIGNED_IF_PRESENT,
    b"references": _OVERSIGNED_IF_PRESENT,
    b"mime-version": _OVERSIGNED_IF_PRESENT,
    b"content-type": _OVERSIGNED_IF_PRESENT,
    b"content-transfer-encoding": _OVERSIGNED_IF_PRESENT,
    # Lists and people who forward add these, and do no harm by it.
    b"resent-date": _SIGNED_IF_PRESENT,
    b"resent-from": _SIGNED_IF_PRESENT,
    b"resent-sender": _SIGNED_IF_PRESENT,
    b"resent-to": _SIGNED_IF_PRESENT,
    b"resent-cc": _SIGNED_IF_PRESENT,
    b"resent-message-id": _SIGNED_IF_PRESENT,
    b"list-id": _SIGNED_IF_PRESENT,
    b"list-help": _SIGNED_IF_PRESENT,
    b"list-unsubscribe": _SIGNED_IF_PRESENT,
    b"list-unsubscribe-post": _SIGNED_IF_PRESENT,  # RFC 8058 section 4
    b"list-subscribe": _SIGNED_IF_PRESENT,
    b"list-post": _SIGNED_IF_PRESENT,
    b"list-owner": _SIGNED_IF_PRESENT,
    b"list-archive": _SIGNED_IF_PRESENT,
}
"""Name in lower case, and how often more it is named than it occurs: where it is absent, where present."""

_FIELDS = re.compile(
    rb"\n((?=[CDFILMRSTcdfilmrst])((?i:"
    + rb"|".join(re.escape(name) for name in _SIGNED)
    + rb"))[ \t]*:[^\n]*(?:\n[ \t][^\n]*)*)"
)
"""A whole field but for its last LF, and its name. Most lines are passed over after one character."""

_LINE_ENDS = b"\r\n" * 4096


class Unsignable(ValueError):
    """The header section cannot be signed as a whole; the message says why."""


class Signer(Protocol):
    """A private key. One may be shared by many relays and threads."""

    @property
    def algorithm(self) -> Algorithm: ...

    def sign(self, data: bytes) -> bytes:
        """The signature over SHA-256 of `data`: RSASSA-PKCS1-v1_5 (RFC 6376 section 3.3.2), PureEdDSA of
        the hash (RFC 8463 section 3)."""
        ...


class SigningKey(msgspec.Struct, frozen=True):
    """In whose name is signed, with what, and where its public key is: `<selector>._domainkey.<domain>`.

    Raises `ValueError` for names that cannot stand in a signature field.
    """

    domain: str
    """`d=`, in ASCII (A-labels)."""
    selector: str
    """`s=`. Keys of different algorithms need different ones (RFC 8463 section 4)."""
    signer: Signer
    auid: str | None = None
    """`i=`, the agent or user identifier: `@` and the domain or one below it; a local part may be before."""

    def __post_init__(self) -> None:
        if _DOMAIN.fullmatch(self.domain) is None:
            raise ValueError(f"{self.domain!r} is no domain: write it in ASCII, like example.org")
        if _SELECTOR.fullmatch(self.selector) is None:
            raise ValueError(f"{self.selector!r} is no selector: letters, digits, hyphens, and dots between")
        if self.auid is not None:
            local_part, at, domain = self.auid.rpartition("@")
            if not at or _AUID_LOCAL_PART.fullmatch(local_part) is None or _DOMAIN.fullmatch(domain) is None:
                raise ValueError(f"{self.auid!r} is no identifier: write it like @{self.domain}")
            if not f".{domain}".lower().endswith(f".{self.domain}".lower()):
                raise ValueError(f"{self.auid!r} is not within {self.domain}")  # RFC 6376 section 3.5


class BodyHash:
    """SHA-256 of a body's canonical form, for blocks with any borders; keeps two bytes and a count.

    `feed` each block of what follows the empty line, then `digest` once. A last line without CRLF counts as
    ended, as it will be when it is sent.
    """

    __slots__ = ("_empty", "_held", "_line_ends", "_relaxed", "_sha256")

    def __init__(self, canonicalization: BodyCanonicalization) -> None:
        self._relaxed = canonicalization == "relaxed"
        self._sha256 = sha256()
        self._held = b""
        """What the next byte decides about: a CR at the end; in relaxed form white space, too."""
        self._line_ends = 0
        """CRLFs that count only if anything follows them."""
        self._empty = True

    def feed(self, block: bytes) -> None:
        data = self._held + block if self._held else block
        end_cr = b"\r" if data.endswith(b"\r") else b""
        text = data[:-1] if end_cr else data
        if self._relaxed:
            whole_bytes = len(text)
            text = text.rstrip(b" \t")
            self._held = b" " + end_cr if len(text) < whole_bytes else end_cr
            text = _single_spaces(text)
            if b" \r\n" in text:
                text = text.replace(b" \r\n", b"\r\n")
        else:
            self._held = end_cr
        line_ends = _trailing_line_ends(text)
        if line_ends:
            text = text[: -2 * line_ends]
        if text:
            self._add(text)
            self._line_ends = line_ends
        else:
            self._line_ends += line_ends

    def digest(self) -> bytes:
        """32 octets; nothing may be fed afterwards."""
        if self._held.endswith(b"\r"):
            self._add(self._held)
        # RFC 6376 section 3.4.3: in simple form an empty body is one CRLF, in relaxed form (3.4.4) nothing.
        if not (self._empty and self._relaxed):
            self._sha256.update(b"\r\n")
        return self._sha256.digest()

    def _add(self, text: bytes) -> None:
        self._empty = False
        while self._line_ends:
            octets = _LINE_ENDS[: 2 * self._line_ends]
            self._sha256.update(octets)
            self._line_ends -= len(octets) // 2
        self._sha256.update(text)


def relaxed_field(field: bytes) -> bytes:
    """One field in relaxed form, without its line end (RFC 6376 section 3.4.2)."""
    name, _, value = field.partition(b":")
    if b"\n" in value:
        value = value.replace(b"\r\n", b"")
    return name.rstrip(b" \t").lower() + b":" + _single_spaces(value).strip(b" ")


def sign(
    header: bytes,
    body_hash: bytes,
    keys: Sequence[SigningKey],
    *,
    signed_s: int,
    expires_s: int | None = None,
    canonicalization: Canonicalization = "relaxed/relaxed",
) -> bytes:
    """One `DKIM-Signature` field a key, folded, each with its CRLF: to be put in front of `header`.

    `header` is the header section, with or without the empty line; `body_hash` comes from a `BodyHash` of the
    same `canonicalization`; times are whole seconds since 1970 (`t=`, `x=`). Raises `Unsignable`.
    """
    assert expires_s is None or expires_s > signed_s, "x= is later than t= (RFC 6376 section 3.5)"
    relaxed = canonicalization.startswith("relaxed/")
    names, data = _signed_fields(header, relaxed=relaxed)
    h = _h_tag(names)
    bh = b64encode(body_hash).decode("ascii")
    expires = "" if expires_s is None else f" x={expires_s};"
    fields: list[bytes] = []
    for key in keys:
        # On one line where they fit; names are the only tags of any length.
        between = " " if len(key.domain) + len(key.selector) + 8 <= _COLUMNS_MAX else "\r\n\t"
        auid = "" if key.auid is None else f"\r\n\ti={key.auid};"
        unsigned = (
            f"DKIM-Signature: v=1; a={key.signer.algorithm}; c={canonicalization}; t={signed_s};\r\n"
            f"\td={key.domain};{between}s={key.selector};{auid}\r\n"
            f"\t{h}\r\n"
            f"\tbh={bh};{expires}\r\n"
            f"\tb="
        ).encode("ascii")
        # The field itself comes last, its b= still empty, without line end (RFC 6376 section 3.7).
        signature = key.signer.sign(data + (relaxed_field(unsigned) if relaxed else unsigned))
        fields += (unsigned, _folded(b64encode(signature)), b"\r\n")
    return b"".join(fields)


def signature_fields(
    content: bytes,
    keys: Sequence[SigningKey],
    *,
    signed_s: int,
    expires_s: int | None = None,
    canonicalization: Canonicalization = "relaxed/relaxed",
) -> bytes:
    """`sign` for a whole content in memory; the fields are returned alone. Raises `Unsignable`."""
    end = header_end(content)
    body = BodyHash("simple" if canonicalization.endswith("/simple") else "relaxed")
    body.feed(content[content.find(b"\n", end) + 1 :] if end < len(content) else b"")
    return sign(
        content[:end],
        body.digest(),
        keys,
        signed_s=signed_s,
        expires_s=expires_s,
        canonicalization=canonicalization,
    )


def _signed_fields(header: bytes, *, relaxed: bool) -> tuple[tuple[bytes, ...], bytes]:
    """The names for `h=`, and the canonical fields in that order."""
    found: dict[bytes, list[bytes]] = {}
    # The line break in front makes the first line begin like every other.
    for field, name in _FIELDS.findall(b"\n" + header):
        found.setdefault(name.lower(), []).append(field)
    names: list[bytes] = []
    fields: list[bytes] = []
    for name, (more_if_absent, more_if_present) in _SIGNED.items():
        occurrences = found.get(name)
        if occurrences is None:
            names += (name,) * more_if_absent
        else:
            names += (name,) * (len(occurrences) + more_if_present)
            # The last one first (RFC 6376 section 5.4.2).
            fields += reversed(occurrences)
    if len(fields) > SIGNED_FIELDS_MAX:
        raise Unsignable(f"{len(fields)} fields to be signed; at most {SIGNED_FIELDS_MAX} are")
    if relaxed:
        canonical = [relaxed_field(field.removesuffix(b"\r")) for field in fields]
    else:
        canonical = [field.removesuffix(b"\r") for field in fields]
    canonical.append(b"")
    return tuple(names), b"\r\n".join(canonical)


@lru_cache(maxsize=256)
def _h_tag(names: tuple[bytes, ...]) -> str:
    """Folded behind colons, where white space means nothing (RFC 6376 section 3.5)."""
    lines = ["h="]
    for name in names:
        if len(lines[-1]) + len(name) + 1 > _COLUMNS_MAX:
            lines.append("")
        lines[-1] += f"{name.decode('ascii')}:"
    return "\r\n\t".join(lines)[:-1] + ";"


def _folded(base64_text: bytes) -> bytes:
    columns = _COLUMNS_MAX - len("b=")
    return b"\r\n\t".join(base64_text[at : at + columns] for at in range(0, len(base64_text), columns))


def _single_spaces(text: bytes) -> bytes:
    """Every run of spaces and tabs as one space."""
    if b"\t" in text:
        text = text.replace(b"\t", b" ")
    # Halves the runs each time: quicker than an expression, which would stop at every space there is.
    while b"  " in text:
        text = text.replace(b"  ", b" ")
    return text


def _trailing_line_ends(text: bytes) -> int:
    """How many CRLFs a text ends with; bare CRs and LFs are none. One pass, whatever the text."""
    if not text.endswith(b"\r\n"):
        return 0
    if not text.endswith(b"\n\r\n"):
        return 1
    breaks = text[len(text.rstrip(b"\r\n")) :]
    alternating = breaks[max(breaks.rfind(b"\r\r"), breaks.rfind(b"\n\n")) + 1 :]
    return len(alternating) // 2
