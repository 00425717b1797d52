"""Large mail that takes long at its upstream leaves connections to ordinary mail of the same relay."""

from __future__ import annotations

from tests.scenarios.relay import Relay, until
from tests.scenarios.upstream import STALL, Upstream, always

CONNECTIONS = 4
LARGE = b"Subject: Large\r\n\r\n" + (b"x" * 76 + b"\r\n") * 20_000


def test_large_mail_that_hangs_holds_half_of_the_connections(relay: Relay, upstream: Upstream) -> None:
    upstream.script = always("MAIL", STALL, containing="large@")
    relay.configure(upstream.table(max_concurrency=CONNECTIONS)).start()
    with relay.client() as client:
        for _ in range(2 * CONNECTIONS):
            client.sendmail("large@example.org", ["you@example.net"], LARGE)
    until(lambda: upstream.connections, "large mail is under way")
    for number in range(3 * CONNECTIONS):
        relay.send(b"Subject: Small\r\n\r\n%d\r\n" % number)
    until(lambda: len(upstream.delivered) == 3 * CONNECTIONS, "ordinary mail goes on")
    assert {each.reverse_path for each in upstream.delivered} == {"me@example.org"}

    upstream.script = lambda step, argument, count: None
    upstream.release()
    until(lambda: len(upstream.delivered) == 5 * CONNECTIONS, "the large mail follows")
