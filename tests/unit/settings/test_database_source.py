"""The database as a source: below the file, above the defaults, whole tables only."""

from __future__ import annotations

from pathlib import Path

import pytest

from dispatch.settings import Loaded, SettingsErrors, data_directory, load
from dispatch.settings.mistakes import Origin
from dispatch.settings.sources import Given

ORIGIN = Origin("database", "settings.db")


def given(table: str, **keys: object) -> list[Given]:
    name = table.partition(".")[2]
    return [
        Given(table, key, value, isinstance(value, str), ORIGIN, f"{table}.{key}")
        for key, value in {"name": name, **keys}.items()
    ]


def loaded(tmp_path: Path, text: str, stored: list[Given], *overrides: str, **environ: str) -> Loaded:
    file = tmp_path / "dispatch.toml"
    file.write_text(text)
    return load(file, environ, overrides, host_name="relay.example.org", stored=stored)


def test_it_makes_relays_and_says_where_they_are_from(tmp_path: Path) -> None:
    result = loaded(tmp_path, "", given("relays.smart", host="mail.example.org", port="587"))
    [relay] = result.settings.relays
    assert (relay.name, relay.host, relay.port) == ("smart", "mail.example.org", 587)
    assert str(result.origins["relays.smart.port"]) == "settings.db"
    assert result.origins["relays.smart.enabled"].source == "default"


def test_environment_and_command_line_are_stronger(tmp_path: Path) -> None:
    stored = given("relays.smart", host="a.example.org", port="25")
    variables = {"DISPATCH_RELAYS__SMART__PORT": "26", "DISPATCH_RELAYS__SMART__HOST": "b.example.org"}
    result = loaded(tmp_path, "", stored, "relays.smart.port=27", **variables)
    [relay] = result.settings.relays
    assert (relay.host, relay.port) == ("b.example.org", 27)


def test_a_table_of_the_file_replaces_it_whole_and_that_is_said(tmp_path: Path) -> None:
    stored = [*given("relays.smart", host="a", port="587"), *given("relays.other", host="o", default=True)]
    result = loaded(tmp_path, '[[relays]]\nname = "smart"\nhost = "b"\n', stored)
    ports = {relay.name: relay.port for relay in result.settings.relays}
    assert ports["other"] == 25
    smart = next(relay for relay in result.settings.relays if relay.name == "smart")
    assert smart.host == "b"
    assert smart.port != 587, "not the half of it either"
    assert [warning for warning in result.warnings if "smart" in warning] == [
        "relays.smart stands in the file and in the database: what counts is the file"
    ]


def test_a_mistake_in_it_names_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsErrors) as errors:
        loaded(tmp_path, "", given("relays.smart", host="a", port="99999"))
    [mistake] = errors.value.mistakes
    assert str(mistake).startswith("settings.db: relays.smart.port: 99999 is above 65535")


def test_a_secret_that_was_not_opened_is_neither_missing_nor_wrong(tmp_path: Path) -> None:
    stored = given("logins.scanner")
    stored.append(Given("logins.scanner", "password", "", True, ORIGIN, "", withheld=True))
    [login] = loaded(tmp_path, "", stored).settings.logins
    assert login.password == "***"


def test_the_data_directory_is_known_before_the_database_is_read(tmp_path: Path) -> None:
    file = tmp_path / "dispatch.toml"
    file.write_text('relays = 7\n[spool]\ndirectory = "/from/file"\n')
    assert data_directory(file) == Path("/from/file")
    environ = {"DISPATCH_SPOOL__DIRECTORY": "/from/environment"}
    assert data_directory(file, environ) == Path("/from/environment")
    assert data_directory(file, environ, ["spool.directory=relative"]) == Path("/from/environment")
    assert data_directory(file, environ, ["spool.directory=/from/line"]) == Path("/from/line")
    assert data_directory(None, {}, default_file=tmp_path / "none") == Path("/var/lib/dispatch")


def test_a_secret_on_the_command_line_is_remarked_upon_and_not_repeated(tmp_path: Path) -> None:
    hashed = "dispatch1$2b$12$0/lSF4ly/jA0.aA4DQKY1eQp6qdhjsUr8xIW7Wu/kVCFXfvw9e3Pm"
    warnings = loaded(tmp_path, "", [], f"logins.scanner.password={hashed}").warnings
    [said] = [warning for warning in warnings if "secret" in warning]
    assert "logins.scanner.password" in said
    assert hashed not in said
