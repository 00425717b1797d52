from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dispatch.mail.reply import Reply
from dispatch.smtp.commands import (
    Chunk,
    parse_any_mail,
    parse_any_recipient,
    parse_chunk,
    parse_mail,
    parse_recipient,
    split,
)
from dispatch.smtp.events import MailOffered, RecipientOffered


def test_every_parameter_of_mail_is_kept() -> None:
    offered = parse_mail("FROM:<a@b.example> size=123 Body=8bitmime SMTPUTF8 RET=hdrs ENVID=QQ+3D1")
    assert offered == MailOffered("a@b.example", 123, "8BITMIME", True, "HDRS", "QQ+3D1")


def test_every_parameter_of_rcpt_is_kept() -> None:
    offered = parse_recipient("TO:<a@b.example> NOTIFY=success,Delay ORCPT=rfc822;A@b.example")
    assert offered == RecipientOffered("a@b.example", "SUCCESS,DELAY", "rfc822;A@b.example")


def test_what_is_not_ascii_needs_smtputf8_whether_asked_for_or_not() -> None:
    assert parse_mail("FROM:<jürgen@a.example>") == MailOffered("jürgen@a.example", smtputf8=True)
    for argument in ("TO:<jürgen@a.example>", "TO:<j@a.example> ORCPT=utf-8;jürgen@a.example"):
        offered = parse_recipient(argument)
        assert isinstance(offered, RecipientOffered)
        assert offered.smtputf8, argument
    plain = parse_recipient("TO:<j@a.example> NOTIFY=NEVER")
    assert isinstance(plain, RecipientOffered)
    assert not plain.smtputf8


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ("SIZE", 501),
        ("SIZE=-1", 501),
        ("SIZE=1e3", 501),
        ("SIZE=" + "9" * 21, 501),
        ("SIZE=1 SIZE=1", 501),
        ("BODY=9BIT", 501),
        ("BODY=BINARYMIME", 501),
        ("SMTPUTF8=1", 501),
        ("RET=NONE", 501),
        ("RET=HDR\u017f", 501),
        ("ENVID=a b", 555),
        ("ENVID=+zz", 501),
        ("ENVID=" + "x" * 101, 501),
        ("AUTH=<>", 555),
        ("NOTIFY=NEVER", 555),
        ("=x", 501),
        ("SIZE==1", 501),
        ("\u017fIZE=1", 501),
    ],
)
def test_bad_parameters_of_mail_refuse_it(parameters: str, code: int) -> None:
    refused = parse_mail(f"FROM:<a@b.example> {parameters}")
    assert isinstance(refused, Reply)
    assert refused.code == code


@pytest.mark.parametrize("submitter", ["<>", "a@b.example", "e+3Dmc2@b.example"])
def test_the_submitter_is_read_and_dropped_where_auth_is_served(submitter: str) -> None:
    offered = parse_mail(f"FROM:<a@b.example> AUTH={submitter} SIZE=12", True)
    assert offered == MailOffered("a@b.example", 12)


@pytest.mark.parametrize(
    "parameters",
    ["AUTH", "AUTH=", "AUTH=a+b", "AUTH=a=b", "AUTH=\u00e9", "AUTH=" + "x" * 501, "AUTH=<> AUTH=<>"],
)
def test_a_bad_submitter_refuses_mail(parameters: str) -> None:
    refused = parse_mail(f"FROM:<a@b.example> {parameters}", True)
    assert isinstance(refused, Reply)
    assert refused.code == 501


@pytest.mark.parametrize(
    "parameters",
    [
        "NOTIFY=",
        "NOTIFY=NEVER,DELAY",
        "NOTIFY=SOMETIMES",
        "NOTIFY=DELAY,",
        "ORCPT=a@b.example",
        "ORCPT=rfc822;a=b",
    ],
)
def test_bad_parameters_of_rcpt_refuse_it(parameters: str) -> None:
    refused = parse_recipient(f"TO:<a@b.example> {parameters}")
    assert isinstance(refused, Reply)
    assert refused.code == 501


@pytest.mark.parametrize(
    "argument", ["", "FROM", "FROM <a@b.example>", "TO:<a@b.example>", "F\u017fOM:<a@b>"]
)
def test_mail_without_from_is_refused(argument: str) -> None:
    assert isinstance(parse_mail(argument), Reply)


@pytest.mark.parametrize(
    ("line", "verb", "argument"),
    [
        (b"noop", b"NOOP", ""),
        (b"NOOP \t ", b"NOOP", ""),
        (b"Mail FROM:<a>  ", b"MAIL", "FROM:<a>"),
        (b" MAIL FROM:<a>", b"", "MAIL FROM:<a>"),
        (b"EHLO B\xfcro", b"EHLO", "B\udcfcro"),
        (b"M\xc4\xb1L x", b"M\xc4\xb1L", "x"),
        (b"", b"", ""),
    ],
)
def test_verbs_are_ascii_and_know_no_case(line: bytes, verb: bytes, argument: str) -> None:
    assert split(line) == (verb, argument)


@pytest.mark.parametrize(
    ("argument", "chunk"),
    [("0", Chunk(0, False)), ("12  last", Chunk(12, True)), ("007 LAST", Chunk(7, True))],
)
def test_chunk(argument: str, chunk: Chunk) -> None:
    assert parse_chunk(argument) == chunk


@pytest.mark.parametrize("argument", ["", "LAST", "-1", "+1", "1LAST", "1 LAST 2", "\u0661", "1 LA\u017fT"])
def test_a_chunk_without_a_readable_size_is_refused(argument: str) -> None:
    assert isinstance(parse_chunk(argument), Reply)


words = 'FROM: to: TO: < > @ a b.c .. . _ - " \\ SIZE= 123 0 BODY= 8bitmime 7BIT SMTPUTF8 [192.0.2.1] é : = +'
pieces = st.sampled_from([*words.split(), " ", " SIZE=", " BODY=", " SMTPUTF8", "\n", "\u017f", "x" * 250])
arguments = st.lists(pieces, max_size=12).map("".join) | st.builds(
    "{}<{}@{}>{}".format,
    st.sampled_from(["FROM:", "TO:", "from:", "to: "]),
    st.text("ab.+=_-/'", max_size=5),
    st.text("ab.-_", max_size=5),
    st.sampled_from(
        ["", " SIZE=12", " BODY=8BITMIME", " SIZE=1 BODY=7bit", " BODY=7BIT SIZE=1", " SIZE=", " "]
    ),
)


@given(arguments)
@example("TO:<a@" + "b" * 256 + ">")
@example("FROM:<a@" + "b" * 256 + ">")
def test_the_short_way_through_the_parser_says_what_the_long_one_says(argument: str) -> None:
    assert parse_mail(argument) == parse_any_mail(argument)
    assert parse_recipient(argument) == parse_any_recipient(argument)
