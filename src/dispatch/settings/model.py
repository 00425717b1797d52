"""The settings: every key with its type, its default, its limits, its meaning, and who needs it.

This page, with `relay_keys`, `rule_keys`, `login_keys` and `api_keys` for what there may be many of, and
`mail_keys` for a host's own mail, is the only place where a key is declared. From it come the checks of what
an operator wrote, the names of the environment variables, `dispatch config`, the snapshots that the processes
read, and the reference page of the manual.

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
from dispatch.settings.api_keys import Api, ApiKey
from dispatch.settings.keys import Entry, Role, Section, entries_of, live, restart
from dispatch.settings.kinds import Choice, Flag, ListOf, Number, Text
from dispatch.settings.login_keys import Login
from dispatch.settings.mail_keys import Mail
from dispatch.settings.quantities import (
    AGE,
    AMOUNT,
    MESSAGE_SIZE,
    OWN_NAME,
    PORT,
    RETRIES,
    RETRY_DELAYS,
    UNCERTAIN_POLICY,
    timeout,
)
from dispatch.settings.relay_keys import Relay
from dispatch.settings.rule_keys import Rule
from dispatch.smtp.body import NewlinePolicy

_TERABYTE_MB = 1 << 20

_FLAG = Flag()
_MEBIBYTES = Number(0, _TERABYTE_MB, "MiB")
_LOCKOUT_TIME = Number(1, 86_400, "seconds", whole=False)


class Listener(Section, frozen=True, kw_only=True):
    """Where clients connect over SMTP, who may, and what one of them may use."""

    ports: Annotated[
        tuple[int, ...],
        restart(
            "supervisor delivery",
            ListOf(PORT),
            """Ports for SMTP. One that cannot be bound is skipped with a warning; where port 25 was wanted
            and cannot be had, or none could be bound, port 2525 is added. An empty list: no SMTP.""",
        ),
    ] = (25, 587)
    tls_ports: Annotated[
        tuple[int, ...],
        restart(
            "supervisor delivery",
            ListOf(PORT),
            "Ports on which TLS begins with the connection (RFC 8314). An empty list: none.",
        ),
    ] = (465,)
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
            OWN_NAME,
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
    require_auth: Annotated[
        bool,
        live("intake", _FLAG, "Mail is taken from clients that have logged in, and from nobody else."),
    ] = False
    allow_unsecure_auth: Annotated[
        bool,
        live(
            "intake",
            _FLAG,
            "Logging in is allowed without TLS. Whoever can listen on the way learns the password.",
        ),
    ] = False
    allowed_recipients: Annotated[
        tuple[str, ...],
        live(
            "intake",
            kinds.AddressPatterns(),
            "Patterns of recipients that mail is taken for.",
            default_words="any recipient",
        ),
    ] = ()
    reject_suppressed: Annotated[
        bool,
        live(
            "intake",
            _FLAG,
            """Recipients on the suppression list are refused at RCPT. Otherwise mail to them is taken, never
            tried, and its sender is told.""",
        ),
    ] = True
    rate_per_address: Annotated[
        str,
        live("intake", kinds.RateList(), "How many messages are taken from one address (IPv6: from a /64)."),
    ] = "none"
    rate_per_login: Annotated[
        str, live("intake", kinds.RateList(), "How many messages are taken from one login.")
    ] = "none"
    rate: Annotated[
        str, live("intake", kinds.RateList(), "How many messages are taken from all clients together.")
    ] = "none"
    lockout_failures: Annotated[
        int | None,
        live(
            "intake",
            Number(1, 1000, none=True),
            """Wrong passwords from one address (IPv6: from a /64), or for one user, that lock it out of AUTH
            for a while. Mail without AUTH goes on, and where a user has logged in before, others do not lock
            him out. So many are looked at at once, too; more wait for how those end.""",
        ),
    ] = 5
    lockout_window_seconds: Annotated[
        float,
        live("intake", _LOCKOUT_TIME, "How long a wrong password counts towards a lock."),
    ] = 600.0
    lockout_seconds: Annotated[
        float,
        live(
            "intake",
            _LOCKOUT_TIME,
            "How long the first lock lasts; the next one, unless a quiet window lies between, twice as long.",
        ),
    ] = 60.0
    lockout_max_seconds: Annotated[float, live("intake", _LOCKOUT_TIME, "How long a lock lasts at most.")] = (
        900.0
    )
    proxy_protocol_from: Annotated[
        tuple[str, ...],
        live(
            "intake",
            ListOf(kinds.Network()),
            """Networks of proxies that announce whom they speak for (PROXY protocol, versions 1 and 2). A
            connection from there must begin with such a header; from anywhere else none is believed. Their
            addresses are never locked out of AUTH. An empty list is nobody.""",
        ),
    ] = ()
    max_message_bytes: Annotated[
        int,
        live(
            "intake",
            MESSAGE_SIZE,
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
            timeout(),
            "How long a client may take for a command, or for a kibibyte of content; then it is cut.",
        ),
    ] = 60.0
    max_connections: Annotated[
        int, live("intake", AMOUNT, "Connections at once, of all clients; one more is answered 421.")
    ] = 1000
    max_connections_per_ip: Annotated[
        int, live("intake", AMOUNT, "Connections at once from one address; one more is answered 421.")
    ] = 100
    max_bad_commands: Annotated[
        int,
        live(
            "intake",
            Number(1, 1000),
            "Errors that a client may make between two messages; one more closes the connection.",
        ),
    ] = 20
    max_transactions: Annotated[
        int | None,
        live("intake", Number(1, 1_000_000, none=True), "Messages that one connection may begin."),
    ] = None
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
            RETRIES,
            "Attempts after the first one, for each recipient. 0 is no retry.",
        ),
    ] = None
    retry_delays_seconds: Annotated[
        tuple[float, ...],
        live(
            "delivery",
            RETRY_DELAYS,
            """The longest wait before each retry; the last one repeats. The wait itself is drawn between
            nothing and that, so that retries do not come in waves.""",
        ),
    ] = (30.0, 300.0, 1800.0, 7200.0)
    max_age_hours: Annotated[
        float | None,
        live("delivery", AGE, "How long a message is tried; the attempt after that is the last one."),
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
            UNCERTAIN_POLICY,
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


class Bounce(Section, frozen=True, kw_only=True):
    """What senders are told of mail that could not be delivered, or not yet (RFC 3464). Whether they are told
    is a key of each relay, dsn; mail with a null reverse-path is never answered."""

    sender: Annotated[
        str,
        live(
            "control",
            Text(
                "mail address",
                r"(?=.{3,254}$)[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9._-]+",
                "like postmaster@example.org",
            ),
            """The address that notices are from, in their header; their reverse-path is the null one, so that
            no notice is ever answered with another.""",
            default_words="MAILER-DAEMON at listener.server_name",
        ),
    ] = ""
    delay_notice_hours: Annotated[
        float | None,
        live(
            "control",
            AGE,
            """After how long a sender is told that a message still waits, once for each recipient. With
            "none" nobody is told of delays.""",
        ),
    ] = 4.0
    gather_seconds: Annotated[
        float,
        live(
            "control",
            Number(0, 3600, "seconds", whole=False),
            "What happens to recipients of one message within this time goes into one notice.",
        ),
    ] = 60.0
    return_content_max_bytes: Annotated[
        int,
        live(
            "control",
            Number(0, 3_145_728, "bytes"),
            """The largest message that goes back whole where its sender asked for that (RET=FULL). Where
            nothing was asked for, it is at most 262144. Of a larger one the header goes back.""",
        ),
    ] = 1_048_576


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
            "intake control",
            _FLAG,
            "Addresses of recipients, and those in the words of a relay, are shortened: a***@example.org.",
        ),
    ] = True
    log_delivered: Annotated[bool, live("control", _FLAG, "A line for each delivered message.")] = True
    log_retrying: Annotated[
        bool, live("control", _FLAG, "A line for each attempt that is to be repeated.")
    ] = True
    log_denied: Annotated[bool, live("intake", _FLAG, "A line for each client that was turned away.")] = True


CAPTURE_RELAY = Relay(name="capture", kind="capture", default=True)
"""Takes everything where no relay is configured."""


class Certificate(msgspec.Struct, frozen=True):
    """The shared certificate with its key: what TLS shows to clients. It is no setting: the relay makes and
    renews it, or it is uploaded."""

    chain_pem: bytes
    key_pem: bytes

    def __repr__(self) -> str:
        return "Certificate(...)"


CERTIFICATE_ROLES: frozenset[Role] = frozenset({"intake"})
"""Who is told."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting, checked. Made by `dispatch.settings.load`, or read from a snapshot."""

    listener: Listener = Listener()
    api: Api = Api()
    spool: Spool = Spool()
    queue: Queue = Queue()
    mail: Mail = Mail()
    bounce: Bounce = Bounce()
    logging: Logging = Logging()
    relays: tuple[Relay, ...] = ()
    """As configured; what works with relays asks for `effective_relays`."""
    rules: tuple[Rule, ...] = ()
    logins: tuple[Login, ...] = ()
    api_keys: tuple[ApiKey, ...] = ()
    certificate: Certificate | None = None

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
LOGINS = "logins"
API_KEYS = "api_keys"
REPEATED = {RELAYS: "relay", RULES: "rule", LOGINS: "login", API_KEYS: "key"}
"""Sections of which there is a table for each of something, told apart by its name; and what it is."""
SECTIONS: dict[str, type[Section]] = {
    "listener": Listener,
    "api": Api,
    "spool": Spool,
    "queue": Queue,
    "mail": Mail,
    "bounce": Bounce,
    "logging": Logging,
    RELAYS: Relay,
    RULES: Rule,
    LOGINS: Login,
    API_KEYS: ApiKey,
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
    section, _, rest = path.partition(".")
    # A name may hold dots, as a login's does that is an address; a key does not.
    name, dot, key = rest.rpartition(".")
    named = section in REPEATED and dot and name and (section == LOGINS or "." not in name)
    return KEYS[section].get(key) if named else PLAIN_KEYS.get(path)
