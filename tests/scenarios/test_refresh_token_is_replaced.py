"""A token endpoint that takes each refresh token once: a relay that is killed goes on with the newest."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from tests.scenarios.relay import Relay, until
from tests.scenarios.upstream import Upstream


class StrictEndpoint(ThreadingHTTPServer):
    """Grants an access token, and the only refresh token that it takes next."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.taken: list[str] = []
        self.refused: list[str] = []

    @property
    def next(self) -> str:
        return f"refresh-{len(self.taken)}"


class _Answering(BaseHTTPRequestHandler):
    server: StrictEndpoint

    def do_POST(self) -> None:  # the name that http.server calls
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        (given,) = form["refresh_token"]
        good = given == self.server.next
        (self.server.taken if good else self.server.refused).append(given)
        granted = {"access_token": "t", "expires_in": 3600, "refresh_token": self.server.next}
        body = json.dumps(granted if good else {"error": "invalid_grant"}).encode()
        self.send_response(200 if good else 400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextmanager
def endpoint() -> Iterator[StrictEndpoint]:
    with StrictEndpoint() as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield serving
        finally:
            serving.shutdown()
            thread.join()


def wants_tokens(step: str, argument: str, count: int) -> str | None:
    return {"EHLO": "250-upstream.test\r\n250 AUTH XOAUTH2", "AUTH": "235 2.7.0 welcome"}.get(step)


def deliver_and_keep(relay: Relay, upstream: Upstream) -> None:
    """Until the mail is delivered, and the refresh token that came with that is sealed on the disk."""
    path, delivered = relay.data / "settings/delivery.tokens", len(upstream.delivered)
    before = path.read_bytes() if path.exists() else b""
    relay.send()
    until(lambda: len(upstream.delivered) > delivered, "it is delivered")
    until(lambda: path.exists() and path.read_bytes() != before, "control keeps the new token")


def test_a_killed_relay_goes_on_with_the_newest(relay: Relay, upstream: Upstream) -> None:
    upstream.script = wants_tokens
    with endpoint() as strict:
        table = upstream.table(
            tls="none",
            allow_unsecure_auth=True,
            username="me@example.org",
            oauth_provider="custom",
            oauth_token_url=f"http://127.0.0.1:{strict.server_port}/token",
            oauth_client_id="id",
            oauth_client_secret="hush",
            oauth_refresh_token=strict.next,
        )
        relay.configure(table).start()
        deliver_and_keep(relay, upstream)
        relay.kill()
        relay.start()
        deliver_and_keep(relay, upstream)
        # Delivery alone, which starts again without a publication.
        since = relay.mark()
        os.kill(relay.pid_of("delivery"), signal.SIGKILL)
        until(lambda: relay.said("child_ready", since, role="delivery"), "delivery is back")
        deliver_and_keep(relay, upstream)
        assert (strict.taken, strict.refused) == (["refresh-0", "refresh-1", "refresh-2"], [])
    assert "refresh-" not in relay.log_text()
