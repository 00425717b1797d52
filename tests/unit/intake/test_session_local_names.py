"""Mail that a host's own programs hand in: whom the envelope names when it is accepted."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.intake.door import Door

from dispatch.mail.envelope import Envelope, Recipient
from dispatch.policy.local_names import LocalNames
from dispatch.policy.logins import AddressList

END = b"DATA\r\nSubject: x\r\n\r\nbody\r\n.\r\n"
NAMES = LocalNames(
    append_domain="example.org",
    server_name="mx.test",
    aliases=("root: ops@example.net", "all: root, ann, bob"),
)


@pytest.fixture(autouse=True)
def with_aliases(door: Door) -> None:
    door.desk.rules = msgspec.structs.replace(door.desk.rules, local_names=NAMES)


def accepted(door: Door, *commands: bytes) -> Envelope:
    session, wire = door.open()
    session.received(b"".join(command + b"\r\n" for command in commands) + END)
    door.log.answer()
    assert set(wire.heard()) <= {"250", "354"}
    ((message, _),) = door.log.messages
    return message.envelope


def test_bare_names_become_a_person_and_a_completed_sender(door: Door) -> None:
    envelope = accepted(door, b"MAIL FROM:<root>", b"RCPT TO:<root>", b"RCPT TO:<www-data>")
    assert envelope.reverse_path == "root@example.org"
    assert [each.address for each in envelope.recipients] == ["ops@example.net", "www-data@example.org"]


def test_the_null_sender_stays_null(door: Door) -> None:
    assert accepted(door, b"MAIL FROM:<>", b"RCPT TO:<Postmaster>").reverse_path == ""


def test_each_person_behind_an_alias_keeps_what_was_asked_of_reports(door: Door) -> None:
    envelope = accepted(
        door, b"MAIL FROM:<a@b.c>", b"RCPT TO:<all> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;all@mx.test"
    )
    assert envelope.recipients == tuple(
        Recipient(address, "SUCCESS,FAILURE", "rfc822;all@mx.test")
        for address in ("ops@example.net", "ann@example.org", "bob@example.org")
    )


def test_one_who_is_named_by_several_names_gets_it_once(door: Door) -> None:
    envelope = accepted(
        door, b"MAIL FROM:<>", b"RCPT TO:<root>", b"RCPT TO:<all>", b"RCPT TO:<ops@example.net>"
    )
    assert [each.address for each in envelope.recipients] == [
        *("ops@example.net", "ann@example.org", "bob@example.org")
    ]


def test_an_alias_counts_as_the_people_behind_it(door: Door) -> None:
    door.desk.rules = msgspec.structs.replace(door.desk.rules, recipients_max=3)
    session, wire = door.open()
    session.received(b"MAIL FROM:<>\r\nRCPT TO:<a@b.c>\r\nRCPT TO:<all>\r\nRCPT TO:<d@e.f>\r\n")
    assert wire.heard() == ["250", "250", "452", "250"]


def test_a_person_who_may_not_be_written_to_refuses_the_alias_whole(door: Door) -> None:
    allowed = AddressList.parse(("example.org",))
    door.desk.rules = msgspec.structs.replace(door.desk.rules, allowed_recipients=allowed)
    session, wire = door.open()
    session.received(b"MAIL FROM:<>\r\nRCPT TO:<all>\r\nRCPT TO:<ann>\r\n")
    assert wire.heard() == ["250", "550", "250"]
