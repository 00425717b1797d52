"""The small deployment: a handful of variables make an authenticated relay with one upstream.

::

    RELAY_HOST RELAY_PORT RELAY_USERNAME RELAY_PASSWORD        what clients connect to, and log in with
    UPSTREAM_HOST UPSTREAM_PORT UPSTREAM_USER UPSTREAM_PASS    where all of it goes
    UPSTREAM_FROM UPSTREAM_REPLYTO                             in whose name
    DISPATCH_INTERVAL                                          seconds between deliveries; 0: at once

They become values of ordinary settings, as if the environment had them by their own names; so whatever they
do not say a `DISPATCH_<SECTION>__<KEY>`, a settings file or `--set` still can.

It is asked for by naming the upstream or the login. Host and port of the relay alone do not: Kubernetes makes
`RELAY_PORT=tcp://10.0.0.1:25` for any service that is called relay. Where it is asked for, everything that is
missing or wrong is told at once.

In this mode: content goes on verbatim but for our trace; clients may come from anywhere and must log in, also
without TLS (said loudly); `RELAY_HOST` is how the relay greets, and is bound only if it is an address of its
own.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from dispatch.security.passwords import what_is_wrong_with_hash
from dispatch.settings.mistakes import Mistake, Origin
from dispatch.settings.sources import Given

ASKING = ("UPSTREAM_HOST", "RELAY_USERNAME", "RELAY_PASSWORD")
"""Each of these says that the mode is meant."""
INTERVAL = "DISPATCH_INTERVAL"
VARIABLES = frozenset(
    {
        *("RELAY_HOST", "RELAY_PORT", "RELAY_USERNAME", "RELAY_PASSWORD"),
        *("UPSTREAM_HOST", "UPSTREAM_PORT", "UPSTREAM_USER", "UPSTREAM_USERNAME"),
        *("UPSTREAM_PASS", "UPSTREAM_PASSWORD", "UPSTREAM_FROM", "UPSTREAM_REPLYTO"),
        INTERVAL,
    }
)
UPSTREAM = "upstream"
"""What the relay is called in this mode."""
WARNING = (
    "started from RELAY_* and UPSTREAM_* variables: clients may log in from anywhere, also without TLS, and"
    " then their password can be read on the way; keep this port in a network of your own"
)
_PORT = re.compile(r"[0-9]{1,5}")
_SERVICE = re.compile(r"(tcp|udp)://", re.IGNORECASE)
_USER = re.compile(r"\S{1,128}")


class Deployment(NamedTuple):
    given: tuple[Given, ...]
    mistakes: tuple[Mistake, ...]


def is_ours(address: str) -> bool:
    """Whether this machine has the address: asked of the kernel, by a socket that never listens."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def deployment(environ: Mapping[str, str], ours: Callable[[str], bool] = is_ours) -> Deployment | None:
    """What the variables say, or None where nobody asks for this mode. `ours`: whether an address is."""
    if not any(environ.get(name) for name in ASKING):
        return None
    reader = _Reader(environ, ours)
    reader.read()
    return Deployment(tuple(reader.given), tuple(reader.mistakes))


