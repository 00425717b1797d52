"""A key for each process, derived from the vault's: what a role's settings snapshot is sealed with.

Derived by HKDF with SHA-256 (RFC 5869), so that who has one role's key learns neither the vault's nor
another role's, and nothing more has to be kept: a restored vault key gives the same role keys again.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dispatch.security.vault import KEY_BYTES


def role_key(vault_key: bytes, role: str) -> bytes:
    """32 bytes, always the same for a vault key and a role."""
    assert len(vault_key) == KEY_BYTES, "no key of a vault"
    # The vault key is uniformly random already, which is what a salt would be for (RFC 5869 section 3.1).
    info = f"dispatch snapshot {role}".encode()
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(vault_key)
