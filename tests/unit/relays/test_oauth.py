"""What an authorization server is asked for a token, and what its answers mean."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from dispatch.ports import HttpAnswer
from dispatch.relays.oauth import (
    LIFETIME_S,
    RETRY_AFTER_S_MAX,
    ClientCredentials,
    Grant,
    NoToken,
    RefreshToken,
    ServiceStatement,
    Token,
    read_answer,
    request_form,
)
from dispatch.security.jwt import ServiceAccount

URL = "https://login.example/token"
APPLICATION = ClientCredentials("the-id", "hush&=", "https://mail.example/.default")
PERSON = RefreshToken("the-id", "hush", "consent")


def asked(grant: Grant) -> dict[str, str]:
    form = parse_qs(request_form(grant, URL, 1000.7).decode(), strict_parsing=True)
    return {name: value for name, (value,) in form.items()}


def read(body: object, status: int = 200, grant: Grant = PERSON, **headers: str) -> Token | NoToken:
    octets = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_answer(HttpAnswer(status, headers, octets), grant)


def refusal(body: object, status: int = 400, grant: Grant = PERSON, **headers: str) -> NoToken:
    got = read(body, status, grant, **headers)
    assert isinstance(got, NoToken)
    return got


def test_an_application_asks_in_its_own_name() -> None:
    assert asked(APPLICATION) == {
        "grant_type": "client_credentials",
        "client_id": "the-id",
        "client_secret": "hush&=",
        "scope": "https://mail.example/.default",
    }


def test_a_persons_consent_is_renewed_and_what_is_empty_is_not_sent() -> None:
    assert asked(PERSON) == {
        "grant_type": "refresh_token",
        "client_id": "the-id",
        "client_secret": "hush",
        "refresh_token": "consent",
    }
    assert "client_secret" not in asked(RefreshToken("the-id", "", "consent"))


def test_a_service_account_states_for_whom_it_asks() -> None:
    account = ServiceAccount("relay@project.example", generate_private_key(65537, 2048))
    form = asked(ServiceStatement(account, "billing@example.org", "https://mail.google.com/"))
    assert form.keys() == {"grant_type", "assertion"}
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    claims = form["assertion"].split(".")[1]
    assert json.loads(urlsafe_b64decode(claims + "==")) == {
        "iss": "relay@project.example",
        "sub": "billing@example.org",
        "aud": URL,
        "scope": "https://mail.google.com/",
        "iat": 1000,
        "exp": 4600,
    }


@pytest.mark.parametrize(
    ("more", "lifetime_s"),
    [({"expires_in": 3599}, 3599.0), ({"expires_in": "3599"}, 3599.0), ({}, LIFETIME_S)],
)
def test_a_token_has_the_lifetime_that_is_said_or_a_short_one(
    more: dict[str, object], lifetime_s: float
) -> None:
    assert read({"access_token": "t", "token_type": "bearer", **more}) == Token("t", lifetime_s)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        {"token_type": "Bearer"},
        {"access_token": 7},
        {"access_token": "t", "expires_in": "soon"},
        {"access_token": "t", "expires_in": "nan"},
        {"access_token": "t", "expires_in": -1},
        {"access_token": "t", "token_type": "mac"},
        b"\xff",
    ],
)
def test_an_answer_without_a_usable_token_means_not_now(body: object) -> None:
    got = read(body)
    assert isinstance(got, NoToken)
    assert not got.refused
    assert "html" not in got.why


def test_another_refresh_token_is_noticed() -> None:
    body = {"access_token": "t", "expires_in": 60}
    assert read({**body, "refresh_token": "newer"}) == Token("t", 60.0, "newer")
    assert read({**body, "refresh_token": "consent"}) == Token("t", 60.0)
    assert read({**body, "refresh_token": "newer"}, grant=APPLICATION) == Token("t", 60.0)


@pytest.mark.parametrize("error", ["invalid_grant", "invalid_client", "unauthorized_client", "made_up"])
@pytest.mark.parametrize("status", [400, 401, 403])
def test_what_the_server_refuses_in_its_own_words_is_refused(error: str, status: int) -> None:
    got = refusal({"error": error, "error_description": "why\r\nTrace: 1"}, status)
    assert got == NoToken(f"the token endpoint says {error}: why", refused=True)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b""),
        (503, {"error": "invalid_grant"}),
        (429, {"error": "invalid_request"}),
        (400, {"error": "temporarily_unavailable"}),
        (403, b"<html>blocked</html>"),
        (404, b"nobody here"),
        (302, b""),
        (400, {"error": {"code": 400}}),
    ],
)
def test_everything_else_means_not_now(status: int, body: object) -> None:
    assert not refusal(body, status).refused


def test_a_server_may_ask_us_to_wait_but_not_for_ever() -> None:
    assert refusal(b"", 429, **{"retry-after": "20"}).retry_after_s == 20.0
    assert refusal(b"", 503, **{"retry-after": "9" * 30}).retry_after_s == RETRY_AFTER_S_MAX
    assert refusal(b"", 503, **{"retry-after": "Fri, 20 Nov 2026 15:00:00 GMT"}).retry_after_s == 0.0


def test_secrets_that_a_server_repeats_are_not_shown() -> None:
    said = {"error": "invalid_grant", "error_description": "token consent of hush \x1b[31m" + "x" * 1000}
    why = refusal(said).why
    assert "consent" not in why
    assert "hush" not in why
    assert "\x1b" not in why
    assert len(why) < 400


def test_nothing_that_holds_a_secret_shows_it() -> None:
    for value in (APPLICATION, PERSON, Token("hush", 1.0, "consent")):
        assert "hush" not in repr(value)
        assert "consent" not in repr(value)
