"""Refresh tokens that servers gave in place of the configured ones (RFC 6749 section 6).

Delivery is given them, and may not write settings; so it hands each to control, which seals it in settings.db
and publishes all of them here, for the next start of delivery: in one file beside the snapshots, sealed with
delivery's own key. They are no settings: a new one changes nothing of what operators wrote, and publishing it
puts nothing else in force.

A token is good in place of the configured one only where that is still the same: each names, by a digest, the
consent that it goes back to. A person's fresh consent so ends what came of the one before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

import msgspec

from dispatch.security.vault import Vault
from dispatch.settings.relay_keys import Relay, token_url
from dispatch.settings.snapshot import replace_file, sync_folder

FILE = "delivery.tokens"
_SEALED_AS = "snapshot.delivery.tokens"


class RenewedToken(msgspec.Struct, frozen=True):
    """The newest refresh token of a relay."""

    consent: bytes
    """As `consent_of` told it of the relay whose token it replaces."""
    token: str

    def __repr__(self) -> str:
        return "RenewedToken(...)"


RenewedTokens = Mapping[str, RenewedToken]
"""By the relay's name."""
_TOKENS: msgspec.msgpack.Decoder[dict[str, RenewedToken]] = msgspec.msgpack.Decoder(dict[str, RenewedToken])


def consent_of(relay: Relay) -> bytes:
    """A digest of what a refresh token goes back to: the configured one, whose it is, and who gave it."""
    parts = (relay.oauth_refresh_token, relay.oauth_client_id, token_url(relay))
    return sha256(msgspec.msgpack.encode(parts)).digest()


def still_good(tokens: RenewedTokens, relays: Iterable[Relay]) -> dict[str, RenewedToken]:
    """Without those whose relay is configured with another consent. One that is not configured may come back:
    somebody may have named another file."""
    consents = {relay.name: consent_of(relay) for relay in relays}
    return {
        name: renewed
        for name, renewed in tokens.items()
        if consents.get(name, renewed.consent) == renewed.consent
    }


def packed(tokens: RenewedTokens) -> bytes:
    """To be sealed. `unpacked` reads it."""
    return msgspec.msgpack.encode(tokens)


def unpacked(octets: bytes) -> dict[str, RenewedToken]:
    return _TOKENS.decode(octets)


def publish_tokens(folder: Path, tokens: RenewedTokens, seal: Vault) -> None:
    """Replace the file, durably. Raises `OSError`. Where there never was a token there is no file."""
    path = folder / FILE
    if not tokens and not path.exists():
        return
    replace_file(path, seal.seal(_SEALED_AS, packed(tokens)).encode())
    sync_folder(folder)


def load_tokens(folder: Path, seal: Vault) -> dict[str, RenewedToken]:
    """What was published last. Raises `OSError`, `VaultFault`, and `ValueError` for what is no such file."""
    try:
        sealed = (folder / FILE).read_bytes()
    except FileNotFoundError:
        return {}
    return unpacked(seal.unseal(_SEALED_AS, sealed.decode("ascii")))
