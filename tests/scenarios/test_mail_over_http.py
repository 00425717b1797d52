"""Mail over HTTP: a key, a request, a durable message; and whatever may not be is told, and leaves
nothing."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from email import message_from_bytes
from email.policy import default
from typing import Any, NamedTuple

import pytest
from tests.scenarios.relay import Relay, free_port, until
from tests.scenarios.upstream import Upstream, always

DISK_LIMITS = ("disk_warn_mb", "disk_throttle_mb", "disk_suspend_mb")
PATH = "/api/v1/messages"
PLAIN = {"from": "Me <me@example.org>", "to": ["you@example.net"], "subject": "Test", "text": "It works."}
NOBODYS_KEY = "dsp_live_aaaaaaaaaaaa_" + "x" * 43


class Said(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: Any


class Api:
    """A relay with an HTTP door, and a key to it."""

    def __init__(self, relay: Relay, upstream: Upstream, **api: object) -> None:
        self.relay = relay
        self.port, self.tls_port = free_port(), free_port()
        self._upstream = upstream
        self.configure(**api)
        relay.start()
        self.key = self.make("web")

    def configure(self, **api: object) -> None:
        ports = {"ports": [self.port], "tls_ports": [self.tls_port]}
        self.relay.configure(self._upstream.table(), api={**ports, **api})

    def configure_spool(self, *, full: bool) -> None:
        limits = dict.fromkeys(DISK_LIMITS, 1 << 20 if full else 0)
        ports = {"ports": [self.port], "tls_ports": [self.tls_port]}
        self.relay.configure(self._upstream.table(), api=ports, spool=limits).reload()

    def make(self, name: str, *words: str) -> str:
        made: str = json.loads(self.relay.cli("key", "create", name, *words, "--json"))["key"]
        return made

    def ask(
        self,
        method: str = "POST",
        path: str = PATH,
        body: object = PLAIN,
        *,
        key: str | None = None,
        tls: bool = False,
        **headers: str,
    ) -> Said:
        """With the key unless `authorization` or `x_api_key` says otherwise."""
        if tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                "127.0.0.1", self.tls_port, timeout=30, context=context
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        fields = {"Content-Type": "application/json", "Authorization": f"Bearer {key or self.key}"}
        fields |= {name.replace("_", "-").title(): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(
                method, path, content, {field: value for field, value in fields.items() if value}
            )
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        told: Any = json.loads(text) if text else None
        assert answer.headers["X-Request-Id"].startswith("req_")
        if answer.status >= 400 and text:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert told["status"] == answer.status
            assert told["request_id"] == answer.headers["X-Request-Id"]
        return Said(answer.status, answer.headers, told)

    def ready(self) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with closing(connection):
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())["status"]


@pytest.fixture
def api(relay: Relay, upstream: Upstream) -> Iterator[Api]:
    yield Api(relay, upstream)


def test_a_message_is_taken_and_delivered(api: Api, upstream: Upstream) -> None:
    files = [{"filename": "Überblick.pdf", "content": b64encode(bytes(range(256)) * 2000).decode()}]
    said = api.ask(body={**PLAIN, "html": "<p>It works.", "bcc": "secret@example.net", "attachments": files})
    assert said.status == 202
    assert said.body["message"] == "Queued. Thank you."
    until(lambda: upstream.delivered, "it is delivered")
    (received,) = upstream.delivered
    assert (received.reverse_path, received.recipients) == (
        "me@example.org",
        ["you@example.net", "secret@example.net"],
    )
    assert b"secret" not in received.content
    message = message_from_bytes(received.content, policy=default)
    assert message["From"] == "Me <me@example.org>"
    assert b" with HTTP\r\n" in received.content
    assert [part.get_filename() for part in message.walk() if part.get_filename()] == ["Überblick.pdf"]
    shown = json.loads(api.relay.cli("history", "show", said.body["id"], "--json"))
    assert shown["login"] == "key:web"


def test_it_is_durable_before_it_is_answered(api: Api, upstream: Upstream) -> None:
    upstream.script = always("MAIL", "451 4.3.0 Later")
    ids = {api.ask().body["id"] for _ in range(20)}
    api.relay.kill()
    upstream.script = always("NOOP", "250 Ok")
    api.relay.start()
    until(lambda: len(upstream.delivered) >= 20, "all of them are delivered")
    delivered = {
        line.split(b"id ")[1][:36].decode() for each in upstream.delivered for line in [each.content]
    }
    assert delivered == ids


def test_large_content_goes_through_a_file(api: Api, upstream: Upstream) -> None:
    data = bytes(range(256)) * 40_000
    said = api.ask(
        body={**PLAIN, "attachments": [{"filename": "a.bin", "content": b64encode(data).decode()}]}
    )
    assert said.status == 202, said.body
    until(lambda: upstream.delivered, "it is delivered")
    message = message_from_bytes(upstream.delivered[0].content, policy=default)
    (found,) = [part.get_payload(decode=True) for part in message.walk() if part.get_filename()]
    same = found == data
    assert same


def test_by_tls_with_every_way_to_carry_a_key(api: Api, upstream: Upstream) -> None:
    basic = b64encode(f"api:{api.key}".encode()).decode()
    ways = (
        {"authorization": f"bearer {api.key}"},
        {"authorization": f"BASIC {basic}"},
        {"authorization": "", "x_api_key": api.key},
    )
    for way in ways:
        assert api.ask(tls=True, **way).status == 202
    until(lambda: len(upstream.delivered) == 3, "all are delivered")
    assert b" with HTTPS\r\n" in upstream.delivered[0].content


def test_wrong_keys_are_all_alike(api: Api, upstream: Upstream) -> None:
    away, off = api.make("away", "--from", "192.0.2.0/24"), api.make("off")
    api.relay.cli("key", "disable", "off")
    other_secret = api.key[:-1] + ("A" if api.key[-1] != "A" else "E")
    told = [api.ask(key=key) for key in (NOBODYS_KEY, other_secret, away, off)]
    assert {said.status for said in told} == {401}
    assert {said.headers["WWW-Authenticate"] for said in told} == {'Bearer realm="dispatch"'}
    assert len({(said.body["code"], said.body["detail"]) for said in told}) == 1
    assert not upstream.received
    log = api.relay.log_text()
    assert not [secret for secret in (api.key, other_secret, away, off) if secret in log]


def test_without_a_key_nothing_is_counted(api: Api) -> None:
    for _ in range(6):
        assert api.ask(authorization="").body["code"] == "unauthorized"
    assert api.ask(authorization="Digest x").status == 401
    assert api.ask().status == 202


def test_guesses_are_locked_out(api: Api) -> None:
    codes = [api.ask(key=NOBODYS_KEY).status for _ in range(6)]
    assert codes == [401] * 5 + [429]
    said = api.ask()
    assert said.status == 429
    assert int(said.headers["Retry-After"]) > 0


def test_a_revoked_key_ends_at_once_and_a_rotated_one_changes(api: Api) -> None:
    assert api.ask().status == 202
    new = json.loads(api.relay.cli("key", "rotate", "web", "--json"))["key"]
    assert api.ask().status == 401
    assert api.ask(key=new).status == 202
    api.relay.cli("key", "revoke", "web")
    assert api.ask(key=new).status == 401


def test_policy_is_that_of_the_other_door(api: Api, upstream: Upstream) -> None:
    words = ["--sender", "*@example.org", "--recipient", "example.net", "default_from=shop@example.org"]
    key = api.make("shop", *words)
    said = api.ask(key=key, body={**PLAIN, "from": "me@example.com"})
    assert (said.status, said.body["code"], said.body["errors"][0]["path"]) == (
        403,
        "sender_not_allowed",
        "from",
    )
    said = api.ask(
        key=key, body={**PLAIN, "to": ["a@example.net"], "cc": ["b@example.com"], "bcc": ["c@c.example"]}
    )
    assert (said.status, said.body["code"]) == (403, "recipient_not_allowed")
    assert [error["path"] for error in said.body["errors"]] == ["cc[0]", "bcc[0]"]
    api.relay.cli("suppression", "add", "gone@example.net")
    assert api.ask(key=key, body={**PLAIN, "to": ["gone@example.net"]}).body["code"] == "recipient_suppressed"
    assert api.ask(key=key, body={**PLAIN, "relay": "upstream"}).body["code"] == "relay_not_allowed"
    without = {name: value for name, value in PLAIN.items() if name != "from"}
    assert api.ask(key=key, body=without).status == 202
    until(lambda: upstream.delivered, "it is delivered")
    assert [each.reverse_path for each in upstream.received] == ["shop@example.org"], "nothing else was kept"


def test_a_field_that_cannot_be_composed_is_told_whatever_the_size(api: Api) -> None:
    for size in (10, 400_000):
        said = api.ask(body={**PLAIN, "text": "x" * size, "headers": {"References": "ü"}})
        assert (said.status, said.body["errors"][0]["path"]) == (400, "headers")
    assert api.ask(body={**PLAIN, "to": [" "]}).status == 400, "to nobody"


def test_rates_say_when_to_come_again(api: Api) -> None:
    key = api.make("slow", "--rate", "2/minute")
    assert [api.ask(key=key).status for _ in range(2)] == [202, 202]
    wrong = api.ask(key=key, body={"to": 1})
    assert wrong.status == 400, "what is wrong anyway costs nothing"
    said = api.ask(key=key)
    assert (said.status, said.body["code"]) == (429, "rate_limited")
    assert 1 <= int(said.headers["Retry-After"]) <= 30
    assert api.ask().status == 202, "other keys have their own"


def test_requests_that_are_none(api: Api) -> None:
    assert api.ask(path="/api/v1/nothing").body["code"] == "not_found"
    wrong_method = api.ask("DELETE")
    assert (wrong_method.status, wrong_method.headers["Allow"]) == (405, "POST")
    assert api.ask(content_type="text/plain").status == 415
    assert api.ask(content_encoding="gzip").status == 415
    assert api.ask(body=b"{").body["code"] == "invalid_json"
    assert api.ask("GET", "/healthz", b"", authorization="").status == 200
    head = api.ask("HEAD", "/healthz", b"", authorization="")
    assert (head.status, head.body) == (200, None)


def test_a_body_above_the_limit_is_cut_while_it_arrives(relay: Relay, upstream: Upstream) -> None:
    api = Api(relay, upstream, max_body_bytes=100_000)
    assert api.ask(body=b"x" * 100_001).status == 413
    with socket.create_connection(("127.0.0.1", api.port), timeout=30) as connection:
        connection.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        block = b"2710\r\n" + b"y" * 10_000 + b"\r\n"
        heard = b""
        for _ in range(1000):
            try:
                connection.sendall(block)
            except (BrokenPipeError, ConnectionResetError):
                break
        try:
            heard = connection.recv(4096)
        except ConnectionResetError:
            return  # it was told, and the network threw it away with what was still on its way
        assert heard.startswith(b"HTTP/1.1 413 ")


def test_bodies_share_their_memory(relay: Relay, upstream: Upstream) -> None:
    api = Api(relay, upstream, max_body_bytes=900_000, body_memory_mb=1, rate_per_key="none")
    large = json.dumps({**PLAIN, "text": "x" * 700_000}).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(large)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", api.port), timeout=30) as first:
        first.sendall(head.encode() + large[:-1])

        def refused() -> bool:
            said = api.ask(body=large)
            assert said.status in (202, 503)
            return said.status == 503 and bool(said.headers["Retry-After"])

        until(refused, "the first one's body is in memory")
        assert api.ask().status == 202, "small ones go on"
        first.sendall(large[-1:])
        assert first.recv(100).startswith(b"HTTP/1.1 202 ")
    assert api.ask(body=large).status == 202, "there is room again"


def test_closed_doors_are_closed_here_too(api: Api, upstream: Upstream) -> None:
    api.relay.cli("queue", "drain", "--timeout", "30")
    said = api.ask()
    assert (said.status, said.body["code"]) == (503, "closed")
    assert said.headers["Retry-After"]
    assert api.ready() == (503, "not_ready")
    api.relay.cli("queue", "accept")
    assert api.ready() == (200, "ready")
    assert api.ask().status == 202
    until(lambda: len(upstream.delivered) == 1, "it is delivered")


def test_a_full_disk_is_told(api: Api, relay: Relay) -> None:
    api.configure_spool(full=True)
    until(lambda: api.ready() == (503, "not_ready"), "it is noticed")
    said = api.ask()
    assert (said.status, said.body["code"]) == (507, "insufficient_storage")
    assert said.headers["Retry-After"]
    assert api.ask("GET", "/healthz", b"", authorization="").status == 200, "it is alive"
    api.configure_spool(full=False)
    until(lambda: api.ready() == (200, "ready"), "it has room again")
    assert api.ask().status == 202


def test_strangers_learn_nothing_of_keys(relay: Relay, upstream: Upstream) -> None:
    api = Api(relay, upstream, allowed_cidrs=["192.0.2.0/24"])
    for key in (api.key, NOBODYS_KEY):
        said = api.ask(key=key)
        assert (said.status, said.body["code"]) == (403, "source_not_allowed")
    assert api.ask(path="/nothing").status == 403


def test_a_proxy_says_whom_it_speaks_for_and_nobody_else_does(relay: Relay, upstream: Upstream) -> None:
    inside = {"allowed_cidrs": ["192.0.2.0/24"]}
    api = Api(relay, upstream, trusted_proxies=["127.0.0.1/32"], **inside)
    assert api.ask(x_forwarded_for="192.0.2.7").status == 202
    assert api.ask(x_forwarded_for="192.0.2.7, 198.51.100.1").status == 403, (
        "the left-most entry was invented"
    )
    api.configure(**inside)
    relay.reload()
    assert api.ask(x_forwarded_for="192.0.2.7").status == 403


def test_a_head_without_end_and_one_that_trickles(relay: Relay, upstream: Upstream) -> None:
    api = Api(relay, upstream, request_timeout_seconds=2)
    with socket.create_connection(("127.0.0.1", api.port), timeout=30) as endless:
        endless.sendall(b"GET /healthz HTTP/1.1\r\n" + b"X-A: " + b"a" * 70_000)
        assert endless.recv(100).startswith(b"HTTP/1.1 431 ")
    with socket.create_connection(("127.0.0.1", api.port), timeout=30) as trickling:
        trickling.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        assert trickling.recv(100).startswith(b"HTTP/1.1 408 ")
    with socket.create_connection(("127.0.0.1", api.port), timeout=30) as slow_body:
        slow_body.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{".encode()
        )
        assert slow_body.recv(100).startswith(b"HTTP/1.1 408 ")
    with socket.create_connection(("127.0.0.1", api.port), timeout=30) as silent:
        assert silent.recv(100) == b"", "closed without a word"
    with socket.create_connection(("127.0.0.1", api.port), timeout=30) as no_http:
        no_http.sendall(b"EHLO client.test\r\n\r\n")
        assert no_http.recv(100).startswith(b"HTTP/1.1 400 ")


def test_a_stop_answers_what_is_under_way(api: Api, upstream: Upstream) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=30) as connection:
        body = json.dumps(PLAIN).encode()
        connection.sendall(
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.key}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        assert api.ask().status == 202, "the other one is begun by then"
        api.relay.terminate()
        until(lambda: api.relay.said("draining"), "it stops")
        connection.sendall(body)
        heard = connection.recv(4096)
        assert heard.startswith(b"HTTP/1.1 202 "), heard
    assert api.relay.ended() == 0
    api.relay.start()
    until(lambda: len(upstream.delivered) == 2, "both are delivered")
