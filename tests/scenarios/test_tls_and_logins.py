"""Real clients over TLS and with logins; and what an outside scanner says of our TLS."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from tests.scenarios.programs import needed
from tests.scenarios.relay import Relay, free_port, until
from tests.scenarios.secure_clients import CLIENTS, Mode, Way, unverified
from tests.scenarios.upstream import Upstream

from dispatch.security.passwords import hash_password

pytestmark = pytest.mark.timeout(600)  # programs may have to be installed first

USER, PASSWORD = "scanner@example.org", "Correct, horse: battery"
HASHED = hash_password(PASSWORD)


@pytest.fixture
def house(relay: Relay, upstream: Upstream) -> tuple[Relay, int]:
    """A relay with a login and a TLS port, for mail from nowhere but a login."""
    tls_port = free_port()
    relay.configure(upstream.table(), listener={"tls_ports": [tls_port], "require_auth": True})
    with relay.config.open("a") as file:
        file.write(f"[[logins]]\nname = {json.dumps(USER)}\npassword = {json.dumps(HASHED)}\n")
    relay.start()
    return relay, tls_port


@pytest.mark.parametrize("mode", ["starttls", "implicit"])
@pytest.mark.parametrize("client", list(CLIENTS))
def test_a_client_with_a_login_is_served(
    house: tuple[Relay, int], upstream: Upstream, client: str, mode: Mode, tmp_path: Path
) -> None:
    relay, tls_port = house
    port = tls_port if mode == "implicit" else relay.port
    assert CLIENTS[client](Way(port, mode, USER, PASSWORD), tmp_path), relay.log_text()
    until(lambda: upstream.delivered, "it is delivered")
    (arrived,) = upstream.delivered
    assert b"with ESMTPSA" in arrived.content and b"TLSv1.3" in arrived.content
    assert not CLIENTS[client](Way(port, mode, USER, PASSWORD + "!"), tmp_path)
    assert not CLIENTS[client](Way(port, mode), tmp_path)
    log = relay.log_text()
    assert PASSWORD not in log and HASHED not in log
    kinds = {line["kind"] for line in relay.said("denied")}
    assert kinds <= {"login", "unauthenticated"} and kinds


@pytest.mark.parametrize("client", ["smtplib", "curl"])
def test_in_clear_no_password_is_taken(house: tuple[Relay, int], client: str, tmp_path: Path) -> None:
    relay, _ = house
    assert not CLIENTS[client](Way(relay.port, "none", USER, PASSWORD), tmp_path)
    assert not relay.said("delivered")


def test_the_certificate_names_the_relay_and_stays_over_a_restart(house: tuple[Relay, int]) -> None:
    relay, tls_port = house
    shown = _certificate(tls_port)
    assert b"relay.test" in shown
    relay.stop()
    relay.start()
    assert _certificate(tls_port) == shown


def _certificate(port: int) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
        unverified().wrap_socket(connection, server_hostname="relay.test") as secured,
    ):
        der = secured.getpeercert(binary_form=True)
    assert der is not None
    return der


@pytest.mark.long
@pytest.mark.parametrize("starttls", [False, True], ids=["implicit", "starttls"])
def test_an_outside_scanner_finds_no_old_protocol_and_no_weak_cipher(
    house: tuple[Relay, int], starttls: bool, tmp_path: Path
) -> None:
    relay, tls_port = house
    scanner = needed("testssl", "testssl.sh")
    needed("hexdump", "bsdextrautils")
    report = tmp_path / "scan.json"
    target = ["--starttls", "smtp", f"127.0.0.1:{relay.port}"] if starttls else [f"127.0.0.1:{tls_port}"]
    scan = subprocess.run(
        [
            *(scanner, "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none"),
            *("--protocols", "--std", "--fs", "--renegotiation", "--crime", "--ccs-injection"),
            *("--connect-timeout", "20", "--openssl-timeout", "20", "--jsonfile", str(report), *target),
        ],
        capture_output=True,
        timeout=500,
        check=False,
    )
    findings = {each["id"]: each for each in json.loads(report.read_text())}
    assert {"TLS1_2", "TLS1_3", "SSLv3"} <= findings.keys(), scan.stdout.decode()[-2000:]
    for old in ("SSLv2", "SSLv3", "TLS1", "TLS1_1"):
        assert "not offered" in findings[old]["finding"], findings[old]
    for new in ("TLS1_2", "TLS1_3"):
        assert re.match("offered", findings[new]["finding"]), findings[new]
    bad = [each for each in findings.values() if each["severity"] in ("MEDIUM", "HIGH", "CRITICAL")]
    assert not bad, bad


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
def test_a_client_of_tls_1_1_is_refused(house: tuple[Relay, int]) -> None:
    _, tls_port = house
    old = unverified()
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", tls_port), timeout=20) as connection,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        old.wrap_socket(connection, server_hostname="relay.test")
