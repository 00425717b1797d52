"""Relays as they are written in each source, which one is the default, and what they inherit."""

from __future__ import annotations

from pathlib import Path

import pytest

from dispatch.settings import Loaded, Origin, SettingsErrors, load


def loaded(folder: Path, text: str, *overrides: str, environ: dict[str, str] | None = None) -> Loaded:
    config = folder / "dispatch.toml"
    config.write_text(text)
    return load(config, environ or {}, overrides, host_name="relay.example.org")


def said(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(SettingsErrors) as refused:
        loaded(folder, text, *overrides)
    return [str(mistake).removeprefix(f"{folder}/dispatch.toml:") for mistake in refused.value.mistakes]


ONE = '[[relays]]\nname = "smarthost"\nhost = "192.0.2.1"\n'
TWO = ONE + '\n[[relays]]\nname = "backup"\nhost = "2001:db8::1"\n'


def test_a_single_relay_is_the_default(tmp_path: Path) -> None:
    settings = loaded(tmp_path, ONE).settings
    assert settings.default_relay().name == "smarthost"
    assert settings.effective_relays() == settings.relays


def test_a_disabled_default_stays_the_default(tmp_path: Path) -> None:
    settings = loaded(tmp_path, TWO + "default = true\nenabled = false\n").settings
    assert settings.default_relay().name == "backup"
    assert not settings.default_relay().enabled


def test_of_several_relays_one_must_be_the_default(tmp_path: Path) -> None:
    (mistake,) = said(tmp_path, TWO)
    assert "none of smarthost and backup is the default" in mistake


def test_several_defaults_are_named(tmp_path: Path) -> None:
    (mistake,) = said(tmp_path, TWO, "relays.backup.default=true", "relays.smarthost.default=yes")
    assert "smarthost and backup claim to be the default" in mistake


def test_what_a_relay_does_not_say_it_inherits(tmp_path: Path) -> None:
    text = "[spool]\nmax_retries = 3\nmax_age_hours = 1.5\n" + ONE + "retry_delays_seconds = [1]\n"
    result = loaded(tmp_path, text, "queue.uncertain_policy=hold")
    (relay,) = result.settings.relays
    assert (relay.max_retries, relay.max_age_hours, relay.retry_delays_seconds) == (3, 1.5, (1.0,))
    assert relay.uncertain_policy == "hold"
    assert relay.helo_name == "relay.example.org"
    assert result.origins["relays.smarthost.max_retries"] == Origin("inherited", "spool.max_retries")
    assert result.origins["relays.smarthost.retry_delays_seconds"].source == "file"


def test_unlimited_of_its_own_is_not_overruled_by_what_it_would_inherit(tmp_path: Path) -> None:
    (relay,) = loaded(tmp_path, "[spool]\nmax_retries = 3\n" + ONE + 'max_retries = "none"\n').settings.relays
    assert relay.max_retries is None


def test_the_capture_relay_inherits_too() -> None:
    settings = load(None, {}, ["spool.max_retries=3"], default_file=Path("/nonexistent")).settings
    assert settings.default_relay().max_retries == 3
    assert settings.relays == ()


def test_another_source_changes_a_relay_of_the_file_by_its_name(tmp_path: Path) -> None:
    environ = {"DISPATCH_RELAYS__SMARTHOST__PORT": "26"}
    result = loaded(tmp_path, ONE, "relays.smarthost.max_concurrency=7", environ=environ)
    (relay,) = result.settings.relays
    assert (relay.host, relay.port, relay.max_concurrency) == ("192.0.2.1", 26, 7)
    assert result.origins["relays.smarthost.name"].source == "file"
    assert result.origins["relays.smarthost.port"].source == "environment"


def test_a_relay_may_stand_in_the_environment_alone(tmp_path: Path) -> None:
    (relay,) = loaded(
        tmp_path, "", environ={"DISPATCH_RELAYS__MY_HOST__HOST": "mail.example.org"}
    ).settings.relays
    assert (relay.name, relay.host) == ("my-host", "mail.example.org")


def test_an_smtp_relay_needs_a_host_and_a_capture_relay_does_not(tmp_path: Path) -> None:
    (mistake,) = said(tmp_path, '[[relays]]\nname = "a"\n')
    assert mistake.startswith("2: relays.a.host: is missing")
    assert loaded(tmp_path, '[[relays]]\nname = "a"\nkind = "capture"\n').settings.relays[0].kind == "capture"


def test_a_relay_without_a_usable_name_is_still_checked(tmp_path: Path) -> None:
    text = '[[relays]]\nport = 0\n\n[[relays]]\nname = "Bad Name"\nhost = "x"\ntls = "starttls"\n'
    text += "\n[[relays]]\nname = 5\n"
    found = said(tmp_path, text)
    for start in (
        "1: relays[0].name: is missing",
        "2: relays[0].port: 0 is below 1",
        '5: relays[1].name: "Bad Name" is no name',
        '7: relays[1].tls: "starttls" is not possible here; write only "none"',
        "10: relays[2].name: 5 is no text",
    ):
        assert any(mistake.startswith(start) for mistake in found), (start, found)


def test_two_relays_of_one_name_are_refused_with_both_places(tmp_path: Path) -> None:
    (mistake,) = said(tmp_path, ONE + ONE)
    assert mistake.startswith('5: relays[1].name: another relay is called "smarthost"')
    assert f"({tmp_path}/dispatch.toml:2)" in mistake


@pytest.mark.parametrize("override", ["relays.port=1", "relays.a.name=b", "relays.a.b.port=1"])
def test_an_override_must_name_relay_and_key(tmp_path: Path, override: str) -> None:
    (mistake,) = said(tmp_path, "", override)
    assert "write relays.NAME.key" in mistake


def test_a_key_with_a_dot_in_it_is_unknown(tmp_path: Path) -> None:
    (mistake,) = said(tmp_path, ONE + '"x.port" = 1\n')
    assert "there is no such key" in mistake


@pytest.mark.parametrize(
    "host", ["mail.example.org", "192.0.2.1", "2001:db8::1", "::1", "under_score", "mail.example.org."]
)
def test_a_host_is_a_name_or_an_address(tmp_path: Path, host: str) -> None:
    assert loaded(tmp_path, "", f"relays.a.host={host}").settings.relays[0].host == host


@pytest.mark.parametrize("host", ["", "a b", "mail:25", "http://x", "[::1]", ".x"])
def test_anything_else_is_no_host(tmp_path: Path, host: str) -> None:
    (mistake,) = said(tmp_path, "", f"relays.a.host={host}")
    assert "is no host" in mistake


def test_an_empty_name_is_no_name(tmp_path: Path) -> None:
    (mistake,) = said(tmp_path, '[[relays]]\nname = ""\nhost = "x"\n')
    assert mistake.startswith('2: relays[0].name: "" is no name')
