"""Relays that log in with access tokens: what must be given, and what goes with what."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from dispatch.settings import Relay, SettingsErrors, load
from dispatch.settings.relay_keys import tls_mode, token_mechanisms, token_scope, token_url

PEM = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
ACCOUNT = json.dumps({"client_email": "a@project.example", "private_key": PEM.decode()}, indent=2)

MICROSOFT = ("provider=microsoft", "tenant=t.example", "client_id=id", "client_secret=hush")
GOOGLE = ("provider=google", "client_id=id", "client_secret=hush", "refresh_token=consent")
CUSTOM = ("provider=custom", "client_id=id", "client_secret=hush", "token_url=https://a.example/token")


def relay(*keys: str, user: str = "me@a.example") -> Relay:
    """`keys` without `oauth_`, but for those that begin with a dot."""
    written = [f"relays.a.{key[1:]}" if key[0] == "." else f"relays.a.oauth_{key}" for key in keys]
    given = ["relays.a.host=x", *([f"relays.a.username={user}"] if user else []), *written]
    (made,) = load(None, {}, given, host_name="h.example").settings.relays
    return made


def said(*keys: str, user: str = "me@a.example") -> list[str]:
    with pytest.raises(SettingsErrors) as refused:
        relay(*keys, user=user)
    told = [str(mistake) for mistake in refused.value.mistakes]
    assert "hush" not in str(told)
    assert "consent" not in str(told)
    return told


def test_microsoft_365_in_the_name_of_an_application() -> None:
    made = relay(*MICROSOFT)
    assert token_url(made) == "https://login.microsoftonline.com/t.example/oauth2/v2.0/token"
    assert token_scope(made) == "https://outlook.office365.com/.default"
    assert token_mechanisms(made) == ("xoauth2",)
    assert tls_mode(made) == "starttls_required"


def test_microsoft_365_in_the_name_of_a_person_who_may_have_no_secret() -> None:
    made = relay(*MICROSOFT[:3], "refresh_token=consent")
    assert token_scope(made) == "https://outlook.office.com/SMTP.Send offline_access"


def test_what_is_done_to_its_messages_is_checked_as_of_any_relay() -> None:
    (told,) = said(*MICROSOFT, ".dkim_selector=a")
    assert "relays.a.dkim_selector: is no use without dkim_domain" in told


def test_google_with_a_consent_or_with_a_service_account() -> None:
    for made in (relay(*GOOGLE), relay("provider=google", f"service_account={ACCOUNT}")):
        assert token_url(made) == "https://oauth2.googleapis.com/token"
        assert token_scope(made) == "https://mail.google.com/"


def test_the_key_of_a_service_account_is_held_in_one_line() -> None:
    held = relay("provider=google", f"service_account={ACCOUNT}").oauth_service_account
    assert "\n" not in held
    assert json.loads(held) == json.loads(ACCOUNT)


def test_another_provider_says_where_and_what_for() -> None:
    made = relay(*CUSTOM, "scope=mail send", ".auth=oauthbearer")
    assert (token_url(made), token_scope(made)) == ("https://a.example/token", "mail send")
    assert token_mechanisms(made) == ("oauthbearer",)
    assert token_scope(relay(*CUSTOM)) == ""


def test_an_endpoint_of_ones_own_stands_in_for_that_of_the_provider() -> None:
    assert token_url(relay(*MICROSOFT[:1], *MICROSOFT[2:], "token_url=http://127.0.0.1:8/t")).endswith(":8/t")
    assert token_url(relay(*GOOGLE, "token_url=http://[::1]/t")) == "http://[::1]/t"


def test_all_mistakes_are_told_at_once() -> None:
    told = said("provider=microsoft", ".password=hush", ".auth=plain", user="")
    assert [line.partition("relays.a.")[2].partition(":")[0] for line in told] == [
        "username",
        "password",
        "auth",
        "oauth_tenant",
        "oauth_client_id",
        "oauth_client_secret",
    ]


@pytest.mark.parametrize(
    ("keys", "wrong"),
    [
        (("client_id=id",), "relays.a.oauth_client_id: is no use without oauth_provider"),
        (("provider=yahoo",), 'relays.a.oauth_provider: "yahoo" is not possible here'),
        ((*MICROSOFT, f"service_account={ACCOUNT}"), "oauth_service_account: is no use with oauth_provider"),
        ((*MICROSOFT, "token_url=https://a/t"), "oauth_tenant: is no use beside oauth_token_url"),
        ((*MICROSOFT[:1], *MICROSOFT[2:]), "oauth_tenant: is missing for microsoft"),
        ((*MICROSOFT[:3],), "oauth_client_secret: is missing for microsoft"),
        ((*GOOGLE, "tenant=t.example"), "oauth_tenant: is no use with oauth_provider"),
        ((*GOOGLE[:3],), "oauth_refresh_token: is missing for google"),
        ((*GOOGLE[:2], GOOGLE[3]), "oauth_client_secret: is missing for google"),
        (
            ("provider=google", f"service_account={ACCOUNT}", "client_id=id"),
            "oauth_client_id: is no use beside oauth_service_account",
        ),
        ((*CUSTOM[:3],), "oauth_token_url: is missing for custom"),
        ((*CUSTOM[:3], "token_url=http://a.example/t"), "secrets would go over clear text"),
        ((*CUSTOM[:3], "token_url=ftp://127.0.0.1/t"), "secrets would go over clear text"),
        ((*CUSTOM[:3], "token_url=https://me:hush@a.example/t"), "oauth_token_url: it has no host, or more"),
        ((*CUSTOM[:3], "token_url=nowhere"), "oauth_token_url: it has no host"),
        ((*CUSTOM[:3], "token_url=https://[a/t"), "oauth_token_url: it is no URL"),
        ((*MICROSOFT, "tenant=a/b"), "oauth_tenant"),
        (
            ("provider=google", 'service_account={"private_key": "hush"}'),
            "oauth_service_account: does not fit",
        ),
        ((*MICROSOFT, ".tls=none"), 'would let the password go over clear text (tls = "none")'),
    ],
)
def test_keys_that_do_not_go_together_are_named(keys: tuple[str, ...], wrong: str) -> None:
    assert any(wrong in line for line in said(*keys)), said(*keys)
