"""Whatever the aliases are: nobody is lost, nobody gets a message twice, nobody else's address changes."""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dispatch.policy.local_names import Alias, LocalNames, NoAlias, parse_alias

NAMES = st.sampled_from(["root", "Bob", "ann", "www", "postmaster", "mailer-daemon", "ann+x"])
DOMAINS = st.sampled_from(["localhost", "own.test", "host.own.test", "other.test", "LOCALHOST"])
TARGETS = st.one_of(NAMES, st.builds("{}@{}".format, NAMES, DOMAINS))
ALIASES = st.dictionaries(NAMES.map(str.lower), st.lists(TARGETS, min_size=1, max_size=4), max_size=6)


def local_names(aliases: dict[str, list[str]], domain: str) -> LocalNames:
    lines = [f"{name}: {', '.join(targets)}" for name, targets in aliases.items()]
    try:
        return LocalNames(append_domain=domain, server_name="host.own.test", aliases=lines)
    except NoAlias:
        assume(False)
        raise


@settings(max_examples=200, deadline=None)
@given(ALIASES, st.sampled_from(["", "own.test"]), TARGETS)
def test_mail_reaches_somebody_and_everybody_once(
    aliases: dict[str, list[str]], domain: str, recipient: str
) -> None:
    names = local_names(aliases, domain)
    found = names.recipients(recipient)
    assert found and len(set(found)) == len(found)
    if domain:
        assert all("@" in address for address in found)
        assert recipient in found or not any(address.lower().endswith("@localhost") for address in found)


@settings(max_examples=100, deadline=None)
@given(ALIASES, NAMES, st.sampled_from(["other.test", "sub.own.test", "[192.0.2.1]"]))
def test_a_foreign_address_is_its_own(aliases: dict[str, list[str]], name: str, domain: str) -> None:
    names = local_names(aliases, "own.test")
    assert names.recipients(f"{name}@{domain}") == (f"{name}@{domain}",)
    assert names.reverse_path(f"{name}@{domain}") == f"{name}@{domain}"


@settings(max_examples=100, deadline=None)
@given(ALIASES)
def test_what_was_read_is_read_again_as_the_same(aliases: dict[str, list[str]]) -> None:
    for name, targets in aliases.items():
        alias = parse_alias(f"{name}: {', '.join(targets)}")
        assert isinstance(alias, Alias) and parse_alias(alias.written) == alias
