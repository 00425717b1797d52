"""Starts that cannot be end with a code that a service manager understands, and say everything at once."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator

import pytest
from tests.scenarios.relay import Relay, free_port, until
from tests.scenarios.upstream import Upstream

FALLBACK_PORT = 2525


@pytest.fixture
def own_address() -> str:
    """Of this test alone: the fallback port is the same for everybody."""
    return f"127.{random.randrange(1, 250)}.{random.randrange(250)}.{random.randrange(2, 250)}"


@pytest.fixture
def taken_port(own_address: str) -> Iterator[int]:
    with socket.create_server((own_address, free_port())) as server:
        yield server.getsockname()[1]


def test_a_second_one_on_the_same_data(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table()).start()
    done = relay.cli_result("serve")
    assert done.returncode == os.EX_TEMPFAIL
    assert str(relay.pid).encode() in done.stderr, "it names the process that has the data"
    relay.send()
    until(lambda: upstream.delivered, "the first one is not disturbed")


def test_mistakes_in_the_settings_are_told_all_at_once(relay: Relay) -> None:
    relay.configure('name = "no good name"\nport = 70000\ntls = "perhaps"')
    relay.config.write_text(relay.config.read_text() + "[unheard_of]\nkey = 1\n")
    relay.environment["DISPATCH_LISTENER__MAX_CONNECTIONS"] = "many"
    done = relay.cli_result("serve", "--set", "spool.max_age_hours=-1")
    assert done.returncode == os.EX_CONFIG
    told = done.stderr.decode()
    for word in ("name", "port", "tls", "host", "unheard_of", "max_connections", "max_age_hours"):
        assert word in told, told
    assert not relay.data.exists(), "nothing was begun"
    assert relay.cli_result("config", "check", "--set", "spool.max_age_hours=-1").returncode == os.EX_CONFIG


def test_port_2525_where_no_port_can_be_had(relay: Relay, own_address: str, taken_port: int) -> None:
    relay.configure(listener={"ports": [taken_port], "bind": [own_address]}).start()
    assert relay.said("port_refused", port=taken_port)
    assert relay.said("nothing_bound")
    assert relay.said("port_fallback", port=FALLBACK_PORT)
    with socket.create_connection((own_address, FALLBACK_PORT), timeout=10) as client:
        assert client.recv(100).startswith(b"220 ")


def test_not_even_port_2525(relay: Relay, own_address: str, taken_port: int) -> None:
    with socket.create_server((own_address, FALLBACK_PORT)):
        relay.configure(listener={"ports": [taken_port], "bind": [own_address]}).start()
        assert relay.said("port_refused", port=FALLBACK_PORT)
        assert "another program" in relay.said("port_refused", port=FALLBACK_PORT)[0]["hint"]
        assert relay.queue() == [], "what waits is delivered all the same"
        assert relay.stop() == os.EX_OK


def test_a_data_directory_that_cannot_be_made(relay: Relay) -> None:
    relay.configure()
    (relay.folder / "file").write_text("")
    relay.data = relay.folder / "file" / "data"
    done = relay.cli_result("serve")
    assert done.returncode == os.EX_CANTCREAT
    assert b"cannot be made" in done.stderr
