"""What a relay does to a message and when it sends, as it is written; and every mistake in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dispatch.app.lanes import departure, lane_rules, smart_host
from dispatch.policy.limits import parse_rates
from dispatch.security.dkim_keys import generate
from dispatch.settings import Loaded, Relay, Settings, SettingsErrors, load
from dispatch.settings.deployment import WARNING

RSA, ED = generate("rsa"), generate("ed25519")
ONE = '[[relays]]\nname = "one"\nhost = "192.0.2.1"\n'
SIGNED = {"dkim_domain": "example.org", "dkim_selector": "a", "dkim_key": RSA}


def loaded(folder: Path, /, environ: dict[str, str] | None = None, **keys: object) -> Loaded:
    config = folder / "dispatch.toml"
    config.write_text(ONE + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
    return load(config, environ or {}, (), host_name="relay.example.org")


def relay(folder: Path, /, environ: dict[str, str] | None = None, **keys: object) -> Relay:
    return loaded(folder, environ, **keys).settings.relays[0]


def wrong(folder: Path, /, **keys: object) -> list[str]:
    """The keys that are complained of."""
    with pytest.raises(SettingsErrors) as refused:
        loaded(folder, **keys)
    for mistake in refused.value.mistakes:
        assert "PRIVATE" not in str(mistake), "no key is shown"
    return [mistake.path for mistake in refused.value.mistakes]


def test_a_relay_that_says_nothing_changes_nothing_and_sends_at_once(tmp_path: Path) -> None:
    settings = loaded(tmp_path).settings
    rules = lane_rules(settings, settings.relays[0])
    assert (
        rules.departure.rewrite is None and rules.departure.signing is None and not rules.departure.verbatim
    )
    assert rules.rates == () and rules.flush_interval_s == 0 and rules.ready_max == 2000


def test_senders_are_checked_addresses(tmp_path: Path) -> None:
    rewrite = departure(
        Settings(), relay(tmp_path, envelope_from=" a@example.org ", reply_to="b@example.org")
    ).rewrite
    assert rewrite is not None
    assert (rewrite.envelope_from, rewrite.header_from, rewrite.reply_to) == (
        "a@example.org",
        None,
        "b@example.org",
    )
    for value in (
        "nobody",
        "Ann <ann@example.org>",
        "a@b@example.org",
        "a@example.org\r\nBcc: x@y.example",
        7,
    ):
        assert wrong(tmp_path, envelope_from=value) == ["relays[0].envelope_from"]


def test_two_keys_of_one_domain_sign(tmp_path: Path) -> None:
    signing = departure(
        Settings(),
        relay(
            tmp_path,
            **SIGNED,
            dkim_second_selector="b",
            dkim_second_key=ED,
            dkim_canonicalization="relaxed/simple",
        ),
    ).signing
    assert signing is not None and signing.canonicalization == "relaxed/simple"
    assert [(key.domain, key.selector, key.signer.algorithm) for key in signing.keys] == [
        ("example.org", "a", "rsa-sha256"),
        ("example.org", "b", "ed25519-sha256"),
    ]


def test_a_key_fits_into_a_variable_in_one_line(tmp_path: Path) -> None:
    environ = {"DISPATCH_RELAYS__ONE__DKIM_KEY": RSA.replace("\n", "\\n")}
    keys = {name: value for name, value in SIGNED.items() if name != "dkim_key"}
    assert relay(tmp_path, environ, **keys).dkim_key == RSA


@pytest.mark.parametrize(
    ("keys", "complained"),
    [
        ({"dkim_domain": "example.org"}, ["dkim_key"]),
        ({"dkim_domain": "example.org", "dkim_key": RSA}, ["dkim_selector"]),
        ({"dkim_key": RSA, "dkim_selector": "a"}, ["dkim_key"]),
        ({"dkim_canonicalization": "simple/simple"}, ["dkim_canonicalization"]),
        (SIGNED | {"dkim_key": "no key"}, ["dkim_key"]),
        (SIGNED | {"dkim_key": RSA[:600]}, ["dkim_key"]),
        (SIGNED | {"dkim_second_key": ED}, ["dkim_second_selector"]),
        (SIGNED | {"dkim_second_selector": "b"}, ["dkim_second_selector"]),
        (SIGNED | {"dkim_second_selector": "A", "dkim_second_key": ED}, ["dkim_second_selector"]),
        (SIGNED | {"dkim_second_selector": "b", "dkim_second_key": RSA}, ["dkim_second_key"]),
        (SIGNED | {"dkim_domain": "no domain"}, ["dkim_domain"]),
        ({"keep_display_name": False}, ["keep_display_name"]),
        ({"keep_from_as_reply_to": True}, ["keep_from_as_reply_to"]),
        (
            {"header_from": "a@example.org", "reply_to": "b@example.org", "keep_from_as_reply_to": True},
            ["keep_from_as_reply_to"],
        ),
        ({"rate": "100 a minute"}, ["rate"]),
        ({"flush_interval_seconds": -1}, ["flush_interval_seconds"]),
        ({"flush_interval_seconds": 60, "max_concurrency": 5}, ["max_concurrency"]),
        ({"kind": "capture", "reply_to": "b@example.org"}, ["reply_to"]),
    ],
)
def test_what_does_not_go_together_is_told(
    tmp_path: Path, keys: dict[str, object], complained: list[str]
) -> None:
    assert [key.rpartition(".")[2] for key in wrong(tmp_path, **keys)] == complained


def test_a_flush_is_one_session_that_ends_before_the_next(tmp_path: Path) -> None:
    settings = loaded(tmp_path, flush_interval_seconds=4).settings
    host = smart_host(settings, settings.relays[0])
    assert host.max_concurrency == 1 and host.idle_s == 2.0


def test_a_slow_rate_keeps_the_line_short(tmp_path: Path) -> None:
    settings = loaded(tmp_path, rate="1/minute burst 1, 500/day").settings
    rules = lane_rules(settings, settings.relays[0])
    assert rules.rates == parse_rates("1/minute burst 1, 500/day") and rules.ready_max == 2
    settings = loaded(tmp_path, rate="1000/second").settings
    assert lane_rules(settings, settings.relays[0]).ready_max == 2000


# ---------------------------------------------------------------- the small deployment

HASH = "$2b$12$abcdefghijklmnopqrstuuZr8sUMmYqYlqQm6d4XqzJ3l3hZyK5Jm"
SMALL = {
    "RELAY_PORT": "2525",
    "RELAY_USERNAME": "app",
    "RELAY_PASSWORD": HASH,
    "UPSTREAM_HOST": "smtp.example.net",
    "DISPATCH_INTERVAL": "30",
}


def from_environment(folder: Path, **environ: str) -> Loaded:
    given = {name: value for name, value in {**SMALL, **environ}.items() if value}
    return load(None, given, (), default_file=folder / "none", host_name="relay.example.org")


def test_the_variables_alone_are_settings_and_the_danger_is_said(tmp_path: Path) -> None:
    found = from_environment(tmp_path)
    (one,) = found.settings.relays
    assert (one.host, one.verbatim, one.flush_interval_seconds) == ("smtp.example.net", True, 30.0)
    assert found.settings.listener.ports == (2525,) and found.settings.listener.require_auth
    assert found.warnings[0] == WARNING and not any("ignored" in warning for warning in found.warnings)


def test_a_setting_by_its_own_name_is_stronger(tmp_path: Path) -> None:
    found = from_environment(tmp_path, DISPATCH_RELAYS__UPSTREAM__PORT="465")
    assert found.settings.relays[0].port == 465


def test_what_is_missing_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsErrors) as refused:
        from_environment(tmp_path, UPSTREAM_HOST="", RELAY_PASSWORD="")
    assert [mistake.path for mistake in refused.value.mistakes] == ["RELAY_PASSWORD", "UPSTREAM_HOST"]


def test_an_interval_without_an_upstream_is_ignored_and_that_is_said(tmp_path: Path) -> None:
    found = load(
        None, {"DISPATCH_INTERVAL": "30"}, (), default_file=tmp_path / "none", host_name="relay.example.org"
    )
    assert any("DISPATCH_INTERVAL" in warning for warning in found.warnings)
    assert WARNING not in found.warnings
