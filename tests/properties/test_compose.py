"""What is composed reads back as what it was made of, with Python's own parser as the reader."""

import re
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import EmailMessage, Message
from email.policy import compat32, default
from email.utils import getaddresses, unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.properties.drafts import drafts, lines_of, mailboxes, names, texts, words

from dispatch.mime.compose import PLAIN_FIELDS, Attachment, Draft, compose
from dispatch.mime.fields import parameter_field
from dispatch.mime.mailboxes import CONTROL, Mailbox, MalformedMailbox, parse_mailbox, parse_mailboxes
from dispatch.mime.transfer_encoding import BLOCK_BYTES, base64_lines, encode_text

EXAMPLES = settings(max_examples=300, deadline=None)
TOKEN = "f00dcafe"


def field(message: Message, name: str) -> str:
    """Unfolded and decoded, by the part of Python's package that readers have used longest."""
    raw = message.get(name)
    assert raw is not None
    return str(make_header(decode_header(re.sub(r"\r\n(?=[ \t])", "", str(raw)))))


def people(message: Message, name: str) -> list[tuple[str, str]]:
    if name not in message:
        return []
    found = getaddresses([re.sub(r"\r\n(?=[ \t])", "", str(message[name]))])
    return [(str(make_header(decode_header(shown))), address) for shown, address in found]


def read(draft: Draft) -> tuple[bytes, EmailMessage]:
    content = b"".join(compose(draft, TOKEN))
    message = message_from_bytes(content, policy=default)
    assert isinstance(message, EmailMessage)
    return content, message


def leaves(message: EmailMessage) -> list[EmailMessage]:
    return [part for part in message.walk() if not part.is_multipart()]


@EXAMPLES
@given(drafts)
def test_every_line_can_be_sent(draft: Draft) -> None:
    content, _ = read(draft)
    assert re.search(rb"(?<!\r)\n|\r(?!\n)|\0", content) is None
    assert content.endswith(b"\r\n")
    assert max(map(len, content.split(b"\r\n"))) <= 998
    header = content.partition(b"\r\n\r\n")[0]
    written = [line.partition(b":")[0] for line in header.split(b"\r\n") if line[:1] not in b" \t"]
    assert len(written) <= 9 + len(draft.headers), "no value became a field"
    assert not any(line.isspace() or not line for line in header.split(b"\r\n"))
    addresses = (draft.sender, *draft.to, *draft.cc, *draft.reply_to)
    assert content.isascii() == all(mailbox.address.isascii() for mailbox in addresses)


@EXAMPLES
@given(drafts)
@example(Draft(Mailbox("", "a@example.org"), subject=" a  b "))
@example(Draft(Mailbox("=?utf-8?q?x?=", "a@example.org"), subject="=?utf-8?q?x?="))
@example(Draft(Mailbox("x" * 2000, "a@example.org"), subject="y" * 2000))
def test_the_fields_read_back(draft: Draft) -> None:
    content = b"".join(compose(draft, TOKEN)).partition(b"\r\n\r\n")[0]
    header = message_from_bytes(content, policy=compat32)
    assert field(header, "Subject") == draft.subject
    for name, wanted in zip(
        ("From", "To", "Cc", "Reply-To"), ([draft.sender], draft.to, draft.cc, draft.reply_to), strict=True
    ):
        ascii_only = [mailbox for mailbox in wanted if mailbox.address.isascii()]
        if len(ascii_only) == len(wanted):
            assert people(header, name) == [tuple(mailbox) for mailbox in wanted]


@EXAMPLES
@given(drafts)
def test_the_parts_read_back(draft: Draft) -> None:
    _, message = read(draft)
    assert not message.defects
    parts = leaves(message)
    texts = [
        part
        for part in parts
        if part.get_content_maintype() == "text" and not part.get("Content-Disposition")
    ]
    wanted = [text for text in (draft.text, draft.html) if text is not None]
    assert [part.get_payload(decode=True) for part in texts if wanted] == [
        lines_of(text).encode() for text in wanted
    ]
    files = [part for part in parts if part.get("Content-Disposition")]
    shown = [each for each in draft.attachments if each.content_id and draft.html is not None]
    ordered = [*shown, *(each for each in draft.attachments if each not in shown)]
    assert [part.get_payload(decode=True) for part in files] == [b"".join(each.blocks) for each in ordered]
    assert [part.get_filename() or "" for part in files] == [unquote(each.filename) for each in ordered]


