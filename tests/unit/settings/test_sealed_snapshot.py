"""Secrets in snapshots: sealed for each role, opened by its own key, withheld without it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from dispatch.security.role_keys import role_key
from dispatch.security.vault import Vault
from dispatch.settings import Settings, load
from dispatch.settings.keys import ROLES
from dispatch.settings.model import Certificate
from dispatch.settings.snapshot import NoSnapshot, publish
from dispatch.settings.snapshot import load as load_snapshot

SEALS = {role: Vault(role_key(bytes(range(32)), role)) for role in ROLES}
HASH = "dispatch1$2b$12$0/lSF4ly/jA0.aA4DQKY1eQp6qdhjsUr8xIW7Wu/kVCFXfvw9e3Pm"
PRIVATE = b"-----BEGIN PRIVATE KEY-----"


@pytest.fixture
def published(tmp_path: Path) -> Settings:
    overrides = [f"logins.app@example.org.password={HASH}", f"logins.scanner.password={HASH}"]
    settings = load(None, {}, overrides, default_file=tmp_path / "none", host_name="relay").settings
    settings = msgspec.structs.replace(settings, certificate=Certificate(b"chain", PRIVATE))
    publish(tmp_path, settings, SEALS)
    return settings


def test_the_role_concerned_opens_them_with_its_key(published: Settings, tmp_path: Path) -> None:
    _, told = load_snapshot(tmp_path, "intake", SEALS["intake"])
    assert {login.name: login.password for login in told.logins} == {"app@example.org": HASH, "scanner": HASH}
    assert told.certificate == published.certificate


def test_no_file_shows_one(published: Settings, tmp_path: Path) -> None:
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert HASH.encode() not in content
        assert PRIVATE not in content


def test_without_the_key_the_rest_can_be_read(published: Settings, tmp_path: Path) -> None:
    _, told = load_snapshot(tmp_path, "intake")
    assert told.listener.max_recipients == published.listener.max_recipients
    assert [login.name for login in told.logins] == ["app@example.org", "scanner"]
    for using in (lambda: bool(told.logins[0].password), lambda: bool(told.certificate)):
        with pytest.raises(AssertionError, match="not told"):
            using()


def test_a_role_that_is_not_told_learns_nothing(published: Settings, tmp_path: Path) -> None:
    _, told = load_snapshot(tmp_path, "delivery", SEALS["delivery"])
    with pytest.raises(AssertionError, match="not told"):
        bool(told.certificate)
    with pytest.raises(AssertionError, match="not told"):
        bool(told.logins)


def test_another_roles_key_opens_nothing(published: Settings, tmp_path: Path) -> None:
    with pytest.raises(NoSnapshot, match=r"snapshot\.intake is sealed with key"):
        load_snapshot(tmp_path, "intake", SEALS["control"])


def test_one_roles_secrets_do_not_open_as_anothers(published: Settings, tmp_path: Path) -> None:
    intake, control = (
        msgspec.json.decode((tmp_path / f"{r}.json").read_bytes()) for r in ("intake", "control")
    )
    control["sealed"] = intake["sealed"]
    (tmp_path / "control.json").write_bytes(msgspec.json.encode(control))
    with pytest.raises(NoSnapshot, match="cannot be opened"):
        load_snapshot(tmp_path, "control", SEALS["intake"])


def test_secrets_are_not_published_unsealed(published: Settings, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="unsealed"):
        publish(tmp_path / "other", published)
