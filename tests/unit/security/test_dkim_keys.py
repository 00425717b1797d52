"""Keys for DKIM: which may sign, what they sign, what is published of them."""

import hashlib
import re
from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from dispatch.security.dkim_keys import DkimKey, UnusableKey, dns_record, generate, load, zone_strings

# RFC 8463 appendix A.1 and A.2.
ED25519_SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
ED25519_RECORD = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
RSA_RECORD = (
    "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWR"
    "iGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutAC"
    "DfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3"
    "Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
)
RSA_PEM = """-----BEGIN RSA PRIVATE KEY-----
MIICXQIBAAKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQi
Y/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqM
KrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB
AoGAH0cxOhFZDgzXWhDhnAJDw5s4roOXN4OhjiXa8W7Y3rhX3FJqmJSPuC8N9vQm
6SVbaLAE4SG5mLMueHlh4KXffEpuLEiNp9Ss3O4YfLiQpbRqE7Tm5SxKjvvQoZZe
zHorimOaChRL2it47iuWxzxSiRMv4c+j70GiWdxXnxe4UoECQQDzJB/0U58W7RZy
6enGVj2kWF732CoWFZWzi1FicudrBFoy63QwcowpoCazKtvZGMNlPWnC7x/6o8Gc
uSe0ga2xAkEA8C7PipPm1/1fTRQvj1o/dDmZp243044ZNyxjg+/OPN0oWCbXIGxy
WvmZbXriOWoSALJTjExEgraHEgnXssuk7QJBALl5ICsYMu6hMxO73gnfNayNgPxd
WFV6Z7ULnKyV7HSVYF0hgYOHjeYe9gaMtiJYoo0zGN+L3AAtNP9huqkWlzECQE1a
licIeVlo1e+qJ6Mgqr0Q7Aa7falZ448ccbSFYEPD6oFxiOl9Y9se9iYHZKKfIcst
o7DUw1/hz2Ck4N5JrgUCQQCyKveNvjzkkd8HjYs0SwM0fPjK16//5qDZ2UiDGnOe
uEzxBDAr518Z8VFbR41in3W4Y3yCDgQlLlcETrS+zYcL
-----END RSA PRIVATE KEY-----
"""

# RFC 6376 appendix C and section A.2, in simple form with `b=` emptied.
RFC_6376_PEM = """-----BEGIN RSA PRIVATE KEY-----
MIICXwIBAAKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYtIxN2SnFC
jxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gb
to/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB
AoGBALmn+XwWk7akvkUlqb+dOxyLB9i5VBVfje89Teolwc9YJT36BGN/l4e0l6QX
/1//6DWUTB3KI6wFcm7TWJcxbS0tcKZX7FsJvUz1SbQnkS54DJck1EZO/BLa5ckJ
gAYIaqlA9C0ZwM6i58lLlPadX/rtHb7pWzeNcZHjKrjM461ZAkEA+itss2nRlmyO
n1/5yDyCluST4dQfO8kAB3toSEVc7DeFeDhnC1mZdjASZNvdHS4gbLIA1hUGEF9m
3hKsGUMMPwJBAPW5v/U+AWTADFCS22t72NUurgzeAbzb1HWMqO4y4+9Hpjk5wvL/
eVYizyuce3/fGke7aRYw/ADKygMJdW8H/OcCQQDz5OQb4j2QDpPZc0Nc4QlbvMsj
7p7otWRO5xRa6SzXqqV3+F0VpqvDmshEBkoCydaYwc2o6WQ5EBmExeV8124XAkEA
qZzGsIxVP+sEVRWZmW6KNFSdVUpk3qzK0Tz/WjQMe5z0UunY9Ax9/4PVhp/j61bf
eAYXunajbBSOLlx4D+TunwJBANkPI5S9iylsbLs6NkaMHV6k5ioHBBmgCak95JGX
GMot/L2x0IYyMLAz6oLWh2hm7zwtb0CgOrPo1ke44hFYnfc=
-----END RSA PRIVATE KEY-----
"""
RFC_6376_DATA = b"""Received: from client1.football.example.com  [192.0.2.1]
      by submitserver.example.com with SUBMISSION;
      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>
DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;
      c=simple/simple; q=dns/txt; i=joe@football.example.com;
      h=Received : From : To : Subject : Date : Message-ID;
      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
      b=;"""
RFC_6376_SIGNATURE = (
    "AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/"
    "LbvaHutKVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV4bmp/YzhwvcubU4="
)
# RFC 8463 section A.3, its second signature, in relaxed form.
RFC_8463_DATA = b"""from:Joe SixPack <joe@football.example.com>
to:Suzie Q <suzie@shopping.example.net>
subject:Is dinner ready?
date:Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
message-id:<20030712040037.46341.5F8J@football.example.com>
dkim-signature:v=1; a=rsa-sha256; c=relaxed/relaxed; d=football.example.com; i=@football.example.com; \
q=dns/txt; s=test; t=1528637909; h=from : to : subject : date : message-id : from : subject : date; \
bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=; b="""
RFC_8463_SIGNATURE = (
    "F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQ"
    "TnGdaSGsgeefOsk2JzdA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8="
)


