"""What is wrong with a relay's keys beside one another. Each of them fits by itself."""

from __future__ import annotations

from collections.abc import Iterator, Set
from ipaddress import ip_address
from typing import NamedTuple

from dispatch.settings.presets import PRESETS
from dispatch.settings.relay_keys import TOKEN_MECHANISMS, Relay, hosts_of, tls_mode
from dispatch.settings.sending_keys import DKIM_KEYS
from dispatch.smtp.client_auth import Credentials
from dispatch.smtp.client_commands import UnwritableCommand

OAUTH_KEYS = tuple(name for name in Relay.__struct_fields__ if name.startswith("oauth_"))
_CHANGING = frozenset({"envelope_from", "header_from", "reply_to", "dkim_domain"})
"""What is done to a message on its way out."""
_OF_A_HOST = frozenset(
    {
        *("preset", "region", "host", "lookup"),
        *("verify", "fingerprint"),
        *("username", "password", "auth", "allow_unsecure_auth", *OAUTH_KEYS),
    }
)
"""What can only be said of a host that is known beforehand."""
_DIRECT_ONLY = frozenset({"max_concurrency_per_domain", "dns_servers", "dnssec_from", "mta_sts"})
_DIRECT_TLS = ("", "none", "auto", "starttls_required")


class Wrong(NamedTuple):
    key: str
    what: str
    remedy: str


def wrong_with(relay: Relay, given: Set[str], unfit: Set[str]) -> Iterator[Wrong]:
    """`given`: the keys that some source or the preset gave; `unfit`: those that nothing follows from."""
    if "kind" in unfit:
        return
    if relay.kind == "capture":
        for key in sorted(given & _CHANGING):
            yield Wrong(key, "is no use to a relay that captures: it keeps what came", "remove it")
        return
    if relay.kind == "direct":
        yield from _direct(relay, given, unfit)
        yield from _rewriting(relay, given, unfit)
        yield from _signing(relay, given, unfit)
        return
    for key in sorted(given & _DIRECT_ONLY):
        yield Wrong(key, "is no use to a relay that has a host", 'remove it, or write kind = "direct"')
    yield from _place(relay, given, unfit)
    if not unfit & {"tls", "port", "username"}:
        yield from _trust(relay, given)
    if relay.oauth_provider or "oauth_provider" in unfit:
        yield from _oauth(relay, given, unfit)
    else:
        yield from _without_oauth(relay, given, unfit)
    yield from _rewriting(relay, given, unfit)
    yield from _signing(relay, given, unfit)
    if relay.flush_interval_seconds and "max_concurrency" in given:
        what = "is no use beside flush_interval_seconds: a flush is one session"
        yield Wrong("max_concurrency", what, "remove one of the two")


def _direct(relay: Relay, given: Set[str], unfit: Set[str]) -> Iterator[Wrong]:
    for key in sorted(given & _OF_A_HOST):
        what = "is no use to direct delivery, whose hosts are those of the recipients"
        yield Wrong(key, what, 'remove it, or write kind = "smtp"')
    if "flush_interval_seconds" in given - unfit and relay.flush_interval_seconds:
        what = "is no use to direct delivery: a flush is one session with one host"
        yield Wrong("flush_interval_seconds", what, "remove it")
    if "tls" not in unfit and relay.tls not in _DIRECT_TLS:
        what = f'is "{relay.tls}", which cannot be asked of hosts that nobody knows beforehand'
        yield Wrong("tls", what, 'write "auto", "starttls_required" or "none"')
    if "tls" not in unfit and relay.tls == "none":
        for key in sorted(given & {"ca_file", "dnssec_from", "mta_sts"}):
            yield Wrong(key, 'is no use with tls = "none"', "remove it, or let connections be encrypted")


def _place(relay: Relay, given: Set[str], unfit: Set[str]) -> Iterator[Wrong]:
    preset = PRESETS.get(relay.preset)
    needs_region = preset is not None and preset.needs_region
    if needs_region and not relay.region and not unfit & {"region", "host"} and not relay.host:
        yield Wrong(
            "region", "is missing", f'write the region that {relay.preset} is used in, like "eu-west-1"'
        )
    elif not relay.host and not unfit & {"host", "preset"}:
        remedy = 'write the name or address of the host, a preset, or kind = "capture"'
        yield Wrong("host", "is missing", remedy)
    if relay.region and not needs_region and "preset" not in unfit:
        yield Wrong("region", "is no use without a preset that has regions", "remove it")
    if relay.lookup == "mx" and not unfit & {"host", "lookup"}:
        for host in hosts_of(relay):
            if _is_address(host):
                remedy = 'write a domain, or lookup = "address"'
                yield Wrong("lookup", f"{host} is an address, which has no MX records", remedy)


def _trust(relay: Relay, given: Set[str]) -> Iterator[Wrong]:
    for key in ("ca_file", "fingerprint"):
        if key in given and tls_mode(relay) == "none":
            yield Wrong(key, 'is no use with tls = "none"', "remove it, or encrypt the connection")
    if "ca_file" in given and relay.fingerprint:
        yield Wrong("ca_file", "is no use beside fingerprint, which needs no issuer", "remove one of the two")
    elif "ca_file" in given and not relay.verify:
        yield Wrong("ca_file", "is no use with verify = false", "remove one of the two")
    if relay.username and tls_mode(relay) == "none" and not relay.allow_unsecure_auth:
        what = 'would let the password go over clear text (tls = "none")'
        remedy = 'write tls = "starttls_required", or allow_unsecure_auth = true beside it'
        yield Wrong("username", what, remedy)


