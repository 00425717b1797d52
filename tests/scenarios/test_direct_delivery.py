"""Without a smart host: the hosts of each domain get its mail, and one that is down delays its own alone."""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import NamedTuple

import pytest
import trustme
from tests.scenarios.name_server import NameServer
from tests.scenarios.relay import Relay, until
from tests.scenarios.upstream import STALL, Upstream, always

RECORDS = {
    ("up.test.", "MX"): ["10 mx.up.test."],
    ("mx.up.test.", "A"): ["127.0.0.2"],
    ("down.test.", "MX"): ["20 mx2.down.test.", "10 mx.down.test."],
    ("mx.down.test.", "A"): ["127.0.0.3"],
    ("mx2.down.test.", "A"): ["127.0.0.4"],
    ("null.test.", "MX"): ["0 ."],
    ("loop.test.", "MX"): ["10 relay.test."],
}
MESSAGES = 20


class Domains(NamedTuple):
    up: Upstream
    down: Upstream
    dns: NameServer

    def table(self, **settings: object) -> str:
        keys = {"name": "direct", "kind": "direct", "port": self.up.port, "dns_servers": [self.dns.place]}
        return "\n".join(f"{key} = {json.dumps(value)}" for key, value in (keys | settings).items())


@pytest.fixture
def domains() -> Iterator[Domains]:
    with ExitStack() as stack:
        up = stack.enter_context(closing(Upstream(address="127.0.0.2")))
        down = stack.enter_context(closing(Upstream(address="127.0.0.3", port=up.port)))
        yield Domains(up, down, stack.enter_context(closing(NameServer(dict(RECORDS)))))


def test_one_message_to_domains_of_which_one_is_down_and_some_take_no_mail(
    relay: Relay, domains: Domains
) -> None:
    domains.down.stop()
    relay.configure(domains.table(), queue={"breaker_failures": 1}).start()
    to = ("a@up.test", "b@down.test", "c@UP.test", "d@null.test", "e@gone.test", "f@loop.test")
    message_id = relay.send(to=to)
    until(lambda: domains.up.delivered, "the domain that is up has its mail")
    until(lambda: relay.said("retrying", id=message_id), "the one that is down is to be tried again")
    for recipient, why in (
        ("d@null.test", "5.1.10 mail cannot be delivered there (connect): the domain takes no mail"),
        ("e@gone.test", "5.1.2 mail cannot be delivered there (connect): no such mail domain"),
        ("f@loop.test", "5.4.6 mail cannot be delivered there (connect): mail would come back to us"),
    ):
        [line] = until(partial(relay.said, "failed", to=f"<{recipient}>"), f"{recipient} bounces")
        assert line["reply"].startswith(why), line
    [row] = relay.queue("--relay", "direct", "--recipient", "b@down.test")
    assert row["state"] == "waiting"
    assert "the domain's host could not be used (connect)" in row["reason"]
    assert not relay.said("breaker_opened"), "the relay is well"
    relay.send(to=("g@up.test",))
    until(lambda: len(domains.up.delivered) == 2, "and other mail goes on")

    domains.down.start()
    until(lambda: domains.down.delivered, "it is up again, and its mail follows")
    assert [each.recipients for each in domains.up.received] == [["a@up.test", "c@UP.test"], ["g@up.test"]]
    assert [each.recipients for each in domains.down.received] == [["b@down.test"]]


def test_mail_goes_to_the_host_that_shows_the_certificate_named_in_dns_and_not_to_another(
    relay: Relay, domains: Domains
) -> None:
    for host, upstream in (("mx.up.test", domains.up), ("mx.down.test", domains.down)):
        shown, named = (trustme.CA().issue_cert(host) for _ in range(2))
        upstream.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        shown.configure_cert(upstream.tls)
        pem = (shown if upstream is domains.up else named).cert_chain_pems[0].bytes().decode()
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        domains.dns.records[f"_{upstream.port}._tcp.{host}.", "TLSA"] = [f"3 0 1 {digest}"]
    domains.dns.records["down.test.", "MX"] = ["10 mx.down.test."]
    relay.configure(domains.table()).start()
    message_id = relay.send(to=("a@up.test", "b@down.test"))
    until(lambda: domains.up.delivered, "the host that shows it has its mail")
    until(lambda: relay.said("retrying", id=message_id), "the other one is to be tried again")
    story = relay.story(message_id)
    [delivered] = [each for each in story["timeline"] if each["move"] == "deliver"]
    assert delivered["tls"].endswith(" (DANE)")
    [row] = relay.queue("--recipient", "b@down.test")
    assert "its certificate is not the one that its TLSA records name" in row["reason"]
    assert domains.down.count("MAIL") == 0


def test_a_domain_that_is_slow_has_its_few_connections_and_the_others_have_theirs(
    relay: Relay, domains: Domains
) -> None:
    domains.down.script = always("content", STALL)
    table = domains.table(max_concurrency=4, max_concurrency_per_domain=2)
    relay.configure(table).start()
    with relay.client() as client:
        for number in range(MESSAGES):
            content = b"Subject: x\r\n\r\n%d\r\n" % number
            client.sendmail("me@example.org", ["slow@down.test", "quick@up.test"], content)
    until(lambda: len(domains.up.delivered) == MESSAGES, "all mail of the domain that is quick has arrived")
    assert len(domains.down.received) == domains.down.connections == 2
    domains.down.script = lambda step, argument, count: None
    domains.down.release()
    until(lambda: len(domains.down.delivered) == MESSAGES, "the rest follows")
    assert domains.down.connections == 2