def ed25519_pem(encryption: KeySerializationEncryption | None = None) -> str:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(ED25519_SEED))
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()).decode()


def test_what_is_published_is_what_the_rfc_publishes() -> None:
    assert dns_record(load(ed25519_pem())) == ED25519_RECORD
    assert dns_record(load(RSA_PEM)) == RSA_RECORD


@pytest.mark.parametrize(
    ("pem", "data", "signature"),
    [
        (RFC_6376_PEM, RFC_6376_DATA, RFC_6376_SIGNATURE),
        (RSA_PEM, RFC_8463_DATA, RFC_8463_SIGNATURE),
    ],
)
def test_the_rsa_signatures_of_the_rfcs_come_out(pem: str, data: bytes, signature: str) -> None:
    assert b64encode(load(pem).sign(data.replace(b"\n", b"\r\n"))).decode() == signature


def test_ed25519_signs_the_hash() -> None:
    key = load(ed25519_pem())
    assert (key.kind, key.algorithm, key.remark) == ("ed25519", "ed25519-sha256", None)
    public = ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(ED25519_SEED)).public_key()
    public.verify(key.sign(b"data"), hashlib.sha256(b"data").digest())


def test_rsa_signs_with_pkcs_1_and_sha_256() -> None:
    private = rsa.generate_private_key(65537, 2048)
    key = DkimKey(private)
    assert (key.kind, key.algorithm, key.remark) == ("rsa", "rsa-sha256", None)
    private.public_key().verify(key.sign(b"data"), b"data", PKCS1v15(), SHA256())


def test_a_generated_key_can_be_loaded_and_is_without_remark() -> None:
    for kind in ("rsa", "ed25519"):
        key = load(generate(kind))
        assert key.kind == kind
        assert key.remark is None
    assert generate("ed25519") != generate("ed25519")


def test_an_rsa_key_below_2048_bits_signs_with_a_remark() -> None:
    key = load(RSA_PEM)
    assert key.remark is not None
    assert "1024 bits" in key.remark
    assert "2048" in key.remark


# 512 bits, made with `openssl genrsa`.
RSA_512_PEM = """-----BEGIN PRIVATE KEY-----
MIIBVgIBADANBgkqhkiG9w0BAQEFAASCAUAwggE8AgEAAkEAq3dBeSkt4R+p8kCz
njnLgcYxnkaQwSftlXTa8COdySSkUN8BaTqj8+jY2pW5xDS89h7KXSzu9o72vNpR
11WGPwIDAQABAkEAo0YuHHev7n0+USZ3Y6XZObxGp1a+pI+m1vitOppPt6YTpPAN
ioomccb68nEOACFkvyrsHqHiJ+G9rsym+yFaUQIhANLO6dmTsOWmddx896kFDbAq
/D1++/+oguZcVszgjpH7AiEA0Dk+axt3BFwUcbkSOpV+TsdYjdzL4PK/6b+uxgiS
LY0CIQCfwQBEy4DWODS/V9DTPKon5Bttewr7rrcsXbPF5TMF+wIgKRMhvP8t+y4u
2kAn2GalA+VPEqz7iuRX90RYtbf7HgECIQCsg2E4XW/5UXxT991cAggdMzDpIgrY
CrtZU6WPhroeGQ==
-----END PRIVATE KEY-----
"""


def test_an_rsa_key_below_1024_bits_is_refused() -> None:
    with pytest.raises(UnusableKey, match="512 bits"):
        load(RSA_512_PEM)


def test_another_kind_of_key_is_refused() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(UnusableKey, match="RSA and Ed25519"):
        load(pem)


def test_a_key_with_a_password_is_refused_with_the_reason() -> None:
    with pytest.raises(UnusableKey, match="password"):
        load(ed25519_pem(BestAvailableEncryption(b"secret")))


@pytest.mark.parametrize("text", ["", "no key", RSA_PEM[:400], RSA_PEM.replace("MIIC", "MIID"), "\udc80"])
def test_what_is_no_key_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(UnusableKey) as refused:
        load(text)
    assert str(refused.value) == "this is no private key in PEM format"
    assert refused.value.__suppress_context__


def test_a_key_does_not_show_itself() -> None:
    assert "PRIVATE" not in repr(load(RSA_PEM)) + str(load(RSA_PEM))
    assert not hasattr(load(RSA_PEM), "__dict__")


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_a_zone_file_gets_strings_that_join_to_the_record(kind: str) -> None:
    record = dns_record(load(generate("rsa" if kind == "rsa" else "ed25519")))
    text = zone_strings(record)
    strings = re.findall('"([^"]*)"', text)
    assert text == " ".join(f'"{string}"' for string in strings)
    assert "".join(strings) == record
    assert max(map(len, strings)) <= 255
    assert len(strings) == (2 if kind == "rsa" else 1)
