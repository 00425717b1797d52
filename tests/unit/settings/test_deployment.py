"""A relay from a handful of variables: what they become, and every mistake in them at once."""

from __future__ import annotations

import pytest

from dispatch.settings.deployment import Deployment, deployment

HASH = "$2b$12$abcdefghijklmnopqrstuuZr8sUMmYqYlqQm6d4XqzJ3l3hZyK5Jm"
WHOLE = {
    "RELAY_HOST": "relay.example.org",
    "RELAY_PORT": "2525",
    "RELAY_USERNAME": "App",
    "RELAY_PASSWORD": HASH,
    "UPSTREAM_HOST": "smtp.example.net",
    "UPSTREAM_PORT": "465",
    "UPSTREAM_USER": "me",
    "UPSTREAM_PASS": "secret",
    "UPSTREAM_FROM": "noreply@example.org",
    "UPSTREAM_REPLYTO": "help@example.org",
    "DISPATCH_INTERVAL": "30",
}


def read(**changes: str) -> Deployment:
    """The whole of it with changes; an empty value is a variable that is not set."""
    found = deployment(
        {name: value for name, value in {**WHOLE, **changes}.items() if value}, lambda _: False
    )
    assert found is not None
    return found


def values(of: Deployment) -> dict[str, object]:
    assert not of.mistakes
    return {one.path: one.value for one in of.given}


def test_all_variables_become_settings_and_say_where_they_are_from() -> None:
    found = read()
    assert values(found) == {
        "listener.ports": "2525",
        "listener.server_name": "relay.example.org",
        "listener.require_auth": "true",
        "listener.allow_unsecure_auth": "true",
        "listener.tls_ports": "",
        "logins.app.name": "app",
        "logins.app.password": HASH,
        "logins.app.allowed_cidrs": "0.0.0.0/0, ::/0",
        "relays.upstream.name": "upstream",
        "relays.upstream.host": "smtp.example.net",
        "relays.upstream.port": "465",
        "relays.upstream.tls": "auto",
        "relays.upstream.verbatim": "true",
        "relays.upstream.username": "me",
        "relays.upstream.password": "secret",
        "relays.upstream.auth": "plain, login",
        "relays.upstream.allow_unsecure_auth": "true",
        "relays.upstream.envelope_from": "noreply@example.org",
        "relays.upstream.reply_to": "help@example.org",
        "relays.upstream.flush_interval_seconds": "30",
    }
    assert {one.origin.place for one in found.given if one.name == "host"} == {"UPSTREAM_HOST"}


def test_without_the_upstream_and_the_login_nobody_asks_for_it() -> None:
    assert deployment({}) is None
    assert deployment({"RELAY_PORT": "tcp://10.0.0.1:25", "RELAY_HOST": "x", "UPSTREAM_PORT": "25"}) is None


@pytest.mark.parametrize("name", ["UPSTREAM_HOST", "RELAY_USERNAME", "RELAY_PASSWORD"])
def test_everything_that_is_missing_is_told_at_once(name: str) -> None:
    found = deployment({name: WHOLE[name]})
    assert found is not None
    missing = {"UPSTREAM_HOST", "RELAY_USERNAME", "RELAY_PASSWORD"} - {name}
    assert {mistake.path for mistake in found.mistakes} == missing


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("RELAY_PORT", "tcp://10.43.7.9:25", "service"),
        ("RELAY_PORT", "smtp", "no port"),
        ("UPSTREAM_PORT", "0", "no port"),
        ("UPSTREAM_PORT", "70000", "no port"),
        ("RELAY_PASSWORD", "correct horse", ""),
        ("RELAY_PASSWORD", "$2b$12$short", ""),
        ("RELAY_USERNAME", "two words", "space"),
        ("UPSTREAM_PASS", "", "missing"),
        ("UPSTREAM_USER", "", "missing"),
        ("DISPATCH_INTERVAL", "soon", "number"),
        ("DISPATCH_INTERVAL", "-1", "number"),
    ],
)
def test_the_usual_mistakes_are_named(variable: str, value: str, says: str) -> None:
    (mistake,) = read(**{variable: value}).mistakes
    assert mistake.path == variable and says in mistake.what and mistake.remedy
    assert "correct horse" not in mistake.what, "it may be somebody's password"


def test_a_hash_whose_dollars_were_eaten_says_how_to_keep_them() -> None:
    (mistake,) = read(RELAY_PASSWORD=HASH.replace("$", "")).mistakes
    assert "$$" in mistake.remedy


@pytest.mark.parametrize(
    ("one", "other"), [("UPSTREAM_USER", "UPSTREAM_USERNAME"), ("UPSTREAM_PASS", "UPSTREAM_PASSWORD")]
)
def test_either_name_of_a_variable_will_do_and_two_values_will_not(one: str, other: str) -> None:
    assert values(read(**{one: "", other: WHOLE[one]})) == values(read())
    assert values(read(**{other: WHOLE[one]})) == values(read())
    assert [mistake.path for mistake in read(**{other: "else"}).mistakes] == [other]


def test_an_upstream_without_a_login_gets_none() -> None:
    found = values(read(UPSTREAM_USER="", UPSTREAM_PASS=""))
    assert not [path for path in found if path.endswith((".username", ".password", "unsecure_auth"))][2:]
    assert "relays.upstream.username" not in found


def test_an_address_is_bound_if_it_is_ours_and_is_no_name_to_greet_by() -> None:
    for ours in (True, False):
        found = deployment({**WHOLE, "RELAY_HOST": "192.0.2.7"}, lambda _, ours=ours: ours)
        assert found is not None
        assert ("listener.bind" in values(found)) is ours
        assert values(found)["listener.server_name"] == "localhost"


def test_defaults() -> None:
    found = values(read(RELAY_PORT="", UPSTREAM_PORT="", RELAY_HOST="", DISPATCH_INTERVAL=""))
    assert found["listener.ports"] == "25" and found["relays.upstream.port"] == "587"
    assert "listener.server_name" not in found