def _without_oauth(relay: Relay, given: Set[str], unfit: Set[str]) -> Iterator[Wrong]:
    for key in OAUTH_KEYS:
        if key in given - unfit:
            remedy = 'write oauth_provider = "microsoft", "google" or "custom", or remove it'
            yield Wrong(key, "is no use without oauth_provider", remedy)
    if not unfit & {"username", "password", "auth"}:
        yield from _credentials(relay, unfit)


def _credentials(relay: Relay, unfit: Set[str]) -> Iterator[Wrong]:
    if relay.username and not relay.password:
        yield Wrong("password", f'is missing for the user name "{relay.username}"', "write it")
    elif relay.password and not relay.username:
        yield Wrong("username", "is missing beside the password", "write it")
    elif relay.username:
        mechanisms = tuple(name.upper() for name in relay.auth)
        try:
            Credentials(relay.username, relay.password, mechanisms)
        except UnwritableCommand as refusal:
            what = str(refusal).removeprefix("AUTH: ")
            key = "username" if "the user" in what else "password"
            yield Wrong(key, what, "remove that character, or write another mechanism in auth")


def _oauth(relay: Relay, given: Set[str], unfit: Set[str]) -> Iterator[Wrong]:
    """Of a relay that logs in with access tokens."""
    if not relay.username and "username" not in unfit:
        yield Wrong("username", "is missing: the mailbox that the tokens are for", "write it")
    if relay.password:
        yield Wrong("password", "is no use beside oauth_provider", "remove one of the two")
    if "auth" in given - unfit and not TOKEN_MECHANISMS.issuperset(relay.auth):
        remedy = 'remove it, or write ["xoauth2"], ["oauthbearer"] or both'
        yield Wrong("auth", "has mechanisms that want a password, and oauth_provider gives tokens", remedy)
    if unfit & {"oauth_provider", "oauth_refresh_token", "oauth_service_account", "oauth_token_url"}:
        # What else is needed depends on them.
        return
    needed, useless = _oauth_needs(relay)
    for key, why in needed:
        if key not in unfit and not getattr(relay, key):
            yield Wrong(key, f"is missing for {relay.oauth_provider}", f"write {why}")
    for key, why in useless.items():
        if key in given:
            yield Wrong(key, f"is no use {why}", "remove one of the two")


def _oauth_needs(relay: Relay) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The keys that must be there, with the remedy; and those that must not, with what rules them out."""
    provider = f'with oauth_provider = "{relay.oauth_provider}"'
    needed: list[tuple[str, str]] = []
    useless: dict[str, str] = {}
    if relay.oauth_provider == "custom":
        needed.append(("oauth_token_url", "the address of the token endpoint"))
    if relay.oauth_provider != "microsoft":
        useless["oauth_tenant"] = provider
    elif relay.oauth_token_url:
        useless["oauth_tenant"] = "beside oauth_token_url"
    else:
        needed.append(("oauth_tenant", "the directory (tenant) id"))
    if relay.oauth_provider != "google":
        useless["oauth_service_account"] = provider
    elif relay.oauth_service_account:
        others = ("oauth_client_id", "oauth_client_secret", "oauth_refresh_token")
        return needed, useless | dict.fromkeys(others, "beside oauth_service_account")
    needed.append(("oauth_client_id", "the application's id"))
    if relay.oauth_provider == "google":
        needed.append(("oauth_refresh_token", "it, or oauth_service_account in place of it"))
    if relay.oauth_provider == "google" or not relay.oauth_refresh_token:
        # A public client has no secret, but then it has a person's consent.
        needed.append(("oauth_client_secret", "the application's secret"))
    return needed, useless


def _rewriting(relay: Relay, given: Set[str], unfit: Set[str]) -> Iterator[Wrong]:
    if relay.header_from or "header_from" in unfit:
        if relay.keep_from_as_reply_to and relay.reply_to:
            what = "is no use beside reply_to, which replaces every Reply-To"
            yield Wrong("keep_from_as_reply_to", what, "remove one of the two")
        return
    for key in ("keep_display_name", "keep_from_as_reply_to"):
        if key in given:
            yield Wrong(key, "is no use without header_from", "remove it, or write header_from")


def _signing(relay: Relay, given: Set[str], unfit: Set[str]) -> Iterator[Wrong]:
    names = {name for pair in DKIM_KEYS for name in pair} | {"dkim_canonicalization"}
    if not relay.dkim_domain:
        first = next(iter(sorted(names & given)), None)
        if first and "dkim_domain" not in unfit:
            yield Wrong(first, "is no use without dkim_domain", "write the domain that signs, or remove it")
        return
    if not names & unfit and not relay.dkim_key and not relay.dkim_second_key:
        remedy = "write a private key in PEM, or remove dkim_domain"
        yield Wrong("dkim_key", f"is missing: {relay.dkim_domain} is to sign", remedy)
        return
    for key, selector in DKIM_KEYS:
        if {key, selector} & unfit:
            continue
        if getattr(relay, key) and not getattr(relay, selector):
            remedy = f"write the name whose public key is at <it>._domainkey.{relay.dkim_domain}"
            yield Wrong(selector, f"is missing for {key}", remedy)
        elif getattr(relay, selector) and not getattr(relay, key):
            yield Wrong(selector, f"is no use without {key}", "remove it, or write the key")
    if relay.dkim_selector and relay.dkim_selector.lower() == relay.dkim_second_selector.lower():
        # RFC 8463 section 4.
        yield Wrong("dkim_second_selector", "is that of dkim_key, too", "give each key a selector of its own")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
