"""Signatures that others verify, and that nobody else's change survives.

The judge is dkimpy. Where PyNaCl is missing it is lent Ed25519 from `cryptography`; canonical forms, hashes
and the parsing of fields stay its own.
"""

import re
import tracemalloc
from base64 import b64decode, b64encode
from hashlib import sha256
from types import SimpleNamespace

import dkim as dkimpy
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatch.mime.dkim import (
    SIGNED_FIELDS_MAX,
    BodyCanonicalization,
    BodyHash,
    Canonicalization,
    SigningKey,
    Unsignable,
    relaxed_field,
    sign,
    signature_fields,
)
from dispatch.mime.inspect import header_end
from dispatch.security.dkim_keys import DkimKey, dns_record

CANONICALIZATIONS: tuple[Canonicalization, ...] = ("relaxed/relaxed", "relaxed/simple", "simple/simple")
SIGNED_S = 1528637909
LATER_S = 4102444800

ED25519 = DkimKey(
    Ed25519PrivateKey.from_private_bytes(b64decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="))
)
RSA = DkimKey(generate_private_key(65537, 1024))
KEYS = (
    SigningKey("football.example.com", "brisbane", ED25519),
    SigningKey("football.example.com", "test", RSA, "@football.example.com"),
)

# RFC 8463 appendix A.3.
MESSAGE = (
    b"From: Joe SixPack <joe@football.example.com>\r\n"
    b"To: Suzie Q <suzie@shopping.example.net>\r\n"
    b"Subject: Is dinner ready?\r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
    b"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n"
    b"\r\n"
    b"Hi.\r\n"
    b"\r\n"
    b"We lost the game.  Are you hungry yet?\r\n"
    b"\r\n"
    b"Joe.\r\n"
    b"\r\n"
)
RFC_8463_FIELD = (
    b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n"
    b" d=football.example.com; i=@football.example.com;\r\n"
    b" q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n"
    b" subject : date : message-id : from : subject : date;\r\n"
    b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
    b" b="
)
RFC_8463_SIGNATURE = (
    "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="
)


class _VerifyKey:
    def __init__(self, public: bytes, encoder: object) -> None:
        self._public = Ed25519PublicKey.from_public_bytes(b64decode(public))

    def verify(self, data: bytes, signature: bytes) -> None:
        self._public.verify(signature, data)


@pytest.fixture(autouse=True, scope="module")
def _ed25519_for_dkimpy() -> None:
    if not hasattr(dkimpy, "nacl"):
        dkimpy.nacl = SimpleNamespace(
            signing=SimpleNamespace(VerifyKey=_VerifyKey),
            encoding=SimpleNamespace(Base64Encoder=None),
            exceptions=SimpleNamespace(BadSignatureError=InvalidSignature, ValueError=ValueError),
        )


def dns(name: bytes, timeout: int = 5) -> bytes | None:
    records = {f"{key.selector}._domainkey.{key.domain}.".encode(): key.signer for key in KEYS}
    signer = records.get(name)
    return dns_record(signer).encode() if isinstance(signer, DkimKey) else None


def verified(message: bytes) -> list[bool]:
    """What dkimpy says of each of our two signatures."""
    results = []
    for index in range(len(KEYS)):
        try:
            results.append(bool(dkimpy.DKIM(message).verify(index, dns)))
        except dkimpy.ValidationError:
            results.append(False)
    return results


def signed(content: bytes, canonicalization: Canonicalization = "relaxed/relaxed") -> bytes:
    fields = signature_fields(content, KEYS, signed_s=SIGNED_S, canonicalization=canonicalization)
    return fields + content


def body_hash(body: bytes, canonicalization: BodyCanonicalization) -> bytes:
    hashed = BodyHash(canonicalization)
    hashed.feed(body)
    return hashed.digest()


def test_canonical_forms_are_those_of_rfc_6376_section_3_4_5() -> None:
    assert relaxed_field(b"A: X") == b"a:X"
    assert relaxed_field(b"B : Y\t\r\n\tZ  ") == b"b:Y Z"
    body = b" C \r\nD \t E\r\n\r\n\r\n"
    assert body_hash(body, "relaxed") == sha256(b" C\r\nD E\r\n").digest()
    assert body_hash(body, "simple") == sha256(b" C \r\nD \t E\r\n").digest()


def test_an_empty_body_hashes_as_rfc_6376_says() -> None:
    # Sections 3.4.3 and 3.4.4 print these values.
    assert b64encode(body_hash(b"", "simple")) == b"frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY="
    assert b64encode(body_hash(b"", "relaxed")) == b"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    assert body_hash(b"\r\n\r\n", "simple") == body_hash(b"", "simple")
    assert body_hash(b" \r\n\t\r\n \t", "relaxed") == body_hash(b"", "relaxed")


def test_the_signature_of_rfc_8463_appendix_a_comes_out() -> None:
    body = MESSAGE[header_end(MESSAGE) + 2 :]
    assert b64encode(body_hash(body, "relaxed")) == b"2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="
    # That of RFC 6376 section A.2 is the same, with one space and in simple form.
    assert body_hash(body.replace(b"  ", b" "), "simple") == body_hash(body, "relaxed")
    fields = MESSAGE[: header_end(MESSAGE) - 2].split(b"\r\n")
    data = b"\r\n".join(relaxed_field(field) for field in (*fields, RFC_8463_FIELD))
    assert b64encode(ED25519.sign(data)).decode() == RFC_8463_SIGNATURE


@pytest.mark.parametrize("canonicalization", CANONICALIZATIONS)
def test_both_signatures_verify(canonicalization: Canonicalization) -> None:
    assert verified(signed(MESSAGE, canonicalization)) == [True, True]


LINE_TEXT = st.text("ab.:;=<>@ü\t   ", max_size=12).map(str.encode)
FIELD_NAMES = st.sampled_from(
    b"From FROM from To Cc Reply-To Subject Date Message-ID MIME-Version Content-Type References "
    b"Received X-Other List-Unsubscribe list-unsubscribe-post Resent-From DKIM-Signatur".split()
)
FIELDS = st.tuples(
    FIELD_NAMES, st.lists(LINE_TEXT, min_size=1, max_size=3), st.sampled_from([b"\r\n ", b"\r\n\t"])
)
HEADERS = st.lists(
    FIELDS.map(lambda field: field[0] + b":" + field[2].join(field[1]) + b"\r\n"), max_size=12
).map(b"".join)
BODIES = st.tuples(st.lists(LINE_TEXT, max_size=8), st.sampled_from([b"", b"\r\n", b"\r\n\r\n"])).map(
    lambda parts: b"\r\n".join(parts[0]) + parts[1]
)


@pytest.mark.parametrize("canonicalization", CANONICALIZATIONS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(header=HEADERS, body=BODIES)
def test_whatever_is_signed_verifies_as_it_is_sent(
    canonicalization: Canonicalization, header: bytes, body: bytes
) -> None:
    message = signed(header + b"\r\n" + body, canonicalization)
    # SMTP ends the last line.
    sent = message if message.endswith(b"\r\n") else message + b"\r\n"
    assert verified(sent) == [True, True]


@pytest.mark.parametrize("canonicalization", CANONICALIZATIONS)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"hungry", b"thirsty"),
        (b"Joe.\r\n", b"Joe.\r\nPS: send money\r\n"),
        (b"dinner", b"lunch"),
        (b"From: Joe", b"From: Jane"),
        (b"\r\nFrom: ", b"\r\nFrom: evil@example.org\r\nFrom: "),
        (b"\r\nTo: ", b"\r\nSubject: another\r\nTo: "),
        (b"\r\nTo: ", b"\r\nReply-To: evil@example.org\r\nTo: "),
        (b"\r\nTo: ", b"\r\nCc: evil@example.org\r\nTo: "),
        (b"\r\nTo: ", b"\r\nDate: Fri, 11 Jul 2003 21:00:38 -0700\r\nTo: "),
        (b"\r\nTo: ", b"\r\nTo: evil@example.org\r\nTo: "),
        (b"t=1528637909", b"t=1528637910"),
        (b":subject:", b":x-ubject:"),
        (b"d=football", b"d=Football"),
    ],
)
def test_a_change_is_found(canonicalization: Canonicalization, old: bytes, new: bytes) -> None:
    message = signed(MESSAGE, canonicalization)
    assert verified(message) == [True, True]
    assert old in message
    assert verified(message.replace(old, new)) == [False, False]


