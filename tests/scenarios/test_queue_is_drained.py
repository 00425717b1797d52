"""The relay is drained: clients are put off, the queue empties, a restart changes nothing, and back."""

from __future__ import annotations

import json
import os
import smtplib

import pytest
from tests.scenarios.relay import Relay, until
from tests.scenarios.upstream import Upstream


def test_no_mail_is_taken_until_a_person_says_so(relay: Relay, upstream: Upstream) -> None:
    relay.configure(upstream.table(), spool={"retry_delays_seconds": [1]}).start()
    upstream.stop()
    relay.send()
    until(lambda: relay.said("retrying"), "it waits")
    left = json.loads(relay.cli("queue", "drain", "--timeout", "0", "--json", code=os.EX_TEMPFAIL))
    assert (left["empty"], left["connections"], left["in_log_bytes"]) == (False, 0, 0)
    with pytest.raises(smtplib.SMTPConnectError) as refused:
        relay.client()
    assert refused.value.smtp_code == 421
    relay.kill()
    relay.start()
    assert relay.said("intake_closed")
    with pytest.raises(smtplib.SMTPConnectError):
        relay.client()
    upstream.start()
    assert "The queue is empty." in relay.cli("queue", "drain", "--timeout", "60")
    assert len(upstream.delivered) == 1
    relay.cli("queue", "accept")
    relay.send()
    until(lambda: len(upstream.delivered) == 2, "mail flows again")
