"""Relays as they are written in each source, which one is the default, and what they inherit."""

from __future__ import annotations

from pathlib import Path

import pytest

from dispatch.settings import Loaded, Origin, SettingsErrors, load
from dispatch.settings.presets import PRESETS
from dispatch.settings.relay_keys import hosts_of, tls_mode


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
    text = '[[relays]]\nport = 0\n\n[[relays]]\nname = "Bad Name"\nhost = "x"\ntls = "ssl"\n'
    text += "\n[[relays]]\nname = 5\n"
    found = said(tmp_path, text)
    for start in (
        "1: relays[0].name: is missing",
        "2: relays[0].port: 0 is below 1",
        '5: relays[1].name: "Bad Name" is no name',
        '7: relays[1].tls: "ssl" is not possible here; write "none" or "auto" or "starttls" or',
        "10: relays[2].name: 5 is no text",
    ):
        assert any(mistake.startswith(start) for mistake in found), (start, found)


def test_two_relays_of_one_name_are_refused_with_both_places(tmp_path: Path) -> None:
    (mistake,) = said(tmp_path, ONE + ONE)
    assert mistake.startswith('5: relays[1].name: another relay is called "smarthost"')
    assert f"({tmp_path}/dispatch.toml:2)" in mistake


@pytest.mark.parametrize("override", ["relays.port=1", "relays.a.name=b"])
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


@pytest.mark.parametrize("written", ['["a.example", "192.0.2.1"]', '"a.example, 192.0.2.1"'])
def test_several_hosts_are_a_list(tmp_path: Path, written: str) -> None:
    (relay,) = loaded(tmp_path, f'[[relays]]\nname = "a"\nhost = {written}\n').settings.relays
    assert hosts_of(relay) == ("a.example", "192.0.2.1")
    (relay,) = loaded(tmp_path, "", "relays.a.host=a.example,192.0.2.1").settings.relays
    assert hosts_of(relay) == ("a.example", "192.0.2.1")
    (mistake,) = said(tmp_path, '[[relays]]\nname = "a"\nhost = ["a.example", "b c"]\n')
    assert mistake.startswith('3: relays[0].host[1]: "b c" is no host')


LOGIN = ("relays.a.username=me", "relays.a.password=secret")


@pytest.mark.parametrize(
    ("overrides", "mode"),
    [
        ((), "auto"),
        (("relays.a.port=587",), "auto"),
        (("relays.a.port=465",), "implicit"),
        (LOGIN, "starttls_required"),
        ((*LOGIN, "relays.a.port=465"), "implicit"),
        ((*LOGIN, "relays.a.tls=starttls"), "starttls"),
        (("relays.a.tls=none",), "none"),
    ],
)
def test_encryption_fits_what_is_at_stake(tmp_path: Path, overrides: tuple[str, ...], mode: str) -> None:
    (relay,) = loaded(tmp_path, "", "relays.a.host=x", *overrides).settings.relays
    assert tls_mode(relay) == mode


@pytest.mark.parametrize(
    ("overrides", "wrong"),
    [
        (("username=me",), 'relays.a.password: is missing for the user name "me"'),
        (("password=secret",), "relays.a.username: is missing beside the password"),
        (("username=me", "password=secret", "tls=none"), "relays.a.username: would let the password go"),
        (
            ("username=me", "password=a\x01b", "auth=xoauth2"),
            "relays.a.password: a character in the password",
        ),
        (("tls=none", f"fingerprint={'ab' * 32}"), 'relays.a.fingerprint: is no use with tls = "none"'),
        (("ca_file=/x", f"fingerprint={'ab' * 32}"), "relays.a.ca_file: is no use beside fingerprint"),
        (("ca_file=/x", "verify=false"), "relays.a.ca_file: is no use with verify = false"),
        (("lookup=mx", "host=192.0.2.1"), "relays.a.lookup: 192.0.2.1 is an address"),
        (("region=eu-west-1",), "relays.a.region: is no use without a preset"),
        (("fingerprint=abcd",), 'relays.a.fingerprint: "abcd" is no SHA-256 fingerprint'),
        (("auth=plain,ntlm",), 'relays.a.auth[1]: "ntlm" is not possible here'),
        (("preset=nobody",), 'relays.a.preset: "nobody" is not possible here'),
    ],
)
def test_keys_that_do_not_go_together_are_named(
    tmp_path: Path, overrides: tuple[str, ...], wrong: str
) -> None:
    (mistake,) = said(tmp_path, "", *(f"relays.a.{each}" for each in ("host=x", *overrides)))
    assert wrong in mistake
    assert "secret" not in mistake


def test_a_password_in_clear_text_must_be_allowed(tmp_path: Path) -> None:
    overrides = ("relays.a.host=x", *LOGIN, "relays.a.tls=none", "relays.a.allow_unsecure_auth=yes")
    (relay,) = loaded(tmp_path, "", *overrides).settings.relays
    assert tls_mode(relay) == "none"


def test_a_fingerprint_is_held_in_one_writing(tmp_path: Path) -> None:
    written = "SHA256 Fingerprint=" + ":".join(["AB"] * 32)
    (relay,) = loaded(tmp_path, "", "relays.a.host=x", f"relays.a.fingerprint={written}").settings.relays
    assert relay.fingerprint == "ab" * 32


# Presets


def test_a_preset_gives_what_is_not_written(tmp_path: Path) -> None:
    result = loaded(tmp_path, "", "relays.a.preset=resend", "relays.a.password=key")
    (relay,) = result.settings.relays
    assert (hosts_of(relay), relay.port, tls_mode(relay)) == (("smtp.resend.com",), 465, "implicit")
    assert relay.username == "resend"
    assert result.origins["relays.a.port"] == Origin("inherited", "preset resend")


def test_what_is_written_counts_beside_a_preset(tmp_path: Path) -> None:
    text = '[[relays]]\nname = "a"\npreset = "microsoft-365"\nport = 2525\nmax_concurrency = 1\n'
    (relay,) = loaded(tmp_path, text).settings.relays
    assert (relay.host, relay.port, relay.max_concurrency) == ("smtp.office365.com", 2525, 1)


def test_ses_is_a_host_for_each_region(tmp_path: Path) -> None:
    overrides = ("relays.a.preset=ses", *LOGIN)
    (relay,) = loaded(tmp_path, "", *overrides, "relays.a.region=eu-central-1").settings.relays
    assert relay.host == "email-smtp.eu-central-1.amazonaws.com"
    (mistake,) = said(tmp_path, "", *overrides)
    assert "relays.a.region: is missing" in mistake


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_relay_by_itself(tmp_path: Path, name: str) -> None:
    overrides = [f"relays.a.preset={name}", "relays.a.password=key"]
    if PRESETS[name].needs_region:
        overrides.append("relays.a.region=us-east-1")
    if not PRESETS[name].username:
        overrides.append("relays.a.username=me")
    (relay,) = loaded(tmp_path, "", *overrides).settings.relays
    assert tls_mode(relay) in ("starttls_required", "implicit")
    assert (relay.port == 465) == (tls_mode(relay) == "implicit")


def test_a_preset_that_needs_a_password_says_so(tmp_path: Path) -> None:
    (mistake,) = said(tmp_path, "", "relays.a.preset=sendgrid")
    assert 'relays.a.password: is missing for the user name "apikey"' in mistake


def test_an_override_does_not_make_a_relay_with_a_dot_in_its_name(tmp_path: Path) -> None:
    assert any('"a.b" is no name' in mistake for mistake in said(tmp_path, "", "relays.a.b.port=1"))