@EXAMPLES
@given(texts)
def test_text_survives_its_encoding(text: str) -> None:
    encoding, body = encode_text(text)
    message = message_from_bytes(b"Content-Transfer-Encoding: " + encoding.encode() + b"\r\n\r\n" + body)
    assert message.get_payload(decode=True) == lines_of(text).encode()
    assert body.isascii()
    if encoding != "7bit":
        assert max(map(len, body.split(b"\r\n"))) <= 76
    assert not re.search(rb"(?m)^From |[ \t]\r\n", body)


@given(st.binary(max_size=300), st.integers(0, 3), st.integers(1, 500))
def test_base64_is_the_same_however_it_comes(data: bytes, large: int, cut: int) -> None:
    data += b"\x5a" * (large * BLOCK_BYTES)
    pieces = [data[at : at + cut * 100] for at in range(0, len(data), cut * 100)]
    assert b"".join(base64_lines(pieces)) == b"".join(base64_lines([data]))


@given(names)
def test_a_file_name_reads_back(name: str) -> None:
    field = parameter_field("Content-Disposition", "attachment", [("filename", name)])
    assert (message_from_bytes(field, policy=default).get_filename() or "") == unquote(name)
    assert max(map(len, field.split(b"\r\n"))) <= 78


@given(
    st.text(max_size=30),
    st.sampled_from("\r\n\0\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\x7f\ud800"),
    st.text(max_size=30),
)
def test_no_line_break_of_any_kind_is_written(before: str, bad: str, after: str) -> None:
    value = before + bad + after
    good = Mailbox("", "a@example.org")
    for draft in (
        Draft(good, subject=value),
        Draft(Mailbox(value, "a@example.org")),
        Draft(Mailbox("", value)),
        Draft(good, to=[good, Mailbox(value, "b@example.org")]),
        Draft(good, headers=[("X-One", value)]),
        Draft(good, headers=[("References", value)]),
        Draft(good, attachments=[Attachment(value, "a/b", ())]),
        Draft(good, attachments=[Attachment("", f"a/{value}", ())]),
        Draft(good, attachments=[Attachment("", "a/b", (), content_id=value)]),
    ):
        with pytest.raises(ValueError, match=r"character|type/subtype|ASCII"):
            compose(draft, TOKEN)
    with pytest.raises(MalformedMailbox):
        parse_mailbox(f"{value} <a@example.org>")


@given(st.sampled_from(sorted(PLAIN_FIELDS)), words)
def test_a_field_without_encoded_words_is_plain_or_refused(name: str, value: str) -> None:
    draft = Draft(Mailbox("", "a@example.org"), headers=[(name, value)])
    try:
        content = b"".join(compose(draft, TOKEN))
    except ValueError:
        assert not value.isascii() or "  " in value or value != value.strip()
    else:
        read_back = message_from_bytes(content)[name]
        assert re.sub(r"\r?\n(?=[ \t])", "", read_back).strip() == value


@given(st.lists(mailboxes, max_size=4))
def test_a_list_of_mailboxes_is_read_as_it_is_written(wanted: list[Mailbox]) -> None:
    quoted = [
        address if not name else '"{}" <{}>'.format(re.sub(r'(["\\])', r"\\\1", name), address)
        for name, address in wanted
    ]
    assert parse_mailboxes(" , ".join(quoted)) == wanted
    for one, mailbox in zip(quoted, wanted, strict=True):
        assert parse_mailbox(one) == mailbox


@given(st.text(max_size=60))
def test_whatever_is_read_as_a_mailbox_has_no_control_character(text: str) -> None:
    try:
        found = parse_mailboxes(text)
    except MalformedMailbox as refused:
        assert not CONTROL.search(str(refused))
    else:
        assert not any(CONTROL.search(part) for mailbox in found for part in mailbox)
