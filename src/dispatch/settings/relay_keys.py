"""The keys of a relay: a next hop for mail."""

from __future__ import annotations

import typing
from typing import Annotated, Literal

import msgspec

from dispatch.policy.notification import DsnPolicy
from dispatch.policy.uncertain import UncertainPolicy
from dispatch.ports import DnssecFrom
from dispatch.security.tls import normalise_fingerprint
from dispatch.settings import kinds
from dispatch.settings.keys import live
from dispatch.settings.kinds import NAME, Choice, Flag, ListOf, Misfit, Number, Text, Unfit, shown
from dispatch.settings.oauth_keys import (
    CLIENT_ID,
    GOOGLE_SCOPE,
    GOOGLE_URL,
    MICROSOFT_APPLICATION_SCOPE,
    MICROSOFT_PERSON_SCOPE,
    MICROSOFT_URL,
    SCOPE,
    TENANT,
    OauthProvider,
    ServiceAccountText,
    TokenUrl,
)
from dispatch.settings.presets import PRESETS
from dispatch.settings.quantities import (
    AGE,
    AMOUNT,
    HOST_NAME,
    MESSAGE_SIZE,
    OWN_NAME,
    PORT,
    RETRIES,
    RETRY_DELAYS,
    UNCERTAIN_POLICY,
    timeout,
)
from dispatch.settings.sending_keys import Sending
from dispatch.smtp.client_auth import MECHANISMS

RelayKind = Literal["smtp", "direct", "capture"]
Lookup = Literal["address", "mx"]
TlsMode = Literal["none", "auto", "starttls", "starttls_required", "implicit"]
RelayTls = Literal["", "none", "auto", "starttls", "starttls_required", "implicit"]
"""Empty: `tls_mode` chooses."""

TOKEN_MECHANISMS = frozenset({"xoauth2", "oauthbearer"})
"""Those of `auth` whose password is an access token."""
IMPLICIT_PORT = 465
"""RFC 8314 section 3.3."""

_FLAG = Flag()
_SWITCH = Choice(("auto", "off"))
_HOST = Text("host", rf"({HOST_NAME}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)", "a host name or an IP address")


class Hosts(msgspec.Struct, frozen=True):
    """One host, or several; held in one text, with commas between them."""

    type_name: str = "host, or a list of them"
    limits: str = _HOST.limits

    def read(self, given: object, *, text: bool) -> str:
        if isinstance(given, str):
            if "," not in given and not given.lstrip().startswith('["'):
                return _HOST.read(given, text=text)
            text = True
        return ", ".join(map(str, ListOf(_HOST, at_least=1).read(given, text=text)))


class Fingerprint(msgspec.Struct, frozen=True):
    """Of a certificate; held as 64 small hexadecimal digits."""

    type_name: str = "fingerprint"
    limits: str = "SHA-256, as `openssl x509 -noout -fingerprint -sha256` shows it"

    def read(self, given: object, *, text: bool) -> str:
        remedy = f"write it in {self.limits}"
        try:
            if isinstance(given, str):
                return normalise_fingerprint(given)
        except ValueError as refusal:
            remedy = str(refusal).partition("; ")[2] or remedy
        raise Unfit(Misfit("", f"{shown(given)} is no SHA-256 fingerprint", remedy))


