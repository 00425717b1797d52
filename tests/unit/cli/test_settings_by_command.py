"""Commands that change settings where no relay runs, and what they refuse to take as an argument."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dispatch.cli import run
from dispatch.security import dkim_keys
from dispatch.security.certificates import generate
from dispatch.security.key_file import load_key
from dispatch.security.passwords import verify_password
from dispatch.security.role_keys import role_key
from dispatch.security.vault import Vault
from dispatch.settings import Relay
from dispatch.settings.snapshot import load


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """The options that name a data directory, and no file of settings."""
    (tmp_path / "dispatch.toml").touch()
    (tmp_path / "data").mkdir()
    return ["--config", str(tmp_path / "dispatch.toml"), "--data", str(tmp_path / "data")]


def _type(monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line)))


Out = pytest.CaptureFixture[str]


def _relays(folder: Path) -> dict[str, Relay]:
    """As delivery is told of them."""
    key = load_key(folder / "data", {}).key
    seal = Vault(role_key(key, "delivery"))
    return {relay.name: relay for relay in load(folder / "data/settings", "delivery", seal)[1].relays}


def test_a_secret_as_an_argument_is_refused_and_not_repeated(data: list[str], capsys: Out) -> None:
    for arguments in (
        ["relay", "add", "smart", "password=hunter2"],
        ["login", "set", "a", "password=hunter2"],
    ):
        assert run([*arguments, *data]) == os.EX_USAGE
        said = capsys.readouterr()
        assert "--password" in said.err
        assert "hunter2" not in said.err + said.out


def test_without_a_terminal_the_password_must_be_piped_in(
    data: list[str], capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    _type(monkeypatch, b"")
    assert run(["login", "add", "scanner", *data]) == os.EX_USAGE
    assert "--password-stdin" in capsys.readouterr().err
    _type(monkeypatch, b"\n")
    assert run(["login", "add", "scanner", "--password-stdin", *data]) == os.EX_USAGE
    assert "empty password" in capsys.readouterr().err


def test_a_hash_fits_its_password(capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    _type(monkeypatch, "pässword \r\n".encode())
    assert run(["login", "hash", "--password-stdin", "--json"]) == os.EX_OK
    hashed = json.loads(capsys.readouterr().out)["hash"]
    assert verify_password("pässword ".encode(), hashed)


def test_a_relays_password_is_kept_and_never_shown(
    data: list[str], capsys: Out, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _type(monkeypatch, b"hunter2-hunter2\n")
    add = ["relay", "add", "smart", "host=mail.example.org", "username=me", "--password-stdin"]
    assert run([*add, *data]) == os.EX_OK
    assert run(["relay", "list", "--json", *data]) == os.EX_OK
    assert run(["config", "list", *data]) == os.EX_OK
    said = capsys.readouterr().out
    assert '"password": "***"' in said
    assert "hunter2" not in said
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


def test_secrets_of_access_tokens_come_from_a_pipe_or_a_file_and_are_never_shown(
    data: list[str], capsys: Out, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = ["host=x", "username=me@a.example", "oauth_provider=google", "oauth_client_id=id"]
    (tmp_path / "consent").write_text("refresh-refresh\r\n")
    _type(monkeypatch, b"hush-hush\n")
    secrets = ["--secret-from", "oauth-client-secret=-", "--secret-from"]
    refresh = f"oauth_refresh_token={tmp_path / 'consent'}"
    assert run(["relay", "add", "mail", *keys, *secrets, refresh, *data]) == os.EX_OK
    relay = _relays(tmp_path)["mail"]
    assert (relay.oauth_client_secret, relay.oauth_refresh_token) == ("hush-hush", "refresh-refresh")

    # Of several lines, and in place of the other two.
    pem = dkim_keys.generate("rsa")
    account = json.dumps({"client_email": "a@project.example", "private_key": pem}, indent=2)
    (tmp_path / "account.json").write_text(account)
    without = ["oauth_client_id=", "oauth_client_secret=", "oauth_refresh_token="]
    from_file = ["--secret-from", f"oauth_service_account={tmp_path / 'account.json'}"]
    assert run(["relay", "set", "mail", *without, *from_file, *data]) == os.EX_OK
    assert json.loads(_relays(tmp_path)["mail"].oauth_service_account) == json.loads(account)

    (tmp_path / "consent").unlink()
    (tmp_path / "account.json").unlink()
    assert run(["relay", "list", *data]) == os.EX_OK
    said = capsys.readouterr()
    assert 'oauth_service_account = "***"' in said.out
    hidden = ("hush-hush", "refresh-refresh", pem.splitlines()[1])
    assert not [secret for secret in hidden if secret in said.out + said.err]
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not [secret for secret in hidden if secret.encode() in everything]


def test_a_secret_that_cannot_be_taken_says_why_and_changes_nothing(
    data: list[str], capsys: Out, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(["relay", "add", "smart", "host=mail.example.org", *data]) == os.EX_OK
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "large").write_bytes(b"hush" * (32 << 10))
    (tmp_path / "latin").write_bytes(b"hush\xe9")
    _type(monkeypatch, b"hush\n")
    for code, told, *arguments in (
        (os.EX_USAGE, "--secret oauth_client_secret", "oauth_client_secret=hush"),
        (os.EX_USAGE, "oauth_client_id is no key that is secret", "--secret", "oauth_client_id"),
        (os.EX_USAGE, "is no KEY=FILE", "--secret-from", "oauth_client_secret"),
        (os.EX_USAGE, "no terminal", "--secret", "oauth_client_secret"),
        (os.EX_USAGE, "several lines", "--secret", "dkim_key"),
        (os.EX_USAGE, "given twice", "--secret", "password", "--secret-from", "password=-"),
        (os.EX_USAGE, "one secret", "--secret-from", "password=-", "--secret-from", "dkim_key=-"),
        (os.EX_NOINPUT, "absent cannot be read", "--secret-from", f"password={tmp_path}/absent"),
        (os.EX_DATAERR, "is empty", "--secret-from", f"password={tmp_path}/empty"),
        (os.EX_DATAERR, "that is no secret", "--secret-from", f"password={tmp_path}/large"),
        (os.EX_DATAERR, "is not UTF-8", "--secret-from", f"password={tmp_path}/latin"),
        (os.EX_DATAERR, "is no use without oauth_provider", "--secret-from", "oauth_client_secret=-"),
    ):
        assert run(["relay", "set", "smart", *arguments, *data]) == code, arguments
        said = capsys.readouterr()
        assert told in said.err, arguments
        assert "hush" not in said.err + said.out
    assert run(["rule", "add", "r", "recipient=*", "--secret", "password", *data]) == os.EX_USAGE
    assert _relays(tmp_path)["smart"].password == ""


def test_a_key_is_made_signs_at_once_and_its_record_is_printed(
    data: list[str], capsys: Out, tmp_path: Path
) -> None:
    add = ["relay", "add", "smart", "host=mail.example.org"]
    assert run([*add, *data]) == os.EX_OK
    generate_both = ["dkim", "generate", "smart", "--selector", "one", "--keys", "both"]
    assert run([*generate_both, *data]) == os.EX_USAGE
    assert "--domain" in capsys.readouterr().err
    assert run([*generate_both, "--domain", "example.org", *data]) == os.EX_OK
    printed = capsys.readouterr()
    relay = _relays(tmp_path)["smart"]
    assert relay.dkim_domain == "example.org"
    keys = [(selector, dkim_keys.load(pem)) for selector, pem in relay.private_keys()]
    assert [(selector, key.kind) for selector, key in keys] == [("one", "rsa"), ("one-ed25519", "ed25519")]
    for selector, key in keys:
        strings = dkim_keys.zone_strings(dkim_keys.dns_record(key))
        assert f"{selector}._domainkey.example.org. IN TXT {strings}\n" in printed.out
    assert "PRIVATE" not in printed.out + printed.err
    assert b"PRIVATE" not in b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())

    assert run(["dkim", "show", "--json", *data]) == os.EX_OK
    records = json.loads(capsys.readouterr().out)
    assert [(one["relay"], one["name"]) for one in records] == [
        ("smart", "one._domainkey.example.org"),
        ("smart", "one-ed25519._domainkey.example.org"),
    ]
    assert [one["text"] for one in records] == [dkim_keys.dns_record(key) for _, key in keys]
    assert run(["dkim", "show", "other", *data]) == os.EX_OK
    assert "other signs nothing" in capsys.readouterr().out


def test_a_new_key_takes_the_place_of_the_old_ones_and_not_their_selector(
    data: list[str], capsys: Out, tmp_path: Path
) -> None:
    assert run(["relay", "add", "smart", "host=mail.example.org", *data]) == os.EX_OK
    again = ["dkim", "generate", "smart", "--keys", "ed25519", *data]
    assert run([*again, "--domain", "example.org", "--selector", "Old"]) == os.EX_OK
    before = _relays(tmp_path)["smart"]
    capsys.readouterr()
    assert run([*again, "--selector", "old"]) == os.EX_USAGE
    assert "choose another" in capsys.readouterr().err
    assert _relays(tmp_path)["smart"] == before
    assert run([*again, "--selector", "new"]) == os.EX_OK
    assert "leave Old._domainkey.example.org in DNS" in capsys.readouterr().err
    assert run([*again, "--json"]) == os.EX_OK
    told = json.loads(capsys.readouterr().out)
    assert (len(told["records"]), told["unconfirmed"], told["remarks"]) == (1, [], [])
    assert run([*again, "--selector", "new"]) == os.EX_OK
    after = _relays(tmp_path)["smart"]
    assert [selector for selector, _ in after.private_keys()] == ["new"]
    assert after.dkim_key != before.dkim_key
    assert run(["dkim", "generate", "absent", *data]) == os.EX_DATAERR
    assert run([*again, "--selector", "no selector"]) == os.EX_DATAERR
    assert "relays.smart.dkim_selector" in capsys.readouterr().err


def test_every_mistake_of_a_command_is_told(data: list[str], capsys: Out) -> None:
    assert run(["relay", "add", "smart", "port=0", "max_concurency=3", *data]) == os.EX_DATAERR
    told = capsys.readouterr().err
    for key in ("relays.smart.port", "relays.smart.max_concurrency", "relays.smart.host"):
        assert key in told
    assert run(["relay", "add", "smart", "nonsense", *data]) == os.EX_USAGE
    assert run(["relay", "set", "smart", *data]) == os.EX_USAGE
    assert run(["rule", "add", "r", "sender=a.org", "relays=capture", "--password", *data]) == os.EX_USAGE


def test_the_key_is_shown_only_when_it_is_asked_for(data: list[str], capsys: Out, tmp_path: Path) -> None:
    assert run(["vault", "show", *data]) == os.EX_CONFIG, "there is none yet"
    assert run(["relay", "list", *data]) == os.EX_OK
    capsys.readouterr()
    line = (tmp_path / "data/.dispatch-key").read_text().strip()
    secret = line.rpartition(".")[2]
    assert run(["vault", "show", *data]) == os.EX_OK
    assert run(["vault", "show", "--json", *data]) == os.EX_OK
    assert secret not in capsys.readouterr().out
    assert run(["vault", "show", "--reveal", *data]) == os.EX_OK
    assert capsys.readouterr().out.strip() == line


def test_a_certificate_is_uploaded_shown_and_removed(data: list[str], capsys: Out, tmp_path: Path) -> None:
    own = generate(["mail.example.org"], [], now=datetime.now(UTC))
    (tmp_path / "chain.pem").write_bytes(own.chain_pem)
    (tmp_path / "key.pem").write_bytes(own.private_key)
    upload = ["cert", "upload", str(tmp_path / "chain.pem")]
    assert run([*upload, str(tmp_path / "chain.pem"), *data]) == os.EX_DATAERR
    assert "no private key" in capsys.readouterr().err
    assert run([*upload, str(tmp_path / "absent.pem"), *data]) == os.EX_NOINPUT
    assert run([*upload, str(tmp_path / "key.pem"), *data]) == os.EX_OK
    capsys.readouterr()
    assert run(["cert", "show", "--json", *data]) == os.EX_OK
    shown = json.loads(capsys.readouterr().out)
    assert (shown["fingerprint"], shown["made_here"]) == (own.fingerprint, False)
    assert run(["cert", "remove", *data]) == os.EX_OK
    capsys.readouterr()
    assert run(["cert", "show", *data]) == os.EX_OK
    assert "no certificate" in capsys.readouterr().out


def test_where_there_is_no_data_directory_it_is_said(tmp_path: Path, capsys: Out) -> None:
    assert run(["login", "list", "--data", str(tmp_path / "none")]) == os.EX_NOINPUT
    assert "does not exist" in capsys.readouterr().err


def test_a_database_of_a_later_version_is_left_alone(data: list[str], capsys: Out, tmp_path: Path) -> None:
    assert run(["relay", "add", "a", "host=a.example.org", *data]) == os.EX_OK
    with sqlite3.connect(tmp_path / "data/settings.db") as database:
        database.execute("PRAGMA user_version = 999")
    assert run(["relay", "add", "b", "host=b.example.org", *data]) == os.EX_CONFIG
    assert "settings.db has schema 999" in capsys.readouterr().err


def test_what_is_no_utf_8_is_refused_in_words(data: list[str], capsys: Out) -> None:
    assert run(["relay", "add", "smart", "host=caf\udce9", *data]) == os.EX_USAGE
    assert "UTF-8" in capsys.readouterr().err


def test_a_relay_is_tried_out_where_no_relay_runs(data: list[str], capsys: Out) -> None:
    assert run(["relay", "test", "smart", "host=127.0.0.1", "port=1", *data]) == os.EX_UNAVAILABLE
    assert "connection refused" in capsys.readouterr().out
    assert run(["relay", "test", "smart", *data]) == os.EX_DATAERR
    assert "there is no relay smart" in capsys.readouterr().err
    assert run(["relay", "test", "smart", "host=\udcff", *data]) == os.EX_USAGE
    assert "UTF-8" in capsys.readouterr().err
    assert run(["relay", "list", *data]) == os.EX_OK
    assert capsys.readouterr().out == "There is no relay.\n", "nothing was stored"


def test_a_relay_that_delivers_directly_is_tried_out_with_a_recipient(data: list[str], capsys: Out) -> None:
    direct = ["relay", "test", "out", "kind=direct", "port=1"]
    assert run([*direct, *data]) == os.EX_DATAERR
    assert "name a recipient (--to)" in capsys.readouterr().err
    assert run([*direct, "--to", "x@[127.0.0.1]", *data]) == os.EX_UNAVAILABLE
    out = capsys.readouterr().out
    assert "connect to 127.0.0.1:1" in out
    assert "the domain's host could not be used (connect): connection refused" in out


def test_addresses_are_suppressed_by_command(
    data: list[str], capsys: Out, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(["suppression", "add", "gone@example.net", "--reason", "asked to", *data]) == os.EX_OK
    assert capsys.readouterr().out == "1 address added to the suppression list.\n"
    (tmp_path / "list").write_text("gone@example.net\n\nleft@example.net\n")
    assert run(["suppression", "add", "--file", str(tmp_path / "list"), "--json", *data]) == os.EX_OK
    assert json.loads(capsys.readouterr().out)["count"] == 1
    assert run(["suppression", "list", "gone", *data]) == os.EX_OK
    assert capsys.readouterr().out.endswith("gone@example.net  (operator)  asked to\n")
    assert run(["suppression", "remove", "gone@example.net", *data]) == os.EX_OK
    capsys.readouterr()
    assert run(["suppression", "list", "--json", *data]) == os.EX_OK
    assert [each["address"] for each in json.loads(capsys.readouterr().out)] == ["left@example.net"]
    assert run(["suppression", "remove", "gone@example.net", *data]) == os.EX_OK
    assert capsys.readouterr().out == "Nothing is changed: not there.\n"


def test_nobody_is_suppressed_by_mistake(data: list[str], capsys: Out) -> None:
    assert run(["suppression", "add", *data]) == os.EX_USAGE
    assert run(["suppression", "add", "nobody", *data]) == os.EX_DATAERR
    assert "'nobody' is no address" in capsys.readouterr().err
    assert run(["suppression", "list", *data]) == os.EX_OK
    assert capsys.readouterr().out == "No address is suppressed.\n"