def test_what_relays_and_lists_add_does_no_harm() -> None:
    added = (
        b"Received: from x by y; z\r\nReturn-Path: <a@b>\r\nMIME-Version: 1.0\r\nSender: list@x\r\n"
        b"List-Id: <x>\r\nResent-From: a@b\r\n"
    )
    message = signed(MESSAGE)
    assert verified(added + message) == [True, True]
    assert verified(message.replace(b"game.  Are", b"game. Are\t ")) == [True, True]


def test_fields_of_which_one_is_enough_are_named_once_more_than_they_occur() -> None:
    header = b"From: a@b\r\nDate: x\r\nList-Id: y\r\nTo: a@b\r\nTo: c@d\r\nReceived: z\r\n"
    field = sign(header, body_hash(b"", "relaxed"), KEYS[:1], signed_s=SIGNED_S)
    h = re.search(rb"h=([^;]*);", field)
    assert h is not None
    assert re.sub(rb"\s", b"", h[1]).split(b":") == (
        b"from from to to to cc reply-to subject date date list-id".split()
    )


def test_a_message_without_from_is_signed_so_that_none_can_be_added() -> None:
    message = signed(b"To: a@b\r\n\r\nbody\r\n")
    assert verified(message) == [True, True]
    assert verified(b"From: evil@x\r\n" + message) == [False, False]


