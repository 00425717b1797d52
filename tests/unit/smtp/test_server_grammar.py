from __future__ import annotations

import pytest

from dispatch.smtp.grammar import (
    is_original_recipient,
    is_xtext,
    read_hello_name,
    read_path,
)


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("<a@b.example>", "a@b.example"),
        ("<>", ""),
        (" \t<a@b.example>", "a@b.example"),
        ("a@b.example", "a@b.example"),
        ("<root>", "root"),
        ("<a@localhost>", "a@localhost"),
        ("<a@_dmarc.b_c.example>", "a@_dmarc.b_c.example"),
        ("<first..last.@docomo.example>", "first..last.@docomo.example"),
        ("<o'hara+tag=x/y@b.example>", "o'hara+tag=x/y@b.example"),
        ('<"a b"@b.example>', '"a b"@b.example'),
        ('<"a@b"@b.example>', '"a@b"@b.example'),
        ('<"a>b"@b.example>', '"a>b"@b.example'),
        (r'<"a\"\\b"@b.example>', r'"a\"\\b"@b.example'),
        ('<""@b.example>', '""@b.example'),
        ("<@hop.example:a@b.example>", "a@b.example"),
        ("<@hop.example,@hop2.example:a@b.example>", "a@b.example"),
        ("<a@[192.0.2.1]>", "a@[192.0.2.1]"),
        ("<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]"),
        ("<a@[ipv6:::1]>", "a@[ipv6:::1]"),
        ("<a@[x400:c=us]>", "a@[x400:c=us]"),
        ("<jürgen@bücher.example>", "jürgen@bücher.example"),
        ("<" + "x" * 300 + "@b.example>", "x" * 300 + "@b.example"),
    ],
)
def test_addresses_from_the_field_are_kept_as_they_came(path: str, address: str) -> None:
    assert read_path(path) == (address, "")
    assert read_path(path + " SIZE=1") == (address, " SIZE=1")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "<",
        "<a@b.example",
        "a@b.example>",
        "<<a@b.example>>",
        "<a@b.example>SIZE=1",
        "<a@b.example>\tSIZE=1",
        "<a b@b.example>",
        "< a@b.example>",
        "<a@b.example >",
        "<a@>",
        "<@b.example>",
        "<@hop.example:>",
        "<a@b@c.example>",
        "<a@b..example>",
        "<a@b.example.>",
        "<a@.example>",
        '<"a"b@b.example>',
        '<"a@b.example>',
        '<"a\\"@b.example>',
        "<a\x00@b.example>",
        "<a\x85@b.example>",
        "<a\u2028@b.example>",
        "<a\udcfc@b.example>",
        '<"a\r\n"@b.example>',
        "<a@[192.0.2.256]>",
        "<a@[192.0.2]>",
        "<a@[IPv6:1::2::3]>",
        "<a@[IPv6:fe80::1%eth0]>",
        "<a@[]>",
        "<a@[x]y]>",
        "<a@" + "b" * 256 + ">",
        "root",
        "SIZE=10",
        '"a"@b.example',
    ],
)
def test_what_can_be_read_in_two_ways_is_no_path(path: str) -> None:
    assert read_path(path) is None


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("client.example", "client.example"),
        ("_my_printer", "_my_printer"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:::1]", "[IPv6:::1]"),
        (" HP LaserJet ", "HP?LaserJet"),
        ("B\udcfcro", "B?ro"),
        ("Büro", "B?ro"),
        ("a(b)\x00<c>", "a?b???c?"),
    ],
)
def test_any_hello_is_taken_and_is_safe_in_a_trace_field(argument: str, name: str) -> None:
    assert read_hello_name(argument) == name


@pytest.mark.parametrize("argument", ["", "  \t", "x" * 256])
def test_a_hello_that_says_nothing_is_refused(argument: str) -> None:
    assert read_hello_name(argument) is None


@pytest.mark.parametrize("value", ["a", "order-17", "a+2Bb+3Dc", "~!"])
def test_what_is_xtext(value: str) -> None:
    assert is_xtext(value)


@pytest.mark.parametrize("value", ["+", "+4", "+4g", "+2d", "a b", "a=b", "a+", "é", ""])
def test_what_is_no_xtext(value: str) -> None:
    assert not is_xtext(value)


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ("rfc822;a@b.example", True),
        ("rfc822;a+2Bb@b.example", True),
        ("utf-8;jürgen@b.example", True),
        ("rfc822;jürgen@b.example", False),
        ("rfc822", False),
        (";a@b.example", False),
        ("rfc822;", False),
        ("rfc 822;a", False),
    ],
)
def test_original_recipient(value: str, valid: bool) -> None:
    assert is_original_recipient(value) is valid
