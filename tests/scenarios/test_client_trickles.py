"""A client sends a byte now and then and never gets anywhere: it is cut like one that says nothing."""

from __future__ import annotations

import socket
import time

from tests.scenarios.relay import BOUND_S, Relay

TIMEOUT_S = 1.0


def _cut_after(client: socket.socket, byte: bytes) -> bytes:
    """Send a byte every tenth of a second until we are cut; what was said to us meanwhile."""
    said = b""
    client.settimeout(0.1)
    deadline = time.monotonic() + BOUND_S
    while time.monotonic() < deadline:
        try:
            client.sendall(byte)
            part = client.recv(4096)
        except TimeoutError:
            continue
        except OSError:
            return said
        if not part:
            return said
        said += part
    raise AssertionError(f"not cut within {BOUND_S} s")


def test_command_trickles_in(relay: Relay) -> None:
    relay.configure(listener={"connection_timeout_seconds": TIMEOUT_S}).start()
    with socket.create_connection(("127.0.0.1", relay.port)) as client:
        assert b"421 4.4.2" in _cut_after(client, b"N")


def test_content_trickles_in(relay: Relay) -> None:
    relay.configure(listener={"connection_timeout_seconds": TIMEOUT_S}).start()
    with socket.create_connection(("127.0.0.1", relay.port)) as client:
        client.sendall(b"EHLO a\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n")
        assert b"421 4.4.2" in _cut_after(client, b"x")
    assert relay.json("inbox", "list")["total"] == 0
