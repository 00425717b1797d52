"""The settings of mail that comes over HTTP: where, from whom, and the keys of programs."""

from __future__ import annotations

from typing import Annotated, Literal

from dispatch.settings import kinds
from dispatch.settings.keys import Section, live, restart
from dispatch.settings.kinds import NAME, Choice, Flag, ListOf, Number, Text
from dispatch.settings.quantities import AMOUNT, PORT, timeout

_FLAG = Flag()
_PUBLIC_ID = Text("key id", "[a-z2-7]{8,64}", "the part of the key between dsp_live_ and the next underline")
_SENDER = Text("address", r"[^\s<>@]+@[^\s<>@]+", "like noreply@example.org")
_DISPLAY_NAME = Text("name", r"[^\x00-\x1f\x7f]{1,128}", "up to 128 characters")


class Api(Section, frozen=True, kw_only=True):
    """Where programs hand mail in over HTTP, and who may. Every request carries a key (`[[api_keys]]`)."""

    ports: Annotated[
        tuple[int, ...],
        restart("supervisor", ListOf(PORT), "Ports for HTTP without TLS. An empty list: none."),
    ] = (8025,)
    tls_ports: Annotated[
        tuple[int, ...],
        restart(
            "supervisor",
            ListOf(PORT),
            "Ports for HTTPS, with the certificate of the SMTP listener. An empty list: none.",
        ),
    ] = (8026,)
    bind: Annotated[
        tuple[str, ...],
        restart(
            "supervisor",
            ListOf(kinds.IpAddress(), at_least=1),
            "Addresses of this machine on which each port listens. :: and 0.0.0.0 are all of them.",
        ),
    ] = ("::", "0.0.0.0")  # noqa: S104  # reachable by design; who may use it is allowed_cidrs
    allowed_cidrs: Annotated[
        tuple[str, ...],
        live(
            "intake",
            ListOf(kinds.Network()),
            """Networks from which requests are answered; all others get 403, whatever key they have. An
            empty list is nobody.""",
        ),
    ] = ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
    trusted_proxies: Annotated[
        tuple[str, ...],
        live(
            "intake",
            ListOf(kinds.Network()),
            """Networks of proxies whose `Forwarded` and `X-Forwarded-For` are believed, from the right to the
            first address that is none of theirs. An empty list is nobody.""",
        ),
    ] = ()
    max_body_bytes: Annotated[
        int, live("intake", Number(1024, 1 << 30, "bytes"), "The largest body of a request; beyond it, 413.")
    ] = 41_943_040
    body_memory_mb: Annotated[
        int,
        live(
            "intake",
            Number(1, 1 << 20, "MiB"),
            """Memory for the bodies of all requests together, as long as they are looked at; what is made of
            them takes about twice as much again. A body for which there is no room is answered 503.""",
        ),
    ] = 64
    max_connections: Annotated[
        int, live("intake", AMOUNT, "Connections at once, of all clients; one more is answered 503.")
    ] = 1000
    max_requests: Annotated[
        int, live("intake", AMOUNT, "Requests under way at once; one more is answered 503.")
    ] = 200
    request_timeout_seconds: Annotated[
        float,
        live("intake", timeout(), "How long a request may take to arrive, and its connection may be idle."),
    ] = 60.0
    rate_per_address: Annotated[
        str, live("intake", kinds.RateList(), "How many messages are taken from one address (IPv6: a /64).")
    ] = "none"
    rate_per_key: Annotated[
        str, live("intake", kinds.RateList(), "How many messages are taken with one key.")
    ] = "100/minute"
    rate: Annotated[
        str, live("intake", kinds.RateList(), "How many messages are taken over HTTP together.")
    ] = "none"


class ApiKey(Section, frozen=True, kw_only=True):
    """A key with which a program hands mail in over HTTP, each in a table `[[api_keys]]` of its own.
    `dispatch key create` makes one, shows it once, and keeps its hash here."""

    name: Annotated[str, live("intake", NAME, "What the key is called.", required=True)]
    key_id: Annotated[str, live("intake", _PUBLIC_ID, "The public part of the key.", required=True)] = ""
    hash: Annotated[
        str,
        live("intake", kinds.PasswordHash(), "The hash of its secret part.", secret=True, required=True),
    ] = ""
    enabled: Annotated[bool, live("intake", _FLAG, "One that is switched off is like a wrong one.")] = True
    allowed_cidrs: Annotated[
        tuple[str, ...],
        live(
            "intake",
            ListOf(kinds.Network()),
            "Networks from which it may be used, of those in api.allowed_cidrs.",
            default_words="all of them",
        ),
    ] = ()
    allowed_senders: Annotated[
        tuple[str, ...],
        live(
            "intake",
            kinds.AddressPatterns(),
            "Patterns of addresses that it may send from.",
            default_words="any sender",
        ),
    ] = ()
    allowed_recipients: Annotated[
        tuple[str, ...],
        live(
            "intake",
            kinds.AddressPatterns(),
            "Patterns of recipients that it may send to.",
            default_words="any recipient",
        ),
    ] = ()
    default_from: Annotated[
        str, live("intake", _SENDER, "Who a message is from that does not say it.", default_words="nobody")
    ] = ""
    default_from_name: Annotated[
        str, live("intake", _DISPLAY_NAME, "The name that goes with it.", default_words="none")
    ] = ""
    rate: Annotated[
        str,
        live("intake", kinds.RateList(), "How many messages are taken with it.", inherits="api.rate_per_key"),
    ] = "none"
    tags: Annotated[
        tuple[str, ...],
        live("intake", ListOf(NAME), "Tags that all of its mail gets.", default_words="none"),
    ] = ()
    priority: Annotated[
        Literal["high", "normal", "bulk"],
        live(
            "intake",
            Choice(("high", "normal", "bulk")),
            "The priority of its mail, where a message does not say another.",
        ),
    ] = "normal"
    relay: Annotated[
        str,
        live("intake", NAME, "The relay that all of its mail takes.", default_words="as the rules say"),
    ] = ""
    may_name_relay: Annotated[
        bool, live("intake", _FLAG, "A message may name its relay itself (`relay`).")
    ] = False
