"""Keys of the processes: each its own, and always the same ones from a vault's key."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from dispatch.security.role_keys import role_key

KEY = bytes(range(32))


def test_it_is_hkdf_as_the_rfc_has_it() -> None:
    extracted = hmac.digest(bytes(32), KEY, hashlib.sha256)  # RFC 5869 section 2.2, without a salt
    expanded = hmac.digest(extracted, b"dispatch snapshot intake\x01", hashlib.sha256)  # section 2.3
    assert role_key(KEY, "intake") == expanded


def test_no_two_roles_and_no_two_vaults_have_the_same() -> None:
    keys = {role_key(key, role) for key in (KEY, bytes(32)) for role in ("intake", "delivery", "control")}
    assert len(keys) == 6
    assert KEY not in keys


def test_what_is_no_key_gives_none() -> None:
    with pytest.raises(AssertionError):
        role_key(b"", "intake")
