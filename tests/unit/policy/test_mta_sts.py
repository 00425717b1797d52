"""Records and policies of MTA-STS, as domains publish them and as they mistype them."""

from __future__ import annotations

import pytest

from dispatch.policy.mta_sts import MAX_AGE_S, MX_MAX, InvalidPolicy, Policy, parse_policy, policy_id

PAGE = b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n"
POLICY = Policy("enforce", 604_800, ("mail.example.com", "*.example.net"))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        (["v=STSv1;id=1"], "1"),
        (["v=STSv1 ; ext=a.b ; id=1 ; more=x"], "1"),
        (["v=spf1 -all", "v=STSv1; id=1;"], "1"),
        (["v=STSv1; id=1;", "v=STSv1; id=2;"], None),
        (["v=STSv1"], None),
        (["v=STSv1;"], None),
        (["v=STSv1; id=;"], None),
        (["v=STSv1; id=a-b;"], None),
        (["v=STSv1; id=" + "1" * 33], None),
        (["v=STSv1; id=1; junk"], None),
        (["v=STSv1; uid=1;"], None),
        (["V=stsv1; id=1;"], None),
        (["v=STSv10; id=1;"], None),
        (["v=STSv1; id=1\n;"], None),
        ([], None),
    ],
)
def test_the_id_of_a_record(texts: list[str], expected: str | None) -> None:
    assert policy_id(texts) == expected


@pytest.mark.parametrize(
    "page",
    [
        PAGE,
        PAGE.replace(b"\r\n", b"\n"),
        PAGE.rstrip(),
        PAGE.replace(b": ", b" :\t").replace(b"\r\n", b" \r\n"),
        PAGE + b"mode: none\r\nmax_age: 1\r\nversion: STSv2\r\n",
        PAGE + "x-more: what:ever café\r\n".encode(),
        PAGE.replace(b"mail.example.com", b"Mail.Example.COM."),
    ],
)
def test_a_policy_in_its_writings(page: bytes) -> None:
    assert parse_policy(page) == POLICY


def test_a_policy_that_takes_another_back_needs_no_hosts() -> None:
    assert parse_policy(b"version: STSv1\nmode: none\nmax_age: 86400\n") == Policy("none", 86_400)


def test_an_age_beyond_a_year_is_a_year() -> None:
    assert parse_policy(PAGE.replace(b"604800", b"9999999999")).max_age_s == MAX_AGE_S


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (b"", "no field"),
        (b"<html>not found</html>", "no field"),
        (PAGE.replace(b"STSv1", b"STSv2"), "version"),
        (PAGE.replace(b"version: STSv1\r\n", b""), "version"),
        (PAGE.replace(b"enforce", b"Enforce"), "mode is 'Enforce'"),
        (PAGE.replace(b"mode: enforce\r\n", b""), "mode is ''"),
        (PAGE.replace(b"604800", b"-1"), "max_age"),
        (PAGE.replace(b"604800", b"12345678901"), "max_age"),
        (PAGE.replace(b"max_age: 604800\r\n", b""), "max_age"),
        (b"version: STSv1\nmode: testing\nmax_age: 1\n", "names no mail host"),
        (PAGE.replace(b"*.example.net", b"mail.*.net"), "no name of a mail host"),
        (PAGE.replace(b"*.example.net", b"*"), "no name of a mail host"),
        (PAGE.replace(b"*.example.net", b""), "no name of a mail host"),
        (PAGE + b"mx: a.example\r\n" * MX_MAX, "more than 100"),
        (PAGE + b"more: caf\xe9\r\n", "UTF-8"),
        (PAGE + b"\r\n\r\nmode: none", "no field"),
    ],
)
def test_what_is_no_policy(page: bytes, why: str) -> None:
    with pytest.raises(InvalidPolicy, match=why):
        parse_policy(page)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("mail.example.com", True),
        ("MAIL.example.com.", True),
        ("a.mail.example.com", False),
        ("example.com", False),
        ("mx.example.net", True),
        ("a.mx.example.net", False),
        ("example.net", False),
        ("mailxexample.com", False),
        ("", False),
    ],
)
def test_hosts_that_a_policy_allows(host: str, allowed: bool) -> None:
    assert POLICY.allows(host) is allowed


def test_only_a_policy_that_says_so_is_enforced() -> None:
    assert POLICY.enforced
    assert not POLICY._replace(mode="testing").enforced
    assert not POLICY._replace(mode="none").enforced
