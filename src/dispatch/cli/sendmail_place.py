"""Where the relay of this machine listens, for programs that need no rights and import nothing of it.

The settings file is a hint at most: no mistake in it is one here, and the relay was perhaps started with
others. So whoever was not told where to go speaks only to a server that greets as Dispatch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from dispatch.cli.sendmail_conversation import Conversation, Place, meet

HOST_VARIABLE = "DISPATCH_SENDMAIL_HOST"
SETTINGS_FILE = "/etc/dispatch/dispatch.toml"
LOOPBACK = ("127.0.0.1", "::1")
USUAL_PORTS = (25, 587, 2525)
FALLBACK_PORT = 2525
"""Where the relay listens if port 25 cannot be had."""


class Hints:
    """What the settings say of ports, addresses and the domain, as far as this user can read them."""

    def __init__(self, path: str, environment: Mapping[str, str]) -> None:
        tables = _tables(path or SETTINGS_FILE)
        listener, mail = tables.get("listener"), tables.get("mail")
        listener = listener if isinstance(listener, dict) else {}
        mail = mail if isinstance(mail, dict) else {}
        ports = environment.get("DISPATCH_LISTENER__PORTS", listener.get("ports"))
        bind = environment.get("DISPATCH_LISTENER__BIND", listener.get("bind"))
        domain = environment.get("DISPATCH_MAIL__APPEND_DOMAIN", mail.get("append_domain"))
        self.ports = tuple(int(word) for word in re.findall(r"\b\d{1,5}\b", str(ports or "")))
        self.hosts = _reachable(re.findall(r"[0-9A-Fa-f:.]{2,}", str(bind or "")))
        self.append_domain = domain.strip() if isinstance(domain, str) else ""


def _tables(path: str) -> Mapping[str, object]:
    if not os.access(path, os.R_OK):
        return {}
    import tomllib  # where there is no file, it is not needed

    try:
        with open(path, "rb") as file:  # noqa: PTH123  # pathlib would cost more than all else here
            return tomllib.load(file)
    except (OSError, ValueError):
        return {}


def _reachable(bind: Sequence[str]) -> tuple[str, ...]:
    """Where to meet a relay that listens there: at loopback if it can be."""
    if not bind:
        return LOOPBACK
    names = {"0.0.0.0": LOOPBACK[0], "::": LOOPBACK[1]}  # noqa: S104  # what stands in the settings
    hosts = {names.get(address, address) for address in bind}
    return tuple(sorted(hosts, key=lambda host: (host not in LOOPBACK, host)))


def find_relay(hints: Hints, host: str, port: int, *, verbose: bool = False) -> Conversation:
    """The relay that was named (`host` may have a port, too), or the one that the hints lead to.

    Raises `NotTaken`."""
    named = host or os.environ.get(HOST_VARIABLE, "")
    hosts: Sequence[str] = hints.hosts
    if named:
        named_host, own_port = _host_and_port(named)
        hosts, port = (named_host,), port or own_port
    ports = (port,) if port else (*hints.ports, FALLBACK_PORT) if hints.ports else USUAL_PORTS
    places: dict[Place, None] = dict.fromkeys((each, number) for number in ports for each in hosts)
    return meet(tuple(places), only_dispatch=not (named or port), verbose=verbose)


def _host_and_port(named: str) -> tuple[str, int]:
    """`relay.example.org`, `192.0.2.1:2525`, `::1`, `[::1]:2525`; the port is 0 where none is named."""
    match = re.fullmatch(r"\[([^\]]+)\](?::(\d{1,5}))?|([^:]+):(\d{1,5})", named.strip())
    if match is None:
        return named.strip(), 0
    return match[1] or match[3], int(match[2] or match[4] or 0)
