"""What a service account signs, and which files are no service account."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dispatch.security.jwt import UnusableAccount, read_service_account

KEY = generate_rsa_key(65537, 2048)


def pem(key: object) -> str:
    assert hasattr(key, "private_bytes")
    written: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return written.decode()


def account_file(private_key: str, **more: object) -> str:
    file = {"type": "service_account", "client_email": "relay@project.example", "private_key": private_key}
    return json.dumps({**file, **more}, indent=2)


def decoded(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def test_what_is_signed_can_be_verified_with_the_public_key() -> None:
    account = read_service_account(account_file(pem(KEY), private_key_id="k1"))
    signed = account.signed({"iss": account.address, "exp": 1})
    header, claims, signature = signed.split(".")
    assert json.loads(decoded(header)) == {"alg": "RS256", "typ": "JWT", "kid": "k1"}
    assert json.loads(decoded(claims)) == {"iss": "relay@project.example", "exp": 1}
    KEY.public_key().verify(decoded(signature), f"{header}.{claims}".encode(), PKCS1v15(), SHA256())
    assert "=" not in signed


def test_a_key_without_a_name_is_not_named() -> None:
    header, _, _ = read_service_account(account_file(pem(KEY))).signed({}).split(".")
    assert "kid" not in json.loads(decoded(header))


SHORT: RSAPrivateKey = generate_rsa_key(65537, 1024)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("relay@project.example", "no JSON"),
        ('{"client_email": "a@b.example"}', "private_key is missing"),
        ('{"private_key": 1, "client_email": "a@b.example"}', "private_key is missing"),
        (account_file(pem(KEY), client_email=""), "client_email is empty"),
        (account_file("-----BEGIN PRIVATE KEY-----\nhush\n-----END PRIVATE KEY-----\n"), "in PEM format"),
        (account_file(pem(generate_private_key(SECP256R1()))), "no RSA key"),
        (account_file(pem(SHORT)), "2048"),
        ("\ud800", "no JSON"),
    ],
)
def test_a_file_that_cannot_sign_is_refused_and_not_quoted(text: str, why: str) -> None:
    with pytest.raises(UnusableAccount, match=why) as refused:
        read_service_account(text)
    assert "hush" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_an_account_shows_its_address_only() -> None:
    account = read_service_account(account_file(pem(KEY)))
    assert repr(account) == "ServiceAccount('relay@project.example')"
