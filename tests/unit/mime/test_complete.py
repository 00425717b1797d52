"""Which addresses of a header get a domain, and what stays as it was written."""

from __future__ import annotations

from email import message_from_bytes, policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.mime.complete import complete_header


def completed(value: bytes, name: bytes = b"To") -> bytes:
    header = b"Subject: a\r\n" + name + b": " + value + b"\r\n"
    new = complete_header(header + b"\r\nTo: body\r\n", "example.org")
    assert new.startswith(b"Subject: a\r\n" + name + b": ")
    assert new.endswith(b"\r\n\r\nTo: body\r\n")
    return new[len(b"Subject: a\r\n" + name + b": ") : -len(b"\r\n\r\nTo: body\r\n")]


@pytest.mark.parametrize(
    ("written", "leaves"),
    [
        (b"root", b"root@example.org"),
        (b"<root>", b"<root@example.org>"),
        (b"root (Cron Daemon)", b"root@example.org (Cron Daemon)"),
        (b"(who) root", b"(who) root@example.org"),
        (b'"Cron, Daemon" <root>', b'"Cron, Daemon" <root@example.org>'),
        (b"=?utf-8?q?J=C3=B6rg?= <joerg>", b"=?utf-8?q?J=C3=B6rg?= <joerg@example.org>"),
        (b"root@localhost", b"root@example.org"),
        (b"Root <root@LocalHost>", b"Root <root@example.org>"),
        (b"a, b@c.example, <d>", b"a@example.org, b@c.example, <d@example.org>"),
        (b"a,\r\n\tb", b"a@example.org,\r\n\tb@example.org"),
        (b"staff: a, b;", b"staff: a@example.org, b@example.org;"),
        ("jörg".encode(), "jörg@example.org".encode()),
        (b"a.b+c", b"a.b+c@example.org"),
        (b"a (b (c) d)", b"a@example.org (b (c) d)"),
    ],
)
def test_a_bare_address_gets_the_domain(written: bytes, leaves: bytes) -> None:
    assert completed(written) == leaves


@pytest.mark.parametrize(
    "written",
    [
        b"a@b.example",
        b"Joe Public <a@b.example>",
        b"",
        b"<>",
        b"undisclosed-recipients:;",
        b"Cron Daemon",
        b'"John Doe"',
        b"=?utf-8?q?J=C3=B6rg?=",
        b"<a",
        b"a>",
        b"a (b",
        b"<a> <b>",
        b"<@relay.example:a@b.example>",
        b"a @ b.example",
        b"root@localhost.example",
        b"@localhost",
    ],
)
def test_what_has_a_domain_or_is_no_address_stays(written: bytes) -> None:
    assert completed(written) == written


@pytest.mark.parametrize(
    "name", [b"From", b"SENDER", b"reply-to", b"Cc", b"Resent-From", b"resent-to", b"From "]
)
def test_all_fields_with_addresses_are_looked_at(name: bytes) -> None:
    assert completed(b"root", name) == b"root@example.org"


@pytest.mark.parametrize("name", [b"Subject", b"X-To", b"To-X", b"Bcc", b"Return-Path"])
def test_other_fields_are_not(name: bytes) -> None:
    assert completed(b"root", name) == b"root"


def test_a_header_that_lacks_nothing_is_the_same_object() -> None:
    header = b"From: a@b\r\nTo: c@d\r\n\r\nbody"
    assert complete_header(header, "example.org") is header


def test_the_first_and_the_last_line_are_fields_like_others() -> None:
    assert complete_header(b"To: a\r\nCc: b", "x.example") == b"To: a@x.example\r\nCc: b@x.example"


def test_no_line_gets_too_long() -> None:
    many = b", ".join([b"a"] * 100)
    assert completed(many) == many
    folded = b",\r\n ".join([b"a"] * 100)
    assert completed(folded).count(b"a@example.org") == 100


WORDS = st.lists(
    st.sampled_from(
        [b"a", b"b.c", b"@", b"<", b">", b",", b";", b":", b"(", b")", b'"', b"\\", b" ", b"\r\n\t"]
    )
)


@given(WORDS)
def test_nothing_is_lost_and_no_field_begins(words: list[bytes]) -> None:
    value = b"x " + b"".join(words)
    new = completed(value)
    assert new.replace(b"@example.org", b"") == value
    assert all(line[:1] in b" \t" for line in new.split(b"\r\n")[1:])


@given(st.lists(st.sampled_from(["a", "<b>", "c@d.example", "E <f>", '"g, h" <i@j.example>']), min_size=1))
def test_the_standard_library_reads_as_many_addresses_all_with_a_domain(addresses: list[str]) -> None:
    new = completed(", ".join(addresses).encode())
    read = message_from_bytes(b"To: " + new + b"\r\n\r\n", policy=policy.default)["To"].addresses
    assert len(read) == len(addresses)
    assert all(address.domain in ("example.org", "d.example", "j.example") for address in read)
