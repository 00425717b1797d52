"""The sender as a relay wants it, and not a byte more."""

from email import message_from_bytes
from email.policy import default as email_policy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.mime.handover import for_relay
from dispatch.mime.inspect import header_end
from dispatch.mime.rewrite import SenderRewrite, rewrite_header, rewrite_reverse_path

HEADER = (
    b"Received: from x\r\n\tby y; z\r\nFrom: Joe <joe@example.com>\r\nTo: a@b\r\nSubject: From: no\r\n\r\n"
)
FROM = SenderRewrite(header_from="relay@example.org")
REPLY_TO = SenderRewrite(reply_to="help@example.org")
KEEP = SenderRewrite(header_from="relay@example.org", keep_from_as_reply_to=True)


def test_nothing_to_replace_is_the_same_object() -> None:
    assert rewrite_header(HEADER, SenderRewrite(envelope_from="a@example.org")) is HEADER


def test_the_envelope_sender_is_replaced_and_null_stays_null() -> None:
    rewrite = SenderRewrite(envelope_from="bounces@example.org")
    assert rewrite_reverse_path("joe@example.com", rewrite) == "bounces@example.org"
    assert rewrite_reverse_path("", rewrite) == ""
    assert rewrite_reverse_path("joe@example.com", FROM) == "joe@example.com"


def test_from_is_replaced_where_it_stood() -> None:
    assert rewrite_header(HEADER, FROM) == HEADER.replace(b"joe@example.com", b"relay@example.org")


def test_a_body_behind_the_header_section_is_not_touched() -> None:
    body = b"From: body@b\r\nReply-To: body@b\r\n\r\nFrom: body@b\r\n"
    both = SenderRewrite(header_from="relay@example.org", reply_to="help@example.org")
    assert rewrite_header(HEADER + body, both) == rewrite_header(HEADER, both) + body


@pytest.mark.parametrize(
    "old",
    [
        b"From: a@x\r\n",
        b"FROM:a@x\r\n",
        b"from \t : a@x\r\n",
        b"From:\r\n",
        b"From: a@x,\r\n\tb@x,\r\n c@x\r\n",
        b"From:\r\n \r\n <@old.route,@x:a@x>\r\n",
        b"From: A Group: a@x, b@x;\r\n",
        b"From: a@x (who (really) knows)\r\n",
        b'From: "unclosed <a@x>\r\n',
        b"From: a@x, B <b@x>\r\n",
        b"From: bell\x07 <a@x>\r\n",
        b"From: name@name <a@x>\r\n",
    ],
)
@pytest.mark.parametrize("before", [b"", b"To: c@d\r\n\tfolded\r\n"])
def test_every_from_is_replaced_by_one(old: bytes, before: bytes) -> None:
    after = b"X-From: y\r\nFrom-X: y\r\n"
    assert rewrite_header(before + old + after + old + b"\r\n", FROM) == (
        before + b"From: relay@example.org\r\n" + after + b"\r\n"
    )


@pytest.mark.parametrize(
    "name",
    [
        b"Joe",
        b"Joe Q. Public",
        b'"Public, Joe <evil@x> \\"Q\\""',
        b"=?utf-8?Q?Gr=C3=BC=C3=9Fe?= =?utf-8?B?w7w=?=",
        "Grüße".encode(),
        '"Grüße, Joe"'.encode(),
        b"Joe\r\n\tPublic",
        b"Joe (Accounts)",
    ],
)
def test_a_display_name_is_kept_as_it_was_written_or_dropped(name: bytes) -> None:
    header = b"From: " + name + b"<joe@example.com>\r\n\r\n"
    assert rewrite_header(header, FROM) == b"From: " + name + b" <relay@example.org>\r\n\r\n"
    drop = SenderRewrite(header_from="relay@example.org", keep_display_name=False)
    assert rewrite_header(header, drop) == b"From: relay@example.org\r\n\r\n"


def test_a_long_name_gets_the_address_on_a_line_of_its_own() -> None:
    name = b"x" * 70
    header = b"From: " + name + b" <joe@example.com>\r\n"
    assert rewrite_header(header, FROM) == b"From: " + name + b"\r\n <relay@example.org>\r\n"


def test_a_name_too_long_for_a_line_is_dropped() -> None:
    header = b"From: " + b"x" * 1100 + b" <joe@example.com>\r\n"
    assert rewrite_header(header, FROM) == b"From: relay@example.org\r\n"


@pytest.mark.parametrize("end", [b"", b"\r\n", b"\r\nbody"])
def test_a_missing_field_is_added_at_the_end_of_the_section(end: bytes) -> None:
    assert rewrite_header(b"To: a@b\r\n" + end, FROM) == b"To: a@b\r\nFrom: relay@example.org\r\n" + end
    assert (
        rewrite_header(b"To: a@b\r\n" + end, REPLY_TO) == b"To: a@b\r\nReply-To: help@example.org\r\n" + end
    )


def test_a_field_is_added_behind_a_line_that_nobody_ended() -> None:
    assert rewrite_header(b"To: a@b", FROM) == b"To: a@b\r\nFrom: relay@example.org\r\n"
    assert rewrite_header(b"", FROM) == b"From: relay@example.org\r\n"
    assert rewrite_header(b"\r\nbody", FROM) == b"From: relay@example.org\r\n\r\nbody"


def test_every_reply_to_is_replaced_by_one() -> None:
    header = b"reply-to : x@y,\r\n z@y\r\nTo: a@b\r\nREPLY-TO:\r\nReply-To-X: y\r\n\r\n"
    expected = b"Reply-To: help@example.org\r\nTo: a@b\r\nReply-To-X: y\r\n\r\n"
    assert rewrite_header(header, REPLY_TO) == expected


