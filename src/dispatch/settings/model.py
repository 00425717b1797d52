"""The settings: every key with its type, its default, its limits, its meaning, and who needs it.

This page is the only place where a key is declared. From it come the checks of what an operator wrote,
the names of the environment variables, `dispatch config`, the snapshots that the processes read, and
the reference page of the manual.

Rules:
- A key is here only if this version obeys it.
- Units end a name: `_seconds`, `_hours`, `_mb` (MiB), `_bytes`. Unlimited is `"none"`, and None here;
  sizes of messages say it with 0, as SIZE does (RFC 1870 section 4).
- Values are checked key by key; what depends on several keys is checked in `dispatch.settings.loading`.
"""

from __future__ import annotations

import typing
from typing import Annotated, Literal

import msgspec

from dispatch.observe import LEVELS, Level
from dispatch.policy.uncertain import UncertainPolicy
from dispatch.settings import kinds
from dispatch.settings.keys import Entry, Section, entries_of, live, restart
from dispatch.settings.kinds import Choice, Flag, ListOf, Number, Text
from dispatch.smtp.body import NewlinePolicy

_YEAR_HOURS = 24 * 365
_DAY_SECONDS = 86_400
_TERABYTE_MB = 1 << 20
_GIGABYTE = 1 << 30

_PORT = Number(1, 65_535)
_FLAG = Flag()
_AMOUNT = Number(1, 1_000_000)
_SWITCH = Choice(("auto", "off"))
_HOST_NAME = r"(?=.{1,255}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?"
_MESSAGE_SIZE = Number(0, 2 * _GIGABYTE, "bytes", zero="no limit")
_RETRIES = Number(0, 1_000_000, none=True)
_RETRY_DELAYS = ListOf(Number(0, _YEAR_HOURS * 3600, "seconds", whole=False), at_least=1, distinct=False)
_AGE = Number(0, _YEAR_HOURS, "hours", whole=False, none=True)
_UNCERTAIN_POLICY = Choice(typing.get_args(UncertainPolicy))
_MEBIBYTES = Number(0, _TERABYTE_MB, "MiB")
_NAME = Text(
    "name", r"(?=.{1,64}$)[a-z0-9]+(-[a-z0-9]+)*", "small letters, digits and single hyphens between them"
)


def _timeout(low: int = 1) -> Number:
    return Number(low, _DAY_SECONDS, "seconds", whole=False)


