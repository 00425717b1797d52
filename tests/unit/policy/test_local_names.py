"""Whose mail a host's own mail is."""

from __future__ import annotations

import pytest

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.policy.local_names import LocalNames, NoAlias, parse_alias

HOST = LocalNames(
    append_domain="Example.org",
    server_name="relay.example.org",
    aliases=(
        "root: ops@example.net",
        "webmaster: root, web",
        "Web: webteam, Alice@Example.com",
        "bob: bob, archive@example.net",
        "root+backup: backup@localhost",
        "here: there@example.org",
    ),
)
SILENT = LocalNames(server_name="relay.example.org")


@pytest.mark.parametrize(
    ("recipient", "goes_to"),
    [
        ("root", ["ops@example.net"]),
        ("ROOT", ["ops@example.net"]),
        ('"root"', ["ops@example.net"]),
        ("root@localhost", ["ops@example.net"]),
        ("root@LocalHost", ["ops@example.net"]),
        ("root@relay.example.org", ["ops@example.net"]),
        ("root@example.ORG", ["ops@example.net"]),
        ("root+cron", ["ops@example.net"]),
        ("root+backup", ["backup@example.org"]),
        ("webmaster", ["ops@example.net", "webteam@example.org", "Alice@Example.com"]),
        ("bob", ["bob@example.org", "archive@example.net"]),
        ("here", ["there@example.org"]),
        ("www-data", ["www-data@example.org"]),
        ("www-data+x", ["www-data+x@example.org"]),
        ("www-data@localhost", ["www-data@example.org"]),
        ("www-data@relay.example.org", ["www-data@relay.example.org"]),
        ("Alice@example.org", ["Alice@example.org"]),
    ],
)
def test_mail_for_a_local_name_goes_to_its_person(recipient: str, goes_to: list[str]) -> None:
    assert list(HOST.recipients(recipient)) == goes_to


@pytest.mark.parametrize(
    "address", ["root@example.com", "root@sub.example.org", "root@[127.0.0.1]", "Root@X.y"]
)
def test_addresses_of_others_are_never_touched(address: str) -> None:
    assert HOST.recipients(address) == (address,)
    assert HOST.reverse_path(address) == address


@pytest.mark.parametrize(
    "name", ["postmaster", "Postmaster", "MAILER-DAEMON", "postmaster@relay.example.org"]
)
def test_the_postmaster_of_the_host_is_root_unless_somebody_else_is(name: str) -> None:
    assert HOST.recipients(name) == ("ops@example.net",)
    other = LocalNames(aliases=("root: ops@example.net", "postmaster: pm@example.net"))
    assert other.recipients(name.replace("@relay.example.org", "")) == ("pm@example.net",)


def test_the_postmaster_of_the_domain_is_left_alone() -> None:
    assert HOST.recipients("postmaster@example.org") == ("postmaster@example.org",)


@pytest.mark.parametrize(
    ("sender", "becomes"),
    [
        ("", ""),
        ("root", "root@example.org"),
        ("root@localhost", "root@example.org"),
        ("root@relay.example.org", "root@relay.example.org"),
        ("MAILER-DAEMON", "MAILER-DAEMON@example.org"),
    ],
)
def test_a_sender_is_completed_and_never_aliased(sender: str, becomes: str) -> None:
    assert HOST.reverse_path(sender) == becomes


@pytest.mark.parametrize(
    "address", ["", "root", "root@localhost", "postmaster", "a@relay.example.org", "a@b.c"]
)
def test_by_default_nothing_changes(address: str) -> None:
    assert SILENT.reverse_path(address) == address
    assert not address or SILENT.recipients(address) == (address,)
    assert not address or LocalNames().recipients(address) == (address,)


def test_two_names_of_one_person_are_one_recipient() -> None:
    names = LocalNames(append_domain="x.y", aliases=("all: bob, bob@x.y, ann", "ann: bob"))
    assert names.recipients("all") == ("bob@x.y",)


@pytest.mark.parametrize(
    ("aliases", "said"),
    [
        (["a: b", "b: a"], "a circle"),
        (["a: b", "b: c, x@y.z", "c: A+tag"], "a circle"),
        (["a: b@localhost", "b: a"], "a circle"),
        (["root: a@b.c", "ROOT: d@e.f"], "root stands there twice"),
    ],
)
def test_aliases_that_do_not_go_together_are_a_mistake(aliases: list[str], said: str) -> None:
    with pytest.raises(NoAlias, match=said):
        LocalNames(aliases=aliases)


@pytest.mark.parametrize(
    "written",
    [
        *("", "root", "root:", "root: ,", ": a@b.c", "a b: c@d.e", "a@b.c: d@e.f", "root: a b@c.d"),
        *("root: /dev/null", "root: |program", 'root: "|program -x"', "root: :include:/x", "root: a@b@c"),
        *("root: grüße@example.org", "root: <a@b.c>", "root: a@b.c>\r\nX: y"),
    ],
)
def test_what_is_no_alias_is_refused_with_advice(written: str) -> None:
    with pytest.raises(NoAlias, match=": "):
        parse_alias(written)


def test_a_quoted_comma_is_no_border() -> None:
    assert parse_alias('root: "a,b"@c.d, e@f.g').targets == ('"a,b"@c.d', "e@f.g")


def test_a_long_chain_is_followed_to_its_end() -> None:
    aliases = [f"n{number}: n{number + 1}" for number in range(5000)]
    assert LocalNames(aliases=[*aliases, "n5000: a@b.c"]).recipients("n0") == ("a@b.c",)


def test_an_envelope_of_our_own_goes_to_the_people_each_of_them_once() -> None:
    aliases = ["root: a@b.example, admin", "admin: a@b.example"]
    names = LocalNames(append_domain="example.org", aliases=aliases)
    notice = Envelope("", (Recipient("root@example.org", notify="NEVER"),))
    assert names.envelope(notice) == Envelope("", (Recipient("a@b.example", notify="NEVER"),))
    foreign = Envelope("", (Recipient("root@example.net"),))
    assert names.envelope(foreign) is foreign