def test_the_old_from_becomes_reply_to_if_there_is_none() -> None:
    header = b"From: Joe <joe@example.com>,\r\n\tAnn <ann@example.com>\r\nFrom: second@x\r\nTo: a@b\r\n\r\n"
    assert rewrite_header(header, KEEP) == (
        b"From: Joe <relay@example.org>\r\nTo: a@b\r\n"
        b"Reply-To: Joe <joe@example.com>,\r\n\tAnn <ann@example.com>\r\n\r\n"
    )


def test_replies_go_where_the_message_or_the_setting_says_before_they_go_to_the_old_from() -> None:
    header = b"From: joe@example.com\r\nReply-To: list@example.com\r\n\r\n"
    assert rewrite_header(header, KEEP) == b"From: relay@example.org\r\nReply-To: list@example.com\r\n\r\n"
    both = SenderRewrite(
        header_from="relay@example.org", reply_to="help@example.org", keep_from_as_reply_to=True
    )
    assert rewrite_header(header, both) == b"From: relay@example.org\r\nReply-To: help@example.org\r\n\r\n"


@pytest.mark.parametrize("old", [b"", b"From:\r\n", b"From: root\r\n"])
def test_an_old_from_that_cannot_be_answered_is_not_kept(old: bytes) -> None:
    assert rewrite_header(old, KEEP) == b"From: relay@example.org\r\n"


def test_the_old_from_makes_no_line_too_long() -> None:
    value = b"x" * 980 + b"@example.com"
    kept = rewrite_header(b"From: " + value + b"\r\n", KEEP)
    assert kept.endswith(b"\r\nReply-To:\r\n " + value + b"\r\n")
    assert max(map(len, kept.split(b"\r\n"))) <= 998


def test_it_composes_with_what_must_not_leave() -> None:
    header = b"Bcc: secret@x\r\nFrom: joe@example.com\r\nX-Dispatch-Tag: t\r\n\r\n"
    expected = b"From: relay@example.org\r\nReply-To: joe@example.com\r\n\r\n"
    assert rewrite_header(for_relay(header, verbatim=False), KEEP) == expected
    assert for_relay(rewrite_header(header, KEEP), verbatim=False) == expected


@pytest.mark.parametrize(
    "address",
    [
        "",
        "joe",
        "@example.org",
        "joe@",
        "Joe <joe@example.org>",
        "joe@example.org\r\nBcc: x@y",
        "joe@example.org\n",
        "jo e@example.org",
        "joe@example.org, ann@example.org",
        "jöe@example.org",
        "joe@exämple.org",
        "joe@-example.org",
        "joe..public@example.org",
        "j" * 255 + "@example.org",
    ],
)
@pytest.mark.parametrize("setting", ["envelope_from", "header_from", "reply_to"])
def test_settings_that_are_no_address_are_refused(setting: str, address: str) -> None:
    with pytest.raises(ValueError, match="no address"):
        SenderRewrite(**{setting: address})  # type: ignore[arg-type]  # which one is the parameter


pieces = st.sampled_from(
    [
        b"From",
        b"from ",
        b"REPLY-TO",
        b"To",
        b"X-From",
        b":",
        b" ",
        b"\t",
        b"\r\n",
        b"\r\n ",
        b"\r\n\t",
        b'"',
        b"\\",
        b"(",
        b")",
        b"<",
        b">",
        b",",
        b";",
        b"@",
        b"a",
        b"=?utf-8?Q?=C3=BC?=",
        "ü".encode(),
        b"\x00",
        b"\r\nFrom: a <a@x>",
        b"\r\nReply-To: b@x",
    ]
)


def lines_of_other_fields(header: bytes) -> list[bytes]:
    """Line by line, as one would by hand."""
    kept: list[bytes] = []
    replaced = False
    for line in header.split(b"\n"):
        if line[:1] not in (b" ", b"\t"):
            replaced = (
                line.partition(b":")[0].rstrip(b" \t").lower() in (b"from", b"reply-to") and b":" in line
            )
        if not replaced:
            kept.append(line)
    return kept


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces, max_size=40).map(b"".join), st.booleans(), st.booleans())
def test_whatever_the_header_says_only_the_sender_changes(header: bytes, keep_name: bool, keep: bool) -> None:
    # A section as others hand it over: every line ended, and no empty one within.
    header = header[: header_end(header)].strip(b"\r\n") + b"\r\n"
    rewrite = SenderRewrite(
        header_from="relay@example.org", keep_display_name=keep_name, keep_from_as_reply_to=keep
    )
    rewritten = rewrite_header(header, rewrite)
    assert lines_of_other_fields(rewritten) == lines_of_other_fields(header)
    names = [line.partition(b":")[0].lower() for line in rewritten.split(b"\n") if line[:1] not in b" \t"]
    assert names.count(b"from") == 1
    assert rewritten.count(b"relay@example.org") == 1


def test_other_readers_see_the_new_sender_and_the_old_name() -> None:
    header = b'From: "Doe, Joe" <joe@example.com>\r\nTo: a@b\r\n\r\n'
    read = message_from_bytes(rewrite_header(header, KEEP), policy=email_policy)
    (sender,) = read["From"].addresses
    assert (sender.display_name, sender.addr_spec) == ("Doe, Joe", "relay@example.org")
    (answered,) = read["Reply-To"].addresses
    assert answered.addr_spec == "joe@example.com"