class Listener(Section, frozen=True, kw_only=True):
    """Where clients connect over SMTP, who may, and what one of them may use."""

    ports: Annotated[
        tuple[int, ...],
        restart(
            "supervisor",
            ListOf(_PORT),
            """Ports for SMTP. One that cannot be bound is skipped with a warning; where port 25 was wanted
            and cannot be had, or none could be bound, port 2525 is added. An empty list: no SMTP.""",
        ),
    ] = (25, 587)
    bind: Annotated[
        tuple[str, ...],
        restart(
            "supervisor",
            ListOf(kinds.IpAddress(), at_least=1),
            "Addresses of this machine on which each port listens. :: and 0.0.0.0 are all of them.",
        ),
    ] = ("::", "0.0.0.0")  # noqa: S104  # reachable by design; who may use it is allowed_cidrs
    server_name: Annotated[
        str,
        live(
            "intake delivery",
            Text("host name", _HOST_NAME, "letters, digits, hyphens and dots, like relay.example.org"),
            """The name that the relay goes by: in its greeting, in the Received field that it adds, and,
            unless a relay has its own helo_name, in the EHLO that it sends.""",
            default_words="the machine's host name",
        ),
    ] = "localhost"
    allowed_cidrs: Annotated[
        tuple[str, ...],
        live(
            "intake",
            ListOf(kinds.Network()),
            """Networks from which mail is taken. An empty list is nobody; everybody is written
            ["0.0.0.0/0", "::/0"], and makes an open relay of a machine that strangers can reach.""",
        ),
    ] = ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
    max_message_bytes: Annotated[
        int,
        live(
            "intake",
            _MESSAGE_SIZE,
            "The largest message that is taken, counted as RFC 1870 says; announced with SIZE.",
        ),
    ] = 26_214_400
    max_recipients: Annotated[
        int,
        live("intake", Number(1, 100_000), "Recipients of one message; RFC 5321 asks for at least 100."),
    ] = 1000
    connection_timeout_seconds: Annotated[
        float,
        live(
            "intake",
            _timeout(),
            "How long a client may take for a command, or for a kibibyte of content; then it is cut.",
        ),
    ] = 60.0
    max_connections: Annotated[
        int, live("intake", _AMOUNT, "Connections at once, of all clients; one more is answered 421.")
    ] = 1000
    max_connections_per_ip: Annotated[
        int, live("intake", _AMOUNT, "Connections at once from one address; one more is answered 421.")
    ] = 100
    max_received: Annotated[
        int,
        live(
            "intake",
            Number(1, 1000),
            """Received fields that a message may carry. One with more has been going round in circles
            and is refused (RFC 5321 section 6.3).""",
        ),
    ] = 30
    max_own_received: Annotated[
        int,
        live(
            "intake",
            Number(0, 1000),
            "Received fields with this relay's own name that a message may carry before it is a loop.",
        ),
    ] = 2
    bare_newline: Annotated[
        NewlinePolicy,
        live(
            "intake",
            Choice(typing.get_args(NewlinePolicy)),
            """What happens to a message with a bare CR or LF: it is refused, or each is made a CRLF. The
            end of data is CRLF . CRLF in both cases and nothing else, so no mail can be smuggled.""",
        ),
    ] = "reject"


class Spool(Section, frozen=True, kw_only=True):
    """Where mail is kept, how long it is tried, and what happens when the disk fills."""

    directory: Annotated[
        str,
        restart(
            "supervisor intake delivery",
            Text("folder", r"/[^\x00\r\n]*", "an absolute path, like /var/lib/dispatch"),
            "The data directory: all that the relay writes is in it. --data sets it too.",
        ),
    ] = "/var/lib/dispatch"
    max_retries: Annotated[
        int | None,
        live(
            "delivery",
            _RETRIES,
            "Attempts after the first one, for each recipient. 0 is no retry.",
        ),
    ] = None
    retry_delays_seconds: Annotated[
        tuple[float, ...],
        live(
            "delivery",
            _RETRY_DELAYS,
            """The longest wait before each retry; the last one repeats. The wait itself is drawn between
            nothing and that, so that retries do not come in waves.""",
        ),
    ] = (30.0, 300.0, 1800.0, 7200.0)
    max_age_hours: Annotated[
        float | None,
        live("delivery", _AGE, "How long a message is tried; the attempt after that is the last one."),
    ] = 96.0
    failed_retention_days: Annotated[
        int,
        live(
            "delivery",
            Number(0, 3650, "days", zero="kept for ever"),
            "How long the content of a message that could not be delivered is kept for a retry.",
        ),
    ] = 7
    disk_warn_mb: Annotated[int, live("intake", _MEBIBYTES, "Free space below which the relay warns.")] = 1024
    disk_throttle_mb: Annotated[
        int, live("intake", _MEBIBYTES, "Free space below which each message waits two seconds.")
    ] = 500
    disk_suspend_mb: Annotated[
        int,
        live(
            "intake",
            _MEBIBYTES,
            "Free space below which nothing is accepted (452); what is here is still delivered.",
        ),
    ] = 200
    segment_mb: Annotated[
        int,
        restart(
            "intake delivery", Number(1, 4096, "MiB"), "Size of one file of the mail log and the ledger."
        ),
    ] = 64
    content_memory_mb: Annotated[
        int,
        restart(
            "intake delivery",
            Number(1, 65_536, "MiB"),
            """What intake may hold of messages in memory at once; beyond it content goes through files, and
            clients are read more slowly. In delivery a quarter of it may stand ready in front of the relays,
            and 4 MiB at least in front of each.""",
        ),
    ] = 64