class _Reader:
    def __init__(self, environ: Mapping[str, str], ours: Callable[[str], bool]) -> None:
        self._environ = environ
        self._ours = ours
        self.given: list[Given] = []
        self.mistakes: list[Mistake] = []

    def read(self) -> None:
        user = (self._needed("RELAY_USERNAME", "the name that clients log in with") or "").lower()
        self._door()
        if user and not _USER.fullmatch(user):
            self._wrong("RELAY_USERNAME", "holds a space, or is too long", "write one word")
            user = ""
        hashed = self._hash()
        if user and hashed:
            self._give(f"logins.{user}", "password", hashed, "RELAY_PASSWORD")
            self._give(f"logins.{user}", "allowed_cidrs", "0.0.0.0/0, ::/0", "RELAY_USERNAME")
        self._upstream()

    def _door(self) -> None:
        """What clients connect to."""
        if port := self._port("RELAY_PORT"):
            self._give("listener", "ports", port, "RELAY_PORT")
        else:
            self._give("listener", "ports", "25", "RELAY_PORT")
        if host := self._said("RELAY_HOST"):
            self._give("listener", "server_name", _greeting(host), "RELAY_HOST")
            if _is_address(host) and self._ours(host):
                self._give("listener", "bind", host, "RELAY_HOST")
        for key in ("require_auth", "allow_unsecure_auth"):
            self._give("listener", key, "true", "RELAY_USERNAME")
        self._give("listener", "tls_ports", "", "RELAY_USERNAME")

    def _upstream(self) -> None:
        relay = f"relays.{UPSTREAM}"
        if host := self._needed("UPSTREAM_HOST", "the name or address of the host that takes the mail"):
            self._give(relay, "host", host, "UPSTREAM_HOST")
        self._give(relay, "port", self._port("UPSTREAM_PORT") or "587", "UPSTREAM_PORT")
        self._give(relay, "tls", "auto", "UPSTREAM_HOST")
        self._give(relay, "verbatim", "true", "UPSTREAM_HOST")
        user, user_by = self._either("UPSTREAM_USER", "UPSTREAM_USERNAME")
        password, password_by = self._either("UPSTREAM_PASS", "UPSTREAM_PASSWORD")
        if user and not password:
            self._wrong("UPSTREAM_PASS", "is missing", f"{user_by} is set: set its password, or neither")
        elif password and not user:
            self._wrong("UPSTREAM_USER", "is missing", f"{password_by} is set: set its user, or neither")
        elif user and password:
            self._give(relay, "username", user, user_by)
            self._give(relay, "password", password, password_by)
            self._give(relay, "auth", "plain, login", user_by)
            self._give(relay, "allow_unsecure_auth", "true", user_by)
        for variable, key in (("UPSTREAM_FROM", "envelope_from"), ("UPSTREAM_REPLYTO", "reply_to")):
            if value := self._said(variable):
                self._give(relay, key, value, variable)
        if interval := self._said(INTERVAL):
            if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", interval):
                self._wrong(INTERVAL, f"{interval!r} is no number", "write seconds, or 0 for at once")
            else:
                self._give(relay, "flush_interval_seconds", interval, INTERVAL)

    def _hash(self) -> str:
        hashed = self._needed("RELAY_PASSWORD", "a bcrypt hash of the password: `dispatch login hash`")
        if not hashed:
            return ""
        wrong = what_is_wrong_with_hash(hashed)
        if wrong is not None:
            remedy = (
                "make one with `dispatch login hash`; in a compose file write $$ for each $,"
                " in a shell put it in single quotes"
            )
            self._wrong("RELAY_PASSWORD", wrong, remedy)
            return ""
        return hashed

    def _port(self, variable: str) -> str:
        said = self._said(variable)
        if said and _SERVICE.match(said):
            what = f"{said!r} was put there for a service of that name"
            self._wrong(variable, what, f"set {variable} to a number, or give the service another name")
        elif said and not (_PORT.fullmatch(said) and 1 <= int(said) <= 65_535):
            self._wrong(variable, f"{said!r} is no port", "write a number from 1 to 65535")
        else:
            return said
        return ""

    def _either(self, *variables: str) -> tuple[str, str]:
        """The value of a variable that has two names, and the name that it was given by."""
        said = [(value, name) for name in variables if (value := self._said(name))]
        if len({value for value, _ in said}) > 1:
            self._wrong(variables[1], f"says something else than {variables[0]}", "set one of the two")
        return said[0] if said else ("", variables[0])

    def _said(self, variable: str) -> str:
        return self._environ.get(variable, "").strip()

    def _needed(self, variable: str, what: str) -> str:
        said = self._said(variable)
        if not said:
            self._wrong(variable, "is missing", f"set it to {what}")
        return said

    def _give(self, table: str, name: str, value: str, variable: str) -> None:
        origin = Origin("environment", variable)
        for each, said in self._with_name(table, name, value):
            self.given.append(Given(table, each, said, True, origin, f"{table}.{each}"))

    def _with_name(self, table: str, name: str, value: str) -> Iterator[tuple[str, str]]:
        """A table that there may be more of is made by its name."""
        _, dot, called = table.partition(".")
        if dot:
            yield "name", called
        yield name, value

    def _wrong(self, variable: str, what: str, remedy: str) -> None:
        self.mistakes.append(Mistake(Origin("environment", variable), variable, what, remedy))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _greeting(host: str) -> str:
    """A name to greet by; an address has none (RFC 5321 section 4.1.3 would want a literal)."""
    return "localhost" if _is_address(host) else host
