"""A burst of guesses from one address: no more of them are tried than lockout allows."""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from contextlib import ExitStack

from tests.scenarios.relay import Relay, until

from dispatch.security.passwords import hash_password

PASSWORD = "correct horse battery"
LOGIN = f"[[logins]]\nname = 'app'\npassword = {json.dumps(hash_password(PASSWORD))}\n"


def configured(relay: Relay, **listener: object) -> Relay:
    relay.configure(listener={"allow_unsecure_auth": True, **listener})
    with relay.config.open("a") as file:
        file.write(LOGIN)
    return relay


def plain(password: str) -> bytes:
    return b"AUTH PLAIN " + b64encode(f"\0app\0{password}".encode()) + b"\r\n"


def test_a_burst_is_stopped_by_its_first_failures_and_an_operator_may_end_the_lock(relay: Relay) -> None:
    configured(relay, lockout_failures=3, lockout_seconds=600).start()
    with ExitStack() as stack:
        clients = [stack.enter_context(relay.client()) for _ in range(30)]
        for number, client in enumerate(clients):
            client.send(plain(f"guess {number}"))
        answers = Counter(client.getreply()[0] for client in clients)
    assert answers == {535: 3, 454: 27}
    with relay.client() as client:
        assert client.docmd(plain(PASSWORD).decode().strip())[0] == 454, "the address is locked out"
        assert client.mail("me@example.org")[0] == 250, "of AUTH alone"
        client.rset()
        configured(relay, lockout_failures="none").reload()
        assert client.docmd(plain(PASSWORD).decode().strip())[0] == 235
    until(lambda: relay.json("stats")["refused"] == {"lockout": 28, "login": 3}, "each is counted")
