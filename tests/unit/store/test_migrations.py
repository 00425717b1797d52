"""Schemas: made, brought up to date, refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from dispatch.store import sqlite
from dispatch.store.sqlite import NewerSchema, migrate, migrations, open_database, schema_version, statements

DATABASES = ("parked", "history", "settings")


def schema_of(connection: apsw.Connection) -> list[tuple[object, ...]]:
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")
    return rows.fetchall()


@pytest.fixture
def two_migrations(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[tuple[int, str]]], None]:
    def use(scripts: list[tuple[int, str]]) -> None:
        monkeypatch.setattr(sqlite, "migrations", lambda schema: scripts)

    return use


@pytest.mark.parametrize("database", DATABASES)
def test_a_fresh_database_equals_one_migrated_step_by_step(database: str, tmp_path: Path) -> None:
    fresh = open_database(tmp_path / "fresh.db", database, synchronous="FULL")
    stepwise = apsw.Connection(str(tmp_path / "stepwise.db"))
    for number, script in migrations(database):
        stepwise.execute(script)
        stepwise.pragma("user_version", number)
    migrate(stepwise, database, name="stepwise.db")
    assert schema_of(fresh) == schema_of(stepwise)
    assert schema_version(fresh) == schema_version(stepwise) == len(migrations(database))
    fresh.close()
    stepwise.close()


@pytest.mark.parametrize("database", DATABASES)
def test_opening_again_changes_nothing(database: str, tmp_path: Path) -> None:
    first = open_database(tmp_path / "a.db", database, synchronous="FULL")
    before = schema_of(first)
    first.close()
    again = open_database(tmp_path / "a.db", database, synchronous="FULL")
    assert schema_of(again) == before
    again.close()


@pytest.mark.parametrize("database", DATABASES)
def test_every_statement_fits_the_schema(database: str) -> None:
    connection = apsw.Connection(":memory:")
    migrate(connection, database, name="memory")
    for name, sql in statements(database).items():
        nothing = [None] * 20
        try:
            connection.execute(f"EXPLAIN {sql}", nothing)
        except apsw.BindingsError:
            pass
        except apsw.SQLError as error:
            pytest.fail(f"{name}: {error}")
    connection.close()


def test_a_database_of_a_later_version_is_refused_by_name(tmp_path: Path) -> None:
    connection = open_database(tmp_path / "parked.db", "parked", synchronous="FULL")
    connection.pragma("user_version", 99)
    connection.close()
    with pytest.raises(NewerSchema, match=r"parked\.db has schema 99"):
        open_database(tmp_path / "parked.db", "parked", synchronous="FULL")


def test_a_migration_that_fails_leaves_the_schema_before_it(
    tmp_path: Path, two_migrations: Callable[[list[tuple[int, str]]], None]
) -> None:
    two_migrations([(1, "CREATE TABLE one (a)")])
    open_database(tmp_path / "a.db", "any", synchronous="FULL").close()
    two_migrations([(1, ""), (2, "CREATE TABLE two (a); INSERT INTO nowhere VALUES (1)")])
    with pytest.raises(sqlite.StoreFault, match="nowhere"):
        open_database(tmp_path / "a.db", "any", synchronous="FULL")
    look = apsw.Connection(str(tmp_path / "a.db"))
    assert schema_version(look) == 1
    assert [row[1] for row in schema_of(look)] == ["one"]
    look.close()


def test_rows_survive_a_migration(
    tmp_path: Path, two_migrations: Callable[[list[tuple[int, str]]], None]
) -> None:
    first = (1, "CREATE TABLE one (a); INSERT INTO one VALUES (7)")
    two_migrations([first])
    open_database(tmp_path / "a.db", "any", synchronous="FULL").close()
    two_migrations([first, (2, "ALTER TABLE one ADD COLUMN b NOT NULL DEFAULT 8")])
    migrated = open_database(tmp_path / "a.db", "any", synchronous="FULL")
    assert migrated.execute("SELECT a, b FROM one").fetchall() == [(7, 8)]
    migrated.close()
