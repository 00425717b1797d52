"""The rules by which senders are told, from the settings; and what is said where nobody answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.store.messages import message

from dispatch.app.bounces import OverTheBus, dsn_rules, expiries
from dispatch.mail.envelope import Envelope, Recipient
from dispatch.outcomes.bounce import NoAnswer
from dispatch.runtime.machine import SystemDisk
from dispatch.settings.model import Bounce, Listener, Settings, Spool
from dispatch.settings.relay_keys import Relay

RELAYS = (
    Relay(name="main", host="mx.example.org", default=True, dsn="authenticated", max_age_hours=2.0),
    Relay(name="other", host="mx.example.org", dsn="off", max_age_hours=None),
)


def test_rules_come_from_the_settings() -> None:
    settings = Settings(
        listener=Listener(server_name="relay.test"),
        bounce=Bounce(delay_notice_hours=0.5, gather_seconds=7.0, return_content_max_bytes=1000),
        relays=RELAYS,
    )
    rules = dsn_rules(settings)
    assert (rules.reporting_mta, rules.sender) == ("relay.test", "MAILER-DAEMON@relay.test")
    assert rules.policies == {"main": "authenticated", "other": "off"}
    assert rules.default_policy == "authenticated", "as the default relay, for what met none"
    assert (rules.delay_notice_after_s, rules.gather_s, rules.full_bytes_max) == (1800.0, 7.0, 1000)


def test_a_sender_may_be_set_and_delays_left_untold() -> None:
    rules = dsn_rules(Settings(bounce=Bounce(sender="postmaster@example.org", delay_notice_hours=None)))
    assert rules.sender == "postmaster@example.org"
    assert rules.delay_notice_after_s is None


def test_mail_is_tried_as_long_as_its_relay_says() -> None:
    expires_after_ms = expiries(Settings(spool=Spool(max_age_hours=1.0), relays=RELAYS))
    assert [expires_after_ms(name) for name in ("main", "other", "gone")] == [7_200_000, None, 3_600_000]


def test_processes_that_are_not_there_do_not_answer(tmp_path: Path) -> None:
    post = OverTheBus(tmp_path, SystemDisk(tmp_path))
    with pytest.raises(NoAnswer, match="delivery"):
        post.original(message(1), whole=True)
    with pytest.raises(NoAnswer, match="intake"):
        post.submit(Envelope("", (Recipient("me@example.org"),)), b"\r\n", "k")