class Queue(Section, frozen=True, kw_only=True):
    """What happens to mail between its attempts."""

    uncertain_policy: Annotated[
        UncertainPolicy,
        live(
            "delivery",
            _UNCERTAIN_POLICY,
            """What follows when a message was sent whole and no reply came back, so that nobody knows
            whether it arrived (RFC 1047): try again and risk a duplicate, hold it for a person, or give up
            and risk a loss.""",
        ),
    ] = "retry"
    breaker_failures: Annotated[
        int,
        live("delivery", Number(1, 1000), "Failures of a relay, one after the other, that open its breaker."),
    ] = 5
    breaker_open_seconds: Annotated[
        float,
        live(
            "delivery",
            Number(1, 900, "seconds", whole=False),
            """How long an open breaker keeps mail from its relay before one message probes it. Each probe
            that fails doubles the wait, up to 900 seconds.""",
        ),
    ] = 30.0


class Logging(Section, frozen=True, kw_only=True):
    """What is written to the log, which is standard error."""

    level: Annotated[
        Level,
        restart(
            "supervisor intake delivery control",
            Choice(LEVELS),
            "The least important kind of line that is written.",
        ),
    ] = "info"
    format: Annotated[
        Literal["text", "json"],
        restart(
            "supervisor intake delivery control",
            Choice(("text", "json")),
            "Lines for people, or one JSON object a line.",
        ),
    ] = "text"
    mask_recipient: Annotated[
        bool,
        live(
            "control",
            _FLAG,
            "Addresses of recipients, and those in the words of a relay, are shortened: a***@example.org.",
        ),
    ] = True
    log_delivered: Annotated[bool, live("control", _FLAG, "A line for each delivered message.")] = True
    log_retrying: Annotated[
        bool, live("control", _FLAG, "A line for each attempt that is to be repeated.")
    ] = True
    log_denied: Annotated[bool, live("intake", _FLAG, "A line for each client that was turned away.")] = True