def test_a_header_section_with_too_many_fields_is_not_signed() -> None:
    most = b"To: a@b\r\n" * SIGNED_FIELDS_MAX
    assert verified(signed(most + b"\r\n")) == [True, True]
    with pytest.raises(Unsignable, match="101"):
        signed(most + b"cc: a@b\r\n\r\n")


@pytest.mark.parametrize("content", [b"", b"\r\n", b"\r\nbody\r\n", b"To: a@b\r\n", b"To: a@b"])
@pytest.mark.parametrize("canonicalization", CANONICALIZATIONS)
def test_a_content_of_one_part_only_is_signed(content: bytes, canonicalization: Canonicalization) -> None:
    message = signed(content, canonicalization)
    assert verified(message + b"\r\n" if content.endswith(b"b") else message) == [True, True]


def test_names_of_any_length_are_folded_into_lines_that_may_be_sent() -> None:
    domain = ".".join(["d" * 60] * 3 + ["example"])
    key = SigningKey(domain, "s" * 63, RSA, f"user+tag@sub.{domain}")
    header = MESSAGE + b"".join(b"Resent-Message-ID: <x>\r\n" for _ in range(20))
    field = sign(header, bytes(32), [key], signed_s=SIGNED_S, expires_s=LATER_S)
    assert field.endswith(b"\r\n")
    lines = field[:-2].split(b"\r\n")
    assert all(line.startswith(b"\t") for line in lines[1:])
    assert max(len(line) for line in lines if b"d" * 60 not in line) <= 78
    assert max(map(len, lines)) < 300
    assert f" x={LATER_S};".encode() in field


def test_a_signature_says_when_it_was_made_and_until_when_it_holds() -> None:
    fields = signature_fields(MESSAGE, KEYS, signed_s=SIGNED_S, expires_s=LATER_S)
    assert fields.count(f"x={LATER_S};".encode()) == 2
    assert verified(fields + MESSAGE) == [True, True]
    past = signature_fields(MESSAGE, KEYS, signed_s=SIGNED_S, expires_s=SIGNED_S + 1)
    assert verified(past + MESSAGE) == [False, False]


def test_a_signature_that_would_expire_before_it_is_made_is_not() -> None:
    with pytest.raises(AssertionError):
        signature_fields(MESSAGE, KEYS, signed_s=SIGNED_S, expires_s=SIGNED_S)


@pytest.mark.parametrize(
    ("domain", "selector", "auid"),
    [
        ("example", "s", None),
        ("exämple.org", "s", None),
        ("example.org; x=1", "s", None),
        ("example.org\r\n", "s", None),
        ("example.org", "", None),
        ("example.org", "a_b", None),
        ("example.org", "s\r\nBcc: x", None),
        ("example.org", "s", "example.org"),
        ("example.org", "s", "a;b@example.org"),
        ("example.org", "s", "a@example.com"),
        ("example.org", "s", "a@badexample.org"),
        ("example.org", "s", "a@example.org\n"),
    ],
)
def test_names_that_cannot_stand_in_the_field_are_refused(
    domain: str, selector: str, auid: str | None
) -> None:
    with pytest.raises(ValueError, match="is n"):
        SigningKey(domain, selector, RSA, auid)


@pytest.mark.parametrize("canonicalization", ["relaxed", "simple"])
@settings(max_examples=200, deadline=None)
@given(
    blocks=st.lists(
        st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b" ", b"\t", b"a"]), max_size=6).map(b"".join),
        max_size=12,
    )
)
def test_borders_of_blocks_make_no_difference(
    canonicalization: BodyCanonicalization, blocks: list[bytes]
) -> None:
    hashed = BodyHash(canonicalization)
    for block in blocks:
        hashed.feed(block)
    body = b"".join(blocks)
    assert hashed.digest() == body_hash(body, canonicalization) == by_the_letter(body, canonicalization)


def by_the_letter(body: bytes, canonicalization: BodyCanonicalization) -> bytes:
    """RFC 6376 sections 3.4.3 and 3.4.4, line by line."""
    lines = body.split(b"\r\n")
    if canonicalization == "relaxed":
        lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        return sha256(b"\r\n" if canonicalization == "simple" else b"").digest()
    return sha256(b"\r\n".join(lines) + b"\r\n").digest()


@pytest.mark.parametrize("canonicalization", ["relaxed", "simple"])
@pytest.mark.parametrize("unit", [b"\r\n", b" ", b"\t\r\n", b"line of text\r\n", b"\n\r\n"])
def test_a_large_body_is_hashed_without_being_in_memory(
    canonicalization: BodyCanonicalization, unit: bytes
) -> None:
    block = unit * (65536 // len(unit))
    hashed = BodyHash(canonicalization)
    tracemalloc.start()
    try:
        for _ in range(64):
            hashed.feed(block)
        hashed.feed(b"end")
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 512 * 1024
    assert hashed.digest() == by_the_letter(block * 64 + b"end", canonicalization)
