"""Binding the ports, before any child exists and while we may still be root.

Each address of each port is tried by itself; what cannot be had is skipped, and said. All interfaces
means two sockets, one for IPv4 and one for IPv6, so that peers are seen with the address they have; a machine
without IPv6 just has one of them. Where port 25 was wanted and refused, 2525 is added at that address; where
no SMTP port could be had at all, 2525 is added at every address wanted. What fails for want of descriptors or
memory is neither: the port is nobody else's, and the start as a whole is what failed.

The sockets listen from here on: only `listen` proves that a port is ours (two sockets may be *bound* to one
port under SO_REUSEADDR), and a client that connects while intake still recovers its log waits for the
banner instead of being refused.

Trap: the protocol is given as IPPROTO_TCP, for asyncio sets TCP_NODELAY only on sockets that say so;
without it a pipelined session is a hundred times slower (Nagle against delayed acknowledgements).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dispatch.observe import Reporter
from dispatch.runtime.inheritance import Listener
from dispatch.runtime.shortage import SHORTAGE

SMTP_PORT = 25
FALLBACK_PORT = 2525

# Lower than net.core.somaxconn may be, higher than intake ever lets wait.
_BACKLOG = 1024
_RETRY_S = 0.05
_NO_SUCH_ADDRESS = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
_ALL = ("0.0.0.0", "::")  # noqa: S104 - all interfaces is the documented default of a relay


class Wanted(NamedTuple):
    """A port somebody asked for."""

    purpose: str
    """Goes with the socket to the child: `smtp`, `smtps`, `dashboard`, …"""
    port: int
    """0: any that is free."""
    addresses: tuple[str, ...] = ()
    """IP literals; empty: all interfaces."""


@dataclass(frozen=True)
class Listening:
    """What became of the ports: the sockets to hand on."""

    listeners: tuple[Listener, ...]

    def listening_ports(self, *purposes: str) -> list[int]:
        """At one address at least."""
        return sorted(
            {
                listener.socket.getsockname()[1]
                for listener in self.listeners
                if not purposes or listener.purpose in purposes
            }
        )

    def close(self) -> None:
        for listener in self.listeners:
            listener.socket.close()


def bind_listeners(
    wanted: Sequence[Wanted],
    report: Reporter,
    *,
    patience_s: float = 1.0,
    pause: Callable[[float], object] = time.sleep,
    smtp_port: int = SMTP_PORT,
    fallback_port: int = FALLBACK_PORT,
) -> Listening:
    """Bind what can be bound.

    `patience_s`, for all ports together: how long a port in use is tried again, since the
    children of an older set may still be closing it. Addresses that are no IP literals raise `ValueError`.
    Where the machine is short of something, `OSError`, and nothing stays bound: to be tried again.
    """
    binder = _Binder(report, time.monotonic() + patience_s, pause)
    try:
        _bind_all(binder, wanted, report, smtp_port, fallback_port)
    except BaseException:
        binder.bound.close()
        raise
    return binder.bound


def _bind_all(
    binder: _Binder, wanted: Sequence[Wanted], report: Reporter, smtp_port: int, fallback_port: int
) -> None:
    at_fallback: list[str] = []
    for want in wanted:
        refused_at = binder.bind(want)
        if want.purpose == "smtp" and want.port == smtp_port:
            at_fallback += refused_at
    smtp = [want for want in wanted if want.purpose in ("smtp", "smtps")]
    if smtp and not any(listener.purpose in ("smtp", "smtps") for listener in binder.listeners):
        report("nothing_bound", wanted=[want.port for want in smtp])
        at_fallback = [address for want in smtp for address in want.addresses or _ALL]
    addresses = tuple(dict.fromkeys(at_fallback))
    if addresses and not any(w.port == fallback_port for w in smtp):
        report("port_fallback", port=fallback_port, addresses=addresses)
        binder.bind(Wanted("smtp", fallback_port, () if addresses == _ALL else addresses))


class _Binder:
    def __init__(self, report: Reporter, deadline_s: float, pause: Callable[[float], object]) -> None:
        self._report = report
        self._deadline_s = deadline_s
        self._pause = pause
        self.listeners: list[Listener] = []

    @property
    def bound(self) -> Listening:
        return Listening(tuple(self.listeners))

    def bind(self, want: Wanted) -> list[str]:
        """Try every address; those where the port belongs to somebody else, or is not for us."""
        refused_at: list[str] = []
        port = want.port
        for address in want.addresses or _ALL:
            try:
                bound = self._bind_patiently(address, port)
            except OSError as error:
                if not want.addresses and error.errno in _NO_SUCH_ADDRESS:
                    self._report("address_family_absent", address=address, port=port)
                    continue
                reason = os.strerror(error.errno) if error.errno else str(error)
                if error.errno in SHORTAGE:
                    raise OSError(error.errno, reason, f"port {port} at {address}") from error
                self._report(
                    "port_refused",
                    purpose=want.purpose,
                    address=address,
                    port=port,
                    why=reason,
                    hint=_hint(error),
                )
                if error.errno not in _NO_SUCH_ADDRESS:
                    refused_at.append(address)
                continue
            # "Any port" is one port at all addresses.
            port = bound.getsockname()[1]
            self.listeners.append(Listener(want.purpose, bound))
        return refused_at

    def _bind_patiently(self, address: str, port: int) -> socket.socket:
        while True:
            try:
                return _listening_socket(address, port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() >= self._deadline_s:
                    raise
                self._pause(_RETRY_S)


def _listening_socket(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # Our own connections of before the restart may still be in TIME-WAIT.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setblocking(False)
        made.bind((address, port))
        made.listen(_BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


def _hint(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "another program listens there; `ss -ltnp` names it"
        case errno.EACCES | errno.EPERM:
            return "ports below 1024 need root or CAP_NET_BIND_SERVICE"
        case _:
            return "is this address one of this machine's?"