class Relay(Sending, frozen=True, kw_only=True):
    """A next hop for mail, each in a table `[[relays]]` of its own. Without any, everything is captured:
    kept on this machine and sent nowhere. A single relay is the default; of several, one must say so.

    Outside the file a relay goes by its name: `--set relays.smarthost.port=587`,
    `DISPATCH_RELAYS__SMARTHOST__PORT=587`. A name that the file does not have makes a new relay."""

    name: Annotated[
        str,
        live(
            "intake delivery",
            NAME,
            "What it is called in the log, the history and on the command line.",
            required=True,
        ),
    ]
    kind: Annotated[
        RelayKind,
        live(
            "delivery",
            Choice(typing.get_args(RelayKind)),
            """An SMTP host; direct: the mail hosts of the recipients' own domains, by their MX records, for
            internal and low-volume use; or capture: mail is kept in the local inbox and sent nowhere.""",
        ),
    ] = "smtp"
    enabled: Annotated[
        bool,
        live(
            "intake delivery",
            _FLAG,
            "Mail for a relay that is switched off waits. It never goes to another relay by accident.",
        ),
    ] = True
    default: Annotated[bool, live("intake delivery", _FLAG, "Takes the mail that nothing else claims.")] = (
        False
    )
    preset: Annotated[
        str,
        live(
            "delivery",
            Choice(tuple(PRESETS)),
            """The provider that it is: where it listens, how it is encrypted, and what it is known to limit
            (the page on presets shows it). What is written beside it counts.""",
            default_words="none",
        ),
    ] = ""
    region: Annotated[
        str,
        live(
            "delivery",
            Text("region", r"[a-z0-9]{1,20}(-[a-z0-9]{1,20}){0,5}", "as it is written in eu-west-1"),
            "For a preset whose host has the region in its name.",
            default_words="none",
        ),
    ] = ""
    host: Annotated[
        str,
        live(
            "delivery",
            Hosts(),
            """Where it listens. Must be given for an SMTP host. Of several, in a list, the next one is tried
            where one cannot be connected to, or does not let us begin; one that failed comes last for a
            minute.""",
            default_words="none, or that of the preset",
        ),
    ] = ""
    port: Annotated[
        int,
        live(
            "delivery",
            PORT,
            """The port that it listens on. Mail hosts of other domains have 25: direct delivery needs another
            one in closed networks and tests only.""",
        ),
    ] = 25
    lookup: Annotated[
        Lookup,
        live(
            "delivery",
            Choice(typing.get_args(Lookup)),
            """What host is: the host itself, with all its addresses, or a domain whose MX records name the
            hosts (RFC 5321 section 5.1).""",
        ),
    ] = "address"
    source_address: Annotated[
        str,
        live(
            "delivery",
            kinds.IpAddress(),
            """The address of this machine that connections to it come from. The host is then reached over
            IPv4, or IPv6, only.""",
            default_words="the kernel's choice",
        ),
    ] = ""
    tls: Annotated[
        RelayTls,
        live(
            "delivery",
            Choice(typing.get_args(RelayTls)[1:]),
            """How the connection is encrypted: not at all; if the host can, and without TLS where that fails
            (auto); if the host offers STARTTLS, and then it must succeed, and be offered ever after
            (starttls); always, by STARTTLS (starttls_required); always, from the first byte (implicit). Of
            these, direct delivery has none, auto and starttls_required, and asks nobody for whose certificate
            it is.""",
            default_words="implicit on port 465; otherwise starttls_required with a user name, auto without",
        ),
    ] = ""
    verify: Annotated[
        bool,
        live(
            "delivery",
            _FLAG,
            """The host's certificate must be valid for its name. In the mode auto, without a user name or a
            ca_file, it never need be: the alternative is no encryption at all.""",
        ),
    ] = True
    ca_file: Annotated[
        str,
        live(
            "delivery",
            Text("file", r"/[^\x00\r\n]*", "an absolute path, like /etc/dispatch/ca.pem"),
            """Certificates in PEM that are trusted in place of those of the system. In direct delivery that
            is where a domain demands verified TLS.""",
            default_words="those of the system",
        ),
    ] = ""
    fingerprint: Annotated[
        str,
        live(
            "delivery",
            Fingerprint(),
            "The SHA-256 fingerprint of the one certificate that is taken, whoever signed it.",
            default_words="none",
        ),
    ] = ""
    username: Annotated[
        str,
        live(
            "delivery",
            Text("user name", r"[^\x00-\x1f\x7f]{1,255}", "at most 255 characters"),
            "The user name at the host.",
            default_words="none: no AUTH",
        ),
    ] = ""
    password: Annotated[
        str,
        live(
            "delivery",
            kinds.Secret(),
            "The password; for xoauth2 and oauthbearer the access token.",
            secret=True,
            default_words="none",
        ),
    ] = ""
    auth: Annotated[
        tuple[str, ...],
        live(
            "delivery",
            ListOf(Choice(tuple(name.lower() for name in MECHANISMS)), at_least=1),
            "How the host may be logged in to; of these the first that it offers is used.",
        ),
    ] = ("plain", "login")
    allow_unsecure_auth: Annotated[
        bool,
        live(
            "delivery",
            _FLAG,
            "The password may be sent without TLS. Whoever can listen on the way learns it.",
        ),
    ] = False
    oauth_provider: Annotated[
        OauthProvider,
        live(
            "delivery",
            Choice(typing.get_args(OauthProvider)[1:]),
            """Whose access tokens the host wants in place of a password. They are fetched and renewed, and
            auth is xoauth2 unless it says oauthbearer. The user name is the mailbox.""",
            default_words="none",
        ),
    ] = ""
    oauth_tenant: Annotated[
        str,
        live("delivery", TENANT, "Of Microsoft 365: the directory (tenant) id.", default_words="none"),
    ] = ""
    oauth_client_id: Annotated[
        str,
        live("delivery", CLIENT_ID, "The application's id, as the provider gave it.", default_words="none"),
    ] = ""
    oauth_client_secret: Annotated[
        str,
        live(
            "delivery",
            kinds.Secret(),
            """The application's secret. It ends some day, which only the provider knows; a new one is written
            in its place.""",
            secret=True,
            default_words="none",
        ),
    ] = ""
    oauth_refresh_token: Annotated[
        str,
        live(
            "delivery",
            kinds.Secret(),
            """What a person's consent gave. With Microsoft 365 it may be absent: the application then acts in
            its own name (client credentials).""",
            secret=True,
            default_words="none",
        ),
    ] = ""
    oauth_scope: Annotated[
        str,
        live(
            "delivery",
            SCOPE,
            "What tokens are asked for.",
            default_words="what sending by SMTP needs at microsoft and google; nothing where it is custom",
        ),
    ] = ""
    oauth_token_url: Annotated[
        str,
        live(
            "delivery",
            TokenUrl(),
            "The token endpoint. Must be given where the provider is custom.",
            default_words="that of the provider",
        ),
    ] = ""
    oauth_service_account: Annotated[
        str,
        live(
            "delivery",
            ServiceAccountText(),
            """Of Google Workspace: the key of a service account that may act for the mailbox by domain-wide
            delegation, in place of client id, secret and refresh token.""",
            secret=True,
            default_words="none",
        ),
    ] = ""
    helo_name: Annotated[
        str,
        live(
            "delivery",
            OWN_NAME,
            "How this relay introduces itself to the host.",
            inherits="listener.server_name",
        ),
    ] = ""
    max_concurrency: Annotated[
        int,
        live(
            "delivery",
            Number(1, 10_000),
            "Connections to it at once; in direct delivery to the hosts of all domains together.",
        ),
    ] = 20
    max_concurrency_per_domain: Annotated[
        int,
        live(
            "delivery",
            Number(1, 100),
            """Of direct delivery: connections to the hosts of one domain at once. A slow domain keeps no more
            than these from the others, and large hosts turn away who comes with many.""",
        ),
    ] = 3
    dns_servers: Annotated[
        tuple[str, ...],
        live(
            "delivery",
            ListOf(kinds.Server()),
            "Of direct delivery: name servers to ask, with a port where it is not 53.",
            default_words="those of /etc/resolv.conf",
        ),
    ] = ()
    dnssec_from: Annotated[
        DnssecFrom,
        live(
            "delivery",
            Choice(typing.get_args(DnssecFrom)),
            """Of direct delivery: the name servers whose word is taken that an answer is authentic (DNSSEC):
            those at loopback addresses, all that are asked, or none. On it hang the certificates that hosts
            name in DNS (DANE, RFC 7672). The word is one bit: whoever can change it on its way from a server
            that is not on this machine can change what it vouches for.""",
        ),
    ] = "loopback"
    mta_sts: Annotated[
        bool,
        live(
            "delivery",
            _FLAG,
            """Of direct delivery: a domain that demands it (MTA-STS, RFC 8461) gets mail over verified TLS,
            at the hosts that its policy names, or not at all. With tls = "none" no domain is asked.""",
        ),
    ] = True
    max_message_bytes: Annotated[
        int,
        live(
            "intake",
            MESSAGE_SIZE,
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
        live("delivery", timeout(0), "How long a connection is kept open for the next message."),
    ] = 30.0
    messages_per_connection: Annotated[
        int, live("delivery", AMOUNT, "After so many messages a new connection is made.")
    ] = 1000
    connect_timeout_seconds: Annotated[
        float,
        live(
            "delivery",
            timeout(),
            "How long connecting may take, all addresses of the host together. The greeting may then take the"
            " five minutes of RFC 5321.",
        ),
    ] = 30.0
    end_of_data_timeout_seconds: Annotated[
        float,
        live(
            "delivery",
            timeout(),
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
    dsn: Annotated[
        DsnPolicy,
        live(
            "control",
            Choice(typing.get_args(DsnPolicy)),
            """Whether senders are told what became of mail for this relay (RFC 3464): always, never, or only
            those that had logged in. Where strangers can hand mail in, a reverse-path may be forged, and its
            owner would get the notice: there, write authenticated.""",
        ),
    ] = "on"
    max_retries: Annotated[
        int | None,
        live("delivery", RETRIES, "As spool.max_retries, for this relay.", inherits="spool.max_retries"),
    ] = None
    retry_delays_seconds: Annotated[
        tuple[float, ...],
        live(
            "delivery",
            RETRY_DELAYS,
            "As spool.retry_delays_seconds, for this relay.",
            inherits="spool.retry_delays_seconds",
        ),
    ] = (30.0, 300.0, 1800.0, 7200.0)
    max_age_hours: Annotated[
        float | None,
        live("delivery", AGE, "As spool.max_age_hours, for this relay.", inherits="spool.max_age_hours"),
    ] = 96.0
    uncertain_policy: Annotated[
        UncertainPolicy,
        live(
            "delivery",
            UNCERTAIN_POLICY,
            "As queue.uncertain_policy, for this relay.",
            inherits="queue.uncertain_policy",
        ),
    ] = "retry"


def hosts_of(relay: Relay) -> tuple[str, ...]:
    """In their order."""
    return tuple(relay.host.split(", ")) if relay.host else ()


def token_mechanisms(relay: Relay) -> tuple[str, ...]:
    """Those of `auth` that carry access tokens; XOAUTH2, which every provider has, where it names none."""
    return tuple(name for name in relay.auth if name in TOKEN_MECHANISMS) or ("xoauth2",)


def token_url(relay: Relay) -> str:
    """Where access tokens are had."""
    if relay.oauth_token_url:
        return relay.oauth_token_url
    return GOOGLE_URL if relay.oauth_provider == "google" else MICROSOFT_URL.format(tenant=relay.oauth_tenant)


def token_scope(relay: Relay) -> str:
    """What access tokens are asked for."""
    if relay.oauth_scope or relay.oauth_provider == "custom":
        return relay.oauth_scope
    if relay.oauth_provider == "google":
        return GOOGLE_SCOPE
    return MICROSOFT_PERSON_SCOPE if relay.oauth_refresh_token else MICROSOFT_APPLICATION_SCOPE


def tls_mode(relay: Relay) -> TlsMode:
    """As written, or what fits: credentials never go over clear text because nobody thought of it."""
    if relay.tls:
        return relay.tls
    if relay.kind == "direct":
        return "auto"
    if relay.port == IMPLICIT_PORT:
        return "implicit"
    return "starttls_required" if relay.username else "auto"


FLUSH_IDLE_S_MAX = 5.0


def connections_max(relay: Relay) -> int:
    """A flush is one session."""
    return 1 if relay.flush_interval_seconds else relay.max_concurrency


def idle_s(relay: Relay) -> float:
    """How long a connection waits for the next message: after a flush none comes before the next one, and no
    session must last until then. Between two messages of a flush lies a sync of the ledger at most."""
    if not relay.flush_interval_seconds:
        return relay.idle_seconds
    return min(relay.idle_seconds, relay.flush_interval_seconds / 2, FLUSH_IDLE_S_MAX)