class Relay(Section, frozen=True, kw_only=True):
    """A next hop for mail, each in a table `[[relays]]` of its own. Without any, everything is captured:
    kept on this machine and sent nowhere. A single relay is the default; of several, one must say so.

    Outside the file a relay goes by its name: `--set relays.smarthost.port=587`,
    `DISPATCH_RELAYS__SMARTHOST__PORT=587`. A name that the file does not have makes a new relay."""

    name: Annotated[
        str,
        live(
            "intake delivery",
            _NAME,
            "What it is called in the log, the history and on the command line.",
            required=True,
        ),
    ]
    kind: Annotated[
        Literal["smtp", "capture"],
        live(
            "delivery",
            Choice(("smtp", "capture")),
            "An SMTP host, or capture: mail is kept in the local inbox and sent nowhere.",
        ),
    ] = "smtp"
    enabled: Annotated[
        bool,
        live(
            "delivery",
            _FLAG,
            "Mail for a relay that is switched off waits. It never goes to another relay by accident.",
        ),
    ] = True
    default: Annotated[bool, live("intake delivery", _FLAG, "Takes the mail that nothing else claims.")] = (
        False
    )
    host: Annotated[
        str,
        live(
            "delivery",
            Text("host", rf"({_HOST_NAME}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)", "a host name or an IP address"),
            "Where it listens. Must be given for an SMTP host.",
            default_words="none",
        ),
    ] = ""
    port: Annotated[int, live("delivery", _PORT, "The port that it listens on.")] = 25
    tls: Annotated[
        Literal["none"], live("delivery", Choice(("none",)), "How the connection is encrypted: not at all.")
    ] = "none"
    helo_name: Annotated[
        str,
        live(
            "delivery",
            Text("host name", _HOST_NAME, "letters, digits, hyphens and dots, like relay.example.org"),
            "How this relay introduces itself to the host.",
            inherits="listener.server_name",
        ),
    ] = ""
    max_concurrency: Annotated[int, live("delivery", Number(1, 10_000), "Connections to it at once.")] = 20
    max_message_bytes: Annotated[
        int,
        live(
            "intake",
            _MESSAGE_SIZE,
            "The largest message that it takes. Where it is the default relay, a larger one is not accepted.",
        ),
    ] = 0
    pipelining: Annotated[
        Literal["auto", "off"],
        live(
            "delivery", _SWITCH, "Commands are sent together where the host offers it (RFC 2920), or never."
        ),
    ] = "auto"
    chunking: Annotated[
        Literal["auto", "off"],
        live("delivery", _SWITCH, "Content is sent with BDAT where the host offers it (RFC 3030), or never."),
    ] = "auto"
    idle_seconds: Annotated[
        float,
        live("delivery", _timeout(0), "How long a connection is kept open for the next message."),
    ] = 30.0
    messages_per_connection: Annotated[
        int, live("delivery", _AMOUNT, "After so many messages a new connection is made.")
    ] = 1000
    connect_timeout_seconds: Annotated[
        float,
        live(
            "delivery",
            _timeout(),
            "How long connecting may take, all addresses of the host together. The greeting may then take the"
            " five minutes of RFC 5321.",
        ),
    ] = 30.0
    end_of_data_timeout_seconds: Annotated[
        float,
        live(
            "delivery",
            _timeout(),
            """How long the host may think after it has the whole message. Giving up earlier makes
            duplicates: RFC 5321 section 4.5.3.2.6 asks for ten minutes.""",
        ),
    ] = 600.0
    verbatim: Annotated[
        bool,
        live(
            "delivery",
            _FLAG,
            "Bcc and X-Dispatch-* fields are left in the message; they are removed otherwise.",
        ),
    ] = False
    max_retries: Annotated[
        int | None,
        live("delivery", _RETRIES, "As spool.max_retries, for this relay.", inherits="spool.max_retries"),
    ] = None
    retry_delays_seconds: Annotated[
        tuple[float, ...],
        live(
            "delivery",
            _RETRY_DELAYS,
            "As spool.retry_delays_seconds, for this relay.",
            inherits="spool.retry_delays_seconds",
        ),
    ] = (30.0, 300.0, 1800.0, 7200.0)
    max_age_hours: Annotated[
        float | None,
        live("delivery", _AGE, "As spool.max_age_hours, for this relay.", inherits="spool.max_age_hours"),
    ] = 96.0
    uncertain_policy: Annotated[
        UncertainPolicy,
        live(
            "delivery",
            _UNCERTAIN_POLICY,
            "As queue.uncertain_policy, for this relay.",
            inherits="queue.uncertain_policy",
        ),
    ] = "retry"


CAPTURE_RELAY = Relay(name="capture", kind="capture", default=True)
"""Takes everything where no relay is configured."""


