"""What holds for every header section, with Python's own parser as the second opinion."""

from email import message_from_bytes
from email.header import Header
from email.policy import compat32
from email.utils import formatdate, parsedate_to_datetime
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.mime.encoded_words import decode_words
from dispatch.mime.handover import Handover, for_relay
from dispatch.mime.inspect import header_end, inspect
from dispatch.mime.trace import date_text, received_field

EXAMPLES = settings(max_examples=200, deadline=None)

OWN = "relay.example.org"
UNWANTED = ("bcc", "resent-bcc", "x-dispatch-")

names = st.sampled_from(
    [
        "Date",
        "SUBJECT",
        "Message-Id",
        "From",
        "Received",
        "bcc",
        "Resent-Bcc",
        "X-Dispatch-Tag",
        "x-dispatch-",
        "To",
        "X-DISPATCH-Priority",
        "X-Mailer",
        "X-Other",
        "Bccc",
        "Subjects",
        "X-Dispatch-" + "y" * 70,
    ]
)
texts = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)
values = st.lists(texts, min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from([" ", "\r\n ", "\r\n\t"]).map(lambda fold: fold.join(parts))
)
fields = st.builds("{}: {}\r\n".format, names, values)
heads = st.lists(fields, max_size=8).map("".join)
bodies = st.sampled_from([b"", b"\r\n", b"\r\nbody\r\n", b"\r\nBcc: body\r\n\r\nDate: body\r\n"])
contents = st.builds(lambda head, body: head.encode() + body, heads, bodies)
soups = st.lists(
    st.sampled_from(
        [
            b"\r\n",
            b"\n",
            b"\r",
            b"Bcc:",
            b"bcc :",
            b" ",
            b"\t",
            b"X-Dispatch-Tag:",
            b"To: a",
            b"From x",
            b"=?",
            b"\x00",
            b"Date:",
            b"Received: by",
            b"x" * 100,
            b"\xff",
            b":",
        ]
    ),
    max_size=30,
).map(b"".join)


@EXAMPLES
@given(contents)
def test_fields_are_seen_as_pythons_parser_sees_them(content: bytes) -> None:
    seen = inspect(content, OWN)
    parsed = message_from_bytes(content, policy=compat32)
    assert seen.has_date is ("date" in parsed)
    assert seen.has_message_id is ("message-id" in parsed)
    assert seen.received_count == len(parsed.get_all("received", []))
    for shown, name in ((seen.summary.subject, "subject"), (seen.summary.header_from, "from")):
        value = parsed.get(name, "")
        if "=?" not in value:
            assert shown.split() == value.split()


@EXAMPLES
@given(soups)
def test_nothing_makes_inspection_fail_or_show_control_characters(content: bytes) -> None:
    seen = inspect(content, OWN)
    assert 0 <= seen.header_start <= seen.header_end <= len(content)
    for text in (seen.summary.subject, seen.summary.header_from, seen.summary.message_id, *seen.summary.tags):
        assert not any(ord(character) < 32 for character in text)


@EXAMPLES
@given(contents)
def test_hand_over_takes_out_the_unwanted_fields_and_nothing_else(content: bytes) -> None:
    handed = for_relay(content, verbatim=False)
    parsed, expected = (
        message_from_bytes(handed, policy=compat32),
        message_from_bytes(content, policy=compat32),
    )
    kept = [
        (name, value)
        for name, value in expected.items()
        if name.lower() not in UNWANTED[:2]
        and not (name.lower().startswith(UNWANTED[2]) and 11 < len(name) <= 75)
    ]
    assert parsed.items() == kept
    assert parsed.get_payload() == expected.get_payload()
    if len(kept) == len(expected.items()):
        assert handed is content


@EXAMPLES
@given(soups | contents, st.data())
def test_block_borders_change_nothing_at_hand_over(content: bytes, data: st.DataObject) -> None:
    whole = for_relay(content, verbatim=False)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(content)), max_size=12)))
    for borders in ([0, *cuts, len(content)], list(range(len(content) + 1))):
        handover = Handover()
        pieces = [handover.feed(content[begin:end]) for begin, end in pairwise(borders)]
        assert b"".join(pieces) + handover.finish() == whole


@EXAMPLES
@given(soups | contents)
def test_hand_over_never_touches_the_body_and_is_done_after_one_pass(content: bytes) -> None:
    handed = for_relay(content, verbatim=False)
    assert handed.endswith(content[header_end(content) :])
    assert for_relay(handed, verbatim=False) is handed


@EXAMPLES
@given(st.integers(0, 253_402_300_799))
def test_dates_are_those_of_python(epoch_s: int) -> None:
    assert date_text(epoch_s) == formatdate(epoch_s).replace("-0000", "+0000")
    assert parsedate_to_datetime(date_text(epoch_s)).timestamp() == epoch_s


@EXAMPLES
@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80), st.text(max_size=80))
def test_no_inserted_value_breaks_out_of_the_trace_field(
    client_name: str, client_address: str, recipient: str, tls: str
) -> None:
    field = received_field(
        client_name=client_name,
        client_address=client_address,
        own_name=OWN,
        with_type="ESMTPS",
        id_text="spl_0",
        recipient=recipient,
        epoch_s=0,
        tls=tls,
    )
    assert [name for name, _ in message_from_bytes(field + b"\r\n").items()] == ["Received"]
    lines = field.split(b"\r\n")
    assert not any(byte < 32 and byte != 9 for line in lines for byte in line)


@EXAMPLES
@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=60))
def test_encoded_words_of_python_are_read_back(text: str) -> None:
    header = Header(text, "utf-8", maxlinelen=75).encode()
    assert decode_words(header.replace("\n ", "\r\n ")) == text


@EXAMPLES
@given(st.text("=?utf-8BbQq_ \t=20GFû*", max_size=80))
def test_nothing_makes_decoding_fail(text: str) -> None:
    decoded = decode_words(text)
    if "=?" not in text:
        assert decoded == text
