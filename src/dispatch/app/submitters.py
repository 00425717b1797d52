"""Who may hand mail in by name, from the settings: SMTP logins, and the API keys of programs."""

from __future__ import annotations

from dispatch.intake.credentials import KnownLogin
from dispatch.intake.http.keyring import KnownKey
from dispatch.mime.mailboxes import Mailbox
from dispatch.policy.limits import parse_rates
from dispatch.policy.logins import AddressList, LoginRules
from dispatch.security.networks import Networks
from dispatch.settings import Settings
from dispatch.settings.api_keys import ApiKey
from dispatch.settings.login_keys import Login


def known_logins(settings: Settings) -> dict[str, KnownLogin]:
    """Those that may be used, by name."""
    return {
        login.name: _known(login.name, login.password, login) for login in settings.logins if login.enabled
    }


def known_keys(settings: Settings) -> dict[str, KnownKey]:
    """Those that may be used, by their public parts."""
    return {key.key_id: _known_key(key) for key in settings.api_keys if key.enabled}


def _known_key(key: ApiKey) -> KnownKey:
    default = Mailbox(key.default_from_name, key.default_from) if key.default_from else None
    return KnownKey(_known(key.key_id, key.hash, key), key.name, default)


def _known(name: str, hashed: str, of: Login | ApiKey) -> KnownLogin:
    rules = LoginRules(
        name,
        AddressList.parse(of.allowed_senders),
        AddressList.parse(of.allowed_recipients),
        rates=parse_rates(of.rate),
        relay=of.relay,
        may_name_relay=of.may_name_relay,
    )
    networks = Networks.parse(of.allowed_cidrs) if of.allowed_cidrs else None
    return KnownLogin(rules, hashed, networks, of.tags, of.priority)
