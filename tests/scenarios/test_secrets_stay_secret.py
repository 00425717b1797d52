"""Secrets of the settings are in no file of the data directory, no process's face, and no line of the log."""

from __future__ import annotations

import base64
import os
import signal
import smtplib
import ssl
from pathlib import Path

import pytest
from tests.scenarios.relay import BOUND_S, ROLES, Relay, until
from tests.scenarios.upstream import Upstream

from dispatch.security.passwords import hash_password

CLEAR = "correct-horse-battery"
UPSTREAM_SECRET = "staple-8471-upstream"
PRIVATE_KEY = b"PRIVATE KEY-----"


def starttls(relay: Relay) -> smtplib.SMTP:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client = relay.client()
    assert client.starttls(context=context)[0] == 220
    client.ehlo()
    return client


def shown_certificate(relay: Relay) -> bytes | None:
    with starttls(relay) as client:
        assert isinstance(client.sock, ssl.SSLSocket)
        return client.sock.getpeercert(binary_form=True)


def may_log_in(relay: Relay, user: str, password: str) -> bool:
    with starttls(relay) as client:
        try:
            return client.login(user, password)[0] == 235
        except smtplib.SMTPAuthenticationError:
            return False


def _traces(secrets: list[bytes], places: dict[str, bytes]) -> list[tuple[str, bytes]]:
    return [(place, secret) for place, content in places.items() for secret in secrets if secret in content]


def _files(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in folder.rglob("*"):
        try:
            found[str(path)] = path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:
            # A database's journal comes and goes.
            continue
    return found


def _faces(pids: list[int]) -> dict[str, bytes]:
    names = ("environ", "cmdline")
    return {f"{pid} {name}": Path(f"/proc/{pid}/{name}").read_bytes() for pid in pids for name in names}


@pytest.fixture
def configured(relay: Relay, upstream: Upstream) -> Relay:
    """With a login and a relay's password in its file."""
    hashed = hash_password(CLEAR, rounds=4)
    relay.configure(
        upstream.table(username="us", password=UPSTREAM_SECRET, allow_unsecure_auth=True),
        listener={"tls_ports": []},
    )
    with relay.config.open("a") as file:
        file.write(f'[[logins]]\nname = "scanner"\npassword = "{hashed}"\n')
    return relay


def _secrets(configured: Relay) -> list[bytes]:
    [hashed] = [
        line.split('"')[1] for line in configured.config.read_text().splitlines() if "dispatch1$" in line
    ]
    plain = base64.b64encode(f"\0us\0{UPSTREAM_SECRET}".encode())
    key = configured.data.joinpath(".dispatch-key").read_bytes().strip().rpartition(b".")[2]
    return [CLEAR.encode(), hashed.encode(), UPSTREAM_SECRET.encode(), plain, PRIVATE_KEY, key]


def test_wherever_one_looks(configured: Relay) -> None:
    configured.start()
    assert may_log_in(configured, "scanner", CLEAR)
    assert not may_log_in(configured, "scanner", "wrong")
    message_id = configured.send()
    until(lambda: configured.said("retrying") or configured.said("delivered"), "the password was needed")
    os.kill(configured.pid, signal.SIGHUP)
    until(lambda: configured.said("settings_published", number=2), "they are published again")
    shown = [configured.cli("history", "show", message_id), configured.cli("config", "list")]
    shown += [configured.cli(verb, "list") for verb in ("login", "relay")]
    secrets = _secrets(configured)
    assert all(len(secret) > 10 for secret in secrets)

    pids = [configured.pid, *map(configured.pid_of, ROLES)]
    assert not _traces(secrets, _faces(pids))
    files = _files(configured.data)
    assert any(name.endswith("settings.db") for name in files) and len(files) > 15
    key = str(configured.data / ".dispatch-key")
    assert [place for place, _ in _traces(secrets, files)] == [key], "the key itself, for its owner only"
    assert configured.stop() == 0
    assert [place for place, _ in _traces(secrets, _files(configured.data))] == [key], "nor afterwards"
    log = {"log": configured.log_text().encode(), "commands": "".join(shown).encode()}
    assert not _traces(secrets, log)


def test_those_in_variables_are_the_supervisors_and_controls(configured: Relay) -> None:
    configured.environment["DISPATCH_RELAYS__UPSTREAM__PASSWORD"] = "another-" + UPSTREAM_SECRET
    configured.start()
    secret = [UPSTREAM_SECRET.encode()]
    others = [configured.pid_of(role) for role in ("intake", "delivery")]
    assert not _traces(secret, _faces(others))
    assert not _traces(secret, _files(configured.data))


def test_a_process_that_dies_gets_its_secret_again(configured: Relay) -> None:
    configured.start()
    since = configured.mark()
    os.kill(configured.pid_of("intake"), signal.SIGKILL)
    until(lambda: configured.said("child_ready", since=since, role="intake"), "intake is back", BOUND_S)
    assert may_log_in(configured, "scanner", CLEAR)
