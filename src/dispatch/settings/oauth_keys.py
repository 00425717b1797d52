"""What relays that log in with access tokens need to be told: kinds, and where the providers' servers are.

The keys themselves stand with the relay's others in `relay_keys`, and what must go together in
`relay_checks`.

Sources: Microsoft's "Authenticate an IMAP, POP or SMTP connection using OAuth"; Google's "OAuth 2.0 for
server to server applications" and "XOAUTH2 protocol".
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from dispatch.security.jwt import UnusableAccount, read_service_account
from dispatch.settings.kinds import Misfit, Text, Unfit

OauthProvider = Literal["", "microsoft", "google", "custom"]

MICROSOFT_URL = "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token"
MICROSOFT_APPLICATION_SCOPE = "https://outlook.office365.com/.default"
"""Of client credentials: what the application was permitted in Entra."""
MICROSOFT_PERSON_SCOPE = "https://outlook.office.com/SMTP.Send offline_access"
"""Of a refresh token. Without offline_access no new one comes, and the one in hand ends one day."""
GOOGLE_URL = "https://oauth2.googleapis.com/token"
GOOGLE_SCOPE = "https://mail.google.com/"

CLIENT_ID = Text("client id", r"[\x21-\x7e]{1,255}", "at most 255 characters, without spaces")
TENANT = Text(
    "tenant",
    r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?",
    "its id, like 8eaef023-2b34-4da1-9baa-8bc8c9d6a490, or a domain of it",
)
SCOPE = Text(
    "scope",
    r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*",
    "words with single spaces between them (RFC 6749 section 3.3)",
)


class TokenUrl(msgspec.Struct, frozen=True):
    """Where secrets are sent in exchange for tokens: encrypted, unless it is on this machine."""

    type_name: str = "URL"
    limits: str = "https, like https://login.example.org/oauth2/token; http on this machine only"

    def read(self, given: object, *, text: bool) -> str:
        remedy = f"write one that begins with {self.limits}"
        if not isinstance(given, str) or not re.fullmatch(r"[\x21-\x7e]{1,2000}", given.strip()):
            raise Unfit(Misfit("", "it is no URL", remedy))
        try:
            parts = urlsplit(given.strip())
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise Unfit(Misfit("", "it is no URL", remedy)) from None
        if not host or parts.username is not None or parts.fragment:
            raise Unfit(Misfit("", "it has no host, or more than a host, a port and a path", remedy))
        if parts.scheme != "https" and not (parts.scheme == "http" and _on_this_machine(host)):
            raise Unfit(Misfit("", "secrets would go over clear text", remedy))
        return given.strip()


class ServiceAccountText(msgspec.Struct, frozen=True):
    """The key of a service account as Google hands it out; held in one line."""

    type_name: str = "secret"
    limits: str = "the whole content of the JSON file that Google made for the account"

    def read(self, given: object, *, text: bool) -> str:
        remedy = f"write {self.limits}"
        if not isinstance(given, str):
            raise Unfit(Misfit("", "it is no text", remedy))
        try:
            read_service_account(given)
        except UnusableAccount as refusal:
            raise Unfit(Misfit("", f"it cannot be used: {refusal}", remedy)) from None
        return msgspec.json.format(given, indent=-1)


def _on_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
