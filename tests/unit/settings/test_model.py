"""Promises that the model keeps for every key, whatever keys there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dispatch.settings import changes, load, values_of
from dispatch.settings.keys import ROLES, Entry
from dispatch.settings.kinds import shown
from dispatch.settings.model import KEYS, PLAIN_KEYS, RELAYS, SECTIONS, Settings, all_keys, find_key

NOWHERE = Path("/nonexistent/dispatch.toml")
SPECIFIED = {
    "listener.ports": (25, 587),
    "listener.max_message_bytes": 26_214_400,
    "listener.max_recipients": 1000,
    "listener.connection_timeout_seconds": 60.0,
    "listener.max_connections": 1000,
    "listener.max_connections_per_ip": 100,
    "listener.lockout_failures": 5,
    "listener.lockout_window_seconds": 600.0,
    "listener.lockout_seconds": 60.0,
    "listener.lockout_max_seconds": 900.0,
    "listener.max_own_received": 2,
    "listener.max_received": 30,
    "listener.bare_newline": "reject",
    "spool.max_retries": None,
    "spool.retry_delays_seconds": (30.0, 300.0, 1800.0, 7200.0),
    "spool.max_age_hours": 96.0,
    "spool.disk_warn_mb": 1024,
    "spool.disk_throttle_mb": 500,
    "spool.disk_suspend_mb": 200,
    "spool.failed_retention_days": 7,
    "queue.uncertain_policy": "retry",
    "logging.format": "text",
    "logging.mask_recipient": True,
}


def test_defaults_are_the_specified_ones() -> None:
    values = values_of(Settings())
    assert {path: values[path] for path in SPECIFIED} == SPECIFIED


@pytest.mark.parametrize("entry", all_keys(), ids=lambda entry: entry.path)
def test_every_key_is_described(entry: Entry) -> None:
    key = entry.key
    assert key.help.endswith("."), "sentences"
    assert key.kind.type_name
    assert key.roles <= set(ROLES)
    assert "control" in key.roles
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", entry.name)
    assert find_key(entry.path) is entry
    if key.inherits:
        assert key.inherits in PLAIN_KEYS
        assert PLAIN_KEYS[key.inherits].key.kind == key.kind


@pytest.mark.parametrize("entry", all_keys(), ids=lambda entry: entry.path)
def test_every_default_is_a_value_that_could_be_given(entry: Entry) -> None:
    if entry.default_in_words:
        return
    given = list(entry.default) if isinstance(entry.default, tuple) else entry.default
    assert entry.key.kind.read("none" if given is None else given, text=False) == entry.default
    assert entry.key.kind.read(shown(entry.default).strip('"'), text=True) == entry.default


def test_every_section_has_a_chapter_opening() -> None:
    assert all(model.__doc__ for model in SECTIONS.values())
    assert list(KEYS) == list(SECTIONS)


@pytest.mark.parametrize(
    "path", ["", "listener", "listener.port", "relays", "relays.port", "relays.a.b.port", "ports"]
)
def test_what_names_no_key_finds_none(path: str) -> None:
    assert find_key(path) is None


def settings(*overrides: str) -> Settings:
    return load(None, {}, overrides, default_file=NOWHERE, host_name="relay").settings


def test_equal_settings_have_no_changes() -> None:
    assert changes(settings(), settings()) == ([], [])


def test_a_change_is_told_as_live_or_as_needing_a_restart() -> None:
    live, restart = changes(settings(), settings("listener.ports=2525", "logging.log_denied=no"))
    assert (live, restart) == (["logging.log_denied"], ["listener.ports"])


def test_what_a_relay_inherits_changes_with_its_source() -> None:
    live, restart = changes(settings("relays.a.host=x"), settings("relays.a.host=x", "spool.max_retries=1"))
    assert (live, restart) == (["spool.max_retries", "relays.a.max_retries"], [])


def test_a_relay_that_comes_or_goes_is_a_change() -> None:
    with_it, without = settings("relays.a.host=x"), settings()
    for live, restart in (changes(without, with_it), changes(with_it, without)):
        assert live == [f"{RELAYS}.a.{name}" for name in KEYS[RELAYS]]
        assert restart == []
