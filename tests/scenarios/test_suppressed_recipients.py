"""An address on the suppression list: refused at RCPT, not tried any more; or taken, and never sent."""

from __future__ import annotations

from tests.scenarios.relay import Relay, until
from tests.scenarios.upstream import Upstream


def test_nothing_is_sent_to_who_is_suppressed(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table(), spool={"retry_delays_seconds": [2]}).start()
    upstream.stop()
    waiting = relay.send(to=("gone@example.net",))
    until(lambda: relay.said("retrying"), "it waits")
    assert relay.json("suppression", "add", "GONE@example.net", "--reason", "left")["unconfirmed"] == []
    with relay.client() as client:
        client.mail("me@example.org")
        code, text = client.rcpt("gone@example.net")
    assert code == 550 and text.startswith(b"5.1.1 ")
    assert [line["kind"] for line in relay.said("denied")] == ["suppressed"]
    story = relay.story_in_state(waiting, "suppressed")
    assert [each["move"] for each in story["timeline"]][-1] == "suppress"

    relay.configure(upstream.table(), listener={"reject_suppressed": False}).reload()
    taken = relay.send(to=("gone@example.net", "here@example.net"))
    upstream.start()
    until(lambda: any("here@example.net" in each.recipients for each in upstream.delivered), "it goes on")
    until(lambda: relay.counted("delivered"), "history has it")
    told = {each["address"]: each["state"] for each in relay.story(taken)["deliveries"]}
    assert told == {"gone@example.net": "suppressed", "here@example.net": "delivered"}
    assert not any("gone@example.net" in each.recipients for each in upstream.delivered)
    assert relay.counted("suppressed") == 2