class Rule(Section, frozen=True, kw_only=True):
    """Which relay takes which mail, each rule in a table `[[rules]]` of its own. It needs a condition, sender
    or recipient; where both are given, both must hold. The smaller priority goes first, then the narrower
    rule (by its recipient, then by its sender), then the one that stands first; the first that matches
    decides. A message whose recipients match different rules is split. What no rule matches takes the
    default relay.

    A condition is a list of patterns, of which one must match: an address (`alice@example.org`), a domain
    (`example.org` or `*@example.org`), the domains below one (`*.example.org`), or a glob
    (`news-*@example.org`; `*` is any run of characters, `?` is one). `*` alone is everybody, `<>` the null
    sender. Upper and lower case are the same in domains and not the same before the `@`. One text with
    commas is a list, too. `dispatch route simulate FROM TO` shows what the rules do."""

    name: Annotated[
        str,
        live(
            "delivery",
            _NAME,
            "What it is called in the log and on the command line.",
            required=True,
        ),
    ]
    priority: Annotated[
        int, live("delivery", Number(0, 1_000_000), "Rules with a smaller number are looked at first.")
    ] = 100
    enabled: Annotated[bool, live("delivery", _FLAG, "A rule that is switched off matches nothing.")] = True
    sender: Annotated[
        tuple[str, ...],
        live(
            "delivery",
            kinds.AddressPatterns(),
            "Patterns of the envelope's sender (MAIL FROM), not of the From field.",
            default_words="any sender",
        ),
    ] = ()
    recipient: Annotated[
        tuple[str, ...],
        live(
            "delivery",
            kinds.AddressPatterns(),
            "Patterns of the envelope's recipient (RCPT TO), not of the To field.",
            default_words="any recipient",
        ),
    ] = ()
    action: Annotated[
        Literal["relay", "hold"],
        live(
            "delivery",
            Choice(("relay", "hold")),
            "What happens to its mail: a relay takes it, or it is held for a person.",
        ),
    ] = "relay"
    relays: Annotated[
        tuple[str, ...],
        live(
            "delivery",
            ListOf(_NAME, at_least=1),
            """The relays that may take its mail, by name and in order. One that is switched off is passed
            over; the first that is left takes the mail, and what it does not take is tried there again, not
            at the next one. Where none is left the mail is held.""",
            default_words="none; one must be given unless the action is hold",
        ),
    ] = ()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting, checked. Made by `dispatch.settings.load`, or read from a snapshot."""

    listener: Listener = Listener()
    spool: Spool = Spool()
    queue: Queue = Queue()
    logging: Logging = Logging()
    relays: tuple[Relay, ...] = ()
    """As configured; what works with relays asks for `effective_relays`."""
    rules: tuple[Rule, ...] = ()

    def effective_relays(self) -> tuple[Relay, ...]:
        """The configured relays, or the one that captures everything."""
        return self.relays or (msgspec.structs.replace(CAPTURE_RELAY, **self.inherited(RELAYS)),)

    def default_relay(self) -> Relay:
        """Takes what nothing else claims. It may be disabled: then that mail is held, loudly."""
        relays = self.effective_relays()
        return next((relay for relay in relays if relay.default), relays[0])

    def inherited(self, section: str) -> dict[str, object]:
        """The values that a table of a repeated section has where it has none of its own."""
        values: dict[str, object] = {}
        for entry in KEYS[section].values():
            if entry.key.inherits:
                source, _, name = entry.key.inherits.partition(".")
                values[entry.name] = getattr(getattr(self, source), name)
        return values


RELAYS = "relays"
RULES = "rules"
REPEATED = {RELAYS: "relay", RULES: "rule"}
"""Sections of which there is a table for each of something, told apart by its name; and what it is."""
SECTIONS: dict[str, type[Section]] = {
    "listener": Listener,
    "spool": Spool,
    "queue": Queue,
    "logging": Logging,
    RELAYS: Relay,
    RULES: Rule,
}
"""In the order of the manual."""
KEYS = {name: entries_of(name, model, repeated=name in REPEATED) for name, model in SECTIONS.items()}
"""Section, key, and what is known about it."""
PLAIN_KEYS = {entry.path: entry for name in SECTIONS if name not in REPEATED for entry in KEYS[name].values()}
"""The keys of the sections that exist once, by their paths."""


def all_keys() -> list[Entry]:
    """In the order of the manual."""
    return [entry for entries in KEYS.values() for entry in entries.values()]


def find_key(path: str) -> Entry | None:
    """The key that a path names: `listener.ports`, or `relays.NAME.port` with any name."""
    section, *names = path.split(".")
    return KEYS[section].get(names[1]) if section in REPEATED and len(names) == 2 else PLAIN_KEYS.get(path)
