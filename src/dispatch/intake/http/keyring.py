"""Which key a request carries, and whether it is one.

A key is proven as a login is (`intake.credentials`): its public part is the name, its secret the password. So
it is hashed for beside the loop, remembered for minutes, an unknown one costs the same as a wrong one, and
who guesses is locked out; revoking one counts from the next request on.
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Mapping

import msgspec

from dispatch.intake.credentials import Credentials, KnownLogin
from dispatch.intake.http.problems import Problem, of_refusal
from dispatch.mime.mailboxes import Mailbox
from dispatch.policy.admission import Refusal
from dispatch.security.api_keys import OfferedKey, read_key

BASIC_USER = "api"
"""What clients of Mailgun send as the user name, with the key for a password."""
_REALM = {"WWW-Authenticate": 'Bearer realm="dispatch"'}
UNKNOWN_KEY = OfferedKey("", b"")


class KnownKey(msgspec.Struct, frozen=True):
    """A key that may be used, as the settings have it."""

    login: KnownLogin
    """What it may do, by its public part."""
    name: str
    """What people call it."""
    default_from: Mailbox | None = None

    @property
    def shown_name(self) -> str:
        """Where logins stand, too: none of them can be called so."""
        return f"key:{self.name}"


class Keyring:
    """All keys of the process; `change` exchanges them while it runs."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._keys: Mapping[str, KnownKey] = {}

    def change(self, keys: Mapping[str, KnownKey]) -> None:
        """`keys` by their public parts."""
        self._keys = keys
        self._credentials.logins = {key_id: key.login for key_id, key in keys.items()}

    async def prove(self, address: str, authorization: str | None, api_key: str | None) -> KnownKey | Refusal:
        """The key that the fields `Authorization` or `X-API-Key` carry. Raises `Problem` where there is
        none."""
        offered = _offered(authorization, api_key)
        if offered is None:
            raise Problem(
                401, "unauthorized", "a key is needed: Authorization: Bearer dsp_live_…", headers=_REALM
            )
        answer: asyncio.Future[KnownLogin | Refusal] = asyncio.get_running_loop().create_future()

        def proven(said: KnownLogin | Refusal) -> None:
            if not answer.done():
                answer.set_result(said)

        self._credentials.prove(address, offered.key_id, offered.secret, proven)
        said = await answer
        return said if isinstance(said, Refusal) else self._keys[said.name]


def wrong_key(refusal: Refusal) -> Problem:
    """What whoever offered it is told: for a wrong key the same, whyever it is wrong."""
    if refusal.kind == "login":
        return Problem(
            401, "unauthorized", "the key is unknown, revoked, or not for use from here", headers=_REALM
        )
    return of_refusal(refusal)


def _offered(authorization: str | None, api_key: str | None) -> OfferedKey | None:
    """A malformed one is one that nobody has."""
    text = api_key
    if authorization is not None:
        scheme, _, rest = authorization.strip().partition(" ")
        match scheme.lower():
            case "bearer":
                text = rest
            case "basic":
                text = _basic(rest)
            case _:
                text = ""
    return None if text is None or not text.strip() else read_key(text) or UNKNOWN_KEY


def _basic(encoded: str) -> str:
    """RFC 7617."""
    try:
        user, _, password = binascii.a2b_base64(encoded.strip(), strict_mode=True).decode().partition(":")
    except ValueError:
        return "-"
    return password if user == BASIC_USER else "-"
