"""What an operator writes, and what becomes of it: values, origins, and every mistake at once."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dispatch.security.passwords import hash_password
from dispatch.settings import Loaded, Mistake, Origin, SettingsErrors, SettingsUnreadable, load

NOWHERE = Path("/nonexistent/dispatch.toml")


def loaded(
    text: str | None = None,
    environ: dict[str, str] | None = None,
    *overrides: str,
    folder: Path | None = None,
) -> Loaded:
    config = None
    if text is not None:
        assert folder is not None
        config = folder / "dispatch.toml"
        config.write_text(text)
    return load(config, environ or {}, overrides, default_file=NOWHERE, host_name="relay.example.org")


def mistakes(*args: object, **more: object) -> list[Mistake]:
    with pytest.raises(SettingsErrors) as refused:
        loaded(*args, **more)  # type: ignore[arg-type]  # passed on as they are
    assert all(mistake.what and mistake.remedy for mistake in refused.value.mistakes)
    return list(refused.value.mistakes)


def test_without_any_source_all_is_default_and_mail_is_captured() -> None:
    result = loaded()
    settings = result.settings
    assert settings.listener.ports == (25, 587)
    assert settings.listener.server_name == "relay.example.org"
    assert settings.spool.max_retries is None
    assert settings.default_relay().kind == "capture"
    assert result.origins["listener.ports"] == Origin("default")
    assert result.origins["listener.server_name"] == Origin("default", "host name")
    assert any("captured" in warning for warning in result.warnings)


@pytest.mark.parametrize("host_name", ["", "bad name", "-dash", "ümlaut", "a" * 300])
def test_a_host_name_that_cannot_be_announced_becomes_localhost(host_name: str) -> None:
    result = load(None, {}, default_file=NOWHERE, host_name=host_name)
    assert result.settings.listener.server_name == "localhost"


def test_the_stronger_source_wins_and_is_named_as_the_origin(tmp_path: Path) -> None:
    text = "[listener]\nmax_recipients = 1\nmax_connections = 1\nmax_received = 1\n"
    environ = {"DISPATCH_LISTENER__MAX_RECIPIENTS": "2", "DISPATCH_LISTENER__MAX_CONNECTIONS": "2"}
    result = loaded(text, environ, "listener.max_recipients=3", folder=tmp_path)
    listener = result.settings.listener
    assert (listener.max_recipients, listener.max_connections, listener.max_received) == (3, 2, 1)
    assert result.origins["listener.max_recipients"] == Origin("command line", "--set")
    assert result.origins["listener.max_connections"].place == "DISPATCH_LISTENER__MAX_CONNECTIONS"
    assert result.origins["listener.max_received"].place == f"{tmp_path}/dispatch.toml:4"


def test_of_two_overrides_the_last_one_counts() -> None:
    assert (
        loaded(
            None, None, "queue.breaker_failures=1", "queue.breaker_failures=2"
        ).settings.queue.breaker_failures
        == 2
    )


def test_the_default_file_is_read_where_it_exists(tmp_path: Path) -> None:
    default = tmp_path / "default.toml"
    default.write_text("[listener]\nports = [2525]\n")
    assert load(None, {}, default_file=default).settings.listener.ports == (2525,)
    other = tmp_path / "other.toml"
    other.write_text("")
    assert load(other, {}, default_file=default).settings.listener.ports == (25, 587)


@pytest.mark.parametrize("written", ["25,2525", "[25, 2525]", " 25 , 2525 ", "[ 25,2525 ]"])
def test_a_list_in_the_environment_is_written_either_way(written: str) -> None:
    assert loaded(None, {"DISPATCH_LISTENER__PORTS": written}).settings.listener.ports == (25, 2525)


@pytest.mark.parametrize("written", ["", "[]"])
def test_an_empty_allow_list_is_nobody_and_is_warned_about(written: str) -> None:
    result = loaded(None, {"DISPATCH_LISTENER__ALLOWED_CIDRS": written})
    assert result.settings.listener.allowed_cidrs == ()
    assert any("no client may send" in warning for warning in result.warnings)


def test_an_open_relay_is_warned_about() -> None:
    result = loaded(None, None, "listener.allowed_cidrs=0.0.0.0/0,::/0")
    assert any("everybody" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("word", "value"), [("yes", True), ("true", True), ("1", True), ("off", False), ("False", False)]
)
def test_true_and_false_as_text(word: str, value: bool) -> None:
    assert loaded(None, None, f"logging.mask_recipient={word}").settings.logging.mask_recipient is value


def test_none_is_unlimited_in_every_source(tmp_path: Path) -> None:
    for result in (
        loaded('[spool]\nmax_retries = "none"\nmax_age_hours = "none"', folder=tmp_path),
        loaded(None, {"DISPATCH_SPOOL__MAX_RETRIES": "none", "DISPATCH_SPOOL__MAX_AGE_HOURS": "None"}),
        loaded(None, None, "spool.max_retries=none", "spool.max_age_hours=none"),
    ):
        assert result.settings.spool.max_retries is None
        assert result.settings.spool.max_age_hours is None


def test_variables_that_only_look_like_settings_get_one_warning() -> None:
    environ = {"DISPATCH_SERVICE_HOST": "10.0.0.1", "DISPATCH_PORT": "tcp://10.0.0.1:25", "PATH": "/bin"}
    ignored = [warning for warning in loaded(None, environ).warnings if "ignored" in warning]
    assert len(ignored) == 1
    assert "DISPATCH_PORT, DISPATCH_SERVICE_HOST" in ignored[0]
    assert "PATH, " not in ignored[0]


def test_every_mistake_of_every_source_is_reported_at_once(tmp_path: Path) -> None:
    text = '[listener]\nports = [25, 70000]\nport = 1\n\n[[relays]]\nname = "a"\n'
    found = mistakes(
        text, {"DISPATCH_QUEUE__BREAKER_FAILURES": "x"}, "spool.nothing=1", "loose", folder=tmp_path
    )
    assert [(str(m.origin).rpartition("/")[2], m.path) for m in found] == [
        ("dispatch.toml:2", "listener.ports[1]"),
        ("dispatch.toml:3", "listener.port"),
        ("DISPATCH_QUEUE__BREAKER_FAILURES", "queue.breaker_failures"),
        ("--set", "loose"),
        ("--set", "spool.nothing"),
        ("dispatch.toml:6", "relays.a.host"),
    ]


def test_a_value_that_a_stronger_source_replaces_is_still_checked(tmp_path: Path) -> None:
    (mistake,) = mistakes("[listener]\nmax_received = 0", None, "listener.max_received=5", folder=tmp_path)
    assert mistake.origin.source == "file"


@pytest.mark.parametrize(
    ("written", "path", "what"),
    [
        ("[listener]\nports = 25", "listener.ports", "25 is no list"),
        ("[listener]\nports = [25, 25]", "listener.ports[1]", "25 stands there twice"),
        ("[listener]\nports = [0]", "listener.ports[0]", "0 is below 1"),
        ("[listener]\nports = [true]", "listener.ports[0]", "true is no whole number"),
        ("[listener]\nbind = []", "listener.bind", "the list is empty"),
        ('[listener]\nbind = ["localhost"]', "listener.bind[0]", '"localhost" is no IP address'),
        ('[listener]\nserver_name = "a b"', "listener.server_name", '"a b" is no host name'),
        ("[listener]\nserver_name = 1", "listener.server_name", "1 is no text"),
        (
            '[listener]\nallowed_cidrs = ["10.1.2.3/8"]',
            "listener.allowed_cidrs[0]",
            "'10.1.2.3/8' has bits set behind its prefix",
        ),
        ('[listener]\nbare_newline = "fix"', "listener.bare_newline", '"fix" is not possible here'),
        (
            "[listener]\nconnection_timeout_seconds = nan",
            "listener.connection_timeout_seconds",
            "nan is not within 1 and 86400",
        ),
        ("[listener]\nmax_recipients = 1.5", "listener.max_recipients", "1.5 is no whole number"),
        ("[spool]\nretry_delays_seconds = []", "spool.retry_delays_seconds", "the list is empty"),
        ("[spool]\nmax_retries = -1", "spool.max_retries", "-1 is below 0"),
        ('[spool]\ndirectory = ".data"', "spool.directory", '".data" is no folder'),
        ('[logging]\nmask_recipient = "yes"', "logging.mask_recipient", '"yes" is neither true nor false'),
        ("listener = 1", "listener", "is no table"),
        ("[relays.a]\nhost = 'x'", "relays", "is no list of tables"),
    ],
)
def test_a_value_that_does_not_fit_is_said_with_its_place(
    tmp_path: Path, written: str, path: str, what: str
) -> None:
    (mistake,) = mistakes(written, folder=tmp_path)
    assert (mistake.path, mistake.what) == (path, what)
    line = written.count("\n") + 1 if not written.startswith("[relays.") else None
    assert mistake.origin.place == f"{tmp_path}/dispatch.toml" + (f":{line}" if line else "")


def test_a_number_in_quotes_is_told_to_lose_them(tmp_path: Path) -> None:
    (mistake,) = mistakes('[listener]\nmax_recipients = "100"', folder=tmp_path)
    assert mistake.remedy == "write 100 without quotes"


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("listener.port", "listener.ports"),
        ("lisener.bind", "listener.bind"),
        ("listener.retry_delays_seconds", "spool.retry_delays_seconds"),
        ("relays.a.prot", "relays.a.port"),
        ("queue.breaker_failurs", "queue.breaker_failures"),
    ],
)
def test_an_unknown_key_is_answered_with_the_one_that_was_meant(key: str, meant: str) -> None:
    overrides = ("relays.a.host=mail", f"{key}=1")
    (mistake,) = mistakes(None, None, *overrides)
    assert mistake.what == "there is no such key"
    assert mistake.remedy == f"did you mean {meant}?"


def test_an_unknown_variable_is_answered_with_the_variable_that_was_meant() -> None:
    (mistake,) = mistakes(None, {"DISPATCH_LISTENER__PORT": "25"})
    assert mistake.remedy == "did you mean DISPATCH_LISTENER__PORTS?"


@pytest.mark.parametrize(
    ("content", "said", "place"),
    [
        (b"[listener\n", "is no TOML", ":1"),
        (b"[listener]\nports = [25,,]\n", "is no TOML", ":2"),
        (b"[listener]\nports = [25", "is no TOML", ""),
        (b"# \xff\n", "is not UTF-8 at byte 2", ""),
    ],
)
def test_a_file_that_is_no_toml_is_one_mistake_with_its_line(
    tmp_path: Path, content: bytes, said: str, place: str
) -> None:
    config = tmp_path / "broken.toml"
    config.write_bytes(content)
    with pytest.raises(SettingsErrors) as refused:
        load(config, {})
    (mistake,) = refused.value.mistakes
    assert said in mistake.what
    assert mistake.origin.place == f"{config}{place}"


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsErrors, match="cannot be read: No such file"):
        load(tmp_path / "absent.toml", {})


def test_a_file_that_is_not_ours_to_read_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path, encoding: str) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(SettingsErrors, match="cannot be read: Permission denied"):
        load(None, {}, default_file=tmp_path / "dispatch.toml")
    with pytest.raises(SettingsErrors, match="cannot be read: Is a directory"):
        monkeypatch.undo()
        load(tmp_path, {})


@pytest.mark.parametrize("error", [errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM])
@pytest.mark.parametrize("named", [True, False])
def test_a_file_that_cannot_be_read_now_is_nobodys_mistake_and_not_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool, error: int
) -> None:
    def failing(path: Path, encoding: str) -> str:
        raise OSError(error, os.strerror(error))

    file = tmp_path / "dispatch.toml"
    monkeypatch.setattr(Path, "read_text", failing)
    with pytest.raises(SettingsUnreadable) as fault:
        load(file if named else None, {}, default_file=file)
    assert fault.value.errno == error
    assert str(fault.value) == f"{file} cannot be read: {os.strerror(error)} ({errno.errorcode[error]})"


def test_disk_levels_must_come_one_after_the_other() -> None:
    (mistake,) = mistakes(None, None, "spool.disk_throttle_mb=100")
    assert mistake.path == "spool.disk_throttle_mb"
    assert mistake.what == "disk_suspend_mb (200) is above disk_throttle_mb (100)"


PINNED = """
[[relays]]
name = "main"
host = "192.0.2.1"
default = true
[[relays]]
name = "bulk"
host = "192.0.2.2"
enabled = false
[[logins]]
name = "app"
password = "%s"
relay = "%s"
"""


def test_a_login_is_pinned_to_a_relay_that_there_is(tmp_path: Path) -> None:
    hashed = hash_password("secret", rounds=4)
    [mistake] = mistakes(PINNED % (hashed, "bukl"), folder=tmp_path)
    assert str(mistake).endswith('logins.app.relay: there is no relay called "bukl"; did you mean bulk?')
    found = loaded(PINNED % (hashed, "bulk"), folder=tmp_path)
    assert found.settings.logins[0].relay == "bulk"
    assert "logins.app: its relay bulk is not enabled, its mail is held" in found.warnings
    assert not loaded(PINNED % (hashed, "main"), folder=tmp_path).warnings


def test_the_first_lock_is_no_longer_than_the_longest() -> None:
    first, longest = "listener.lockout_seconds", "listener.lockout_max_seconds"
    for changed, given in ((first, [f"{first}=1000"]), (longest, [f"{first}=70", f"{longest}=60"])):
        (told,) = mistakes(None, None, *given)
        assert told.path == changed
        assert "is above lockout_max_seconds" in told.what
    loaded(None, None, f"{first}=1000", f"{longest}=1000")
    assert loaded(None, None, "listener.lockout_failures=none").settings.listener.lockout_failures is None
