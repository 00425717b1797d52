"""What a message over HTTP may say: every mistake at once, each with its path, and nothing guessed."""

from base64 import b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.intake.http.messages import Offer, read_offer
from dispatch.intake.http.problems import Problem
from dispatch.mime.compose import compose
from dispatch.mime.mailboxes import Mailbox

PLAIN: dict[str, object] = {"from": "me@example.org", "to": ["you@example.net"], "subject": "x", "text": "y"}
DEFAULT = Mailbox("Shop", "shop@example.org")


def read(document: object, default: Mailbox | None = None) -> Offer:
    return read_offer(msgspec.json.encode(document), default)


def wrong(document: object) -> dict[str, str]:
    with pytest.raises(Problem) as caught:
        read(document)
    assert (caught.value.status, caught.value.code) == (400, "invalid_fields")
    return dict(caught.value.errors)


def test_everything_that_it_says() -> None:
    offer = read(
        {
            "from": "Žofie <me@example.org>",
            "to": ["A <a@example.net>, b@example.net", "b@example.net"],
            "cc": "c@example.net",
            "bcc": ["d@example.net", "a@example.net"],
            "reply_to": "answers@example.org",
            "subject": "Grüße",
            "text": "text",
            "html": "<p>html",
            "headers": {"X-Order": "12"},
            "tags": ["one", "two", "one"],
            "priority": "high",
            "relay": "smarthost",
            "attachments": [
                {
                    "filename": "a.pdf",
                    "content_type": "application/pdf",
                    "content": b64encode(b"%PDF").decode(),
                },
                {"filename": "logo.png", "content": "", "content_id": "logo"},
            ],
        }
    )
    draft = offer.draft
    assert draft.sender == Mailbox("Žofie", "me@example.org")
    assert [each.address for each in draft.to] == ["a@example.net", "b@example.net", "b@example.net"]
    assert offer.recipients == tuple(
        (f"{name}@example.net", path)
        for name, path in (("a", "to[0]"), ("b", "to[0]"), ("c", "cc"), ("d", "bcc[0]"))
    ), "each once, with the first place where it stands"
    assert (offer.tags, offer.priority, offer.relay) == (("one", "two"), "high", "smarthost")
    assert [
        (each.filename, each.content_type, b"".join(each.blocks), each.content_id)
        for each in draft.attachments
    ] == [
        ("a.pdf", "application/pdf", b"%PDF", ""),
        ("logo.png", "application/octet-stream", b"", "logo"),
    ]


def test_the_key_says_who_it_is_from_where_the_message_does_not() -> None:
    without = {name: value for name, value in PLAIN.items() if name != "from"}
    assert read(without, DEFAULT).draft.sender == DEFAULT
    assert read(PLAIN, DEFAULT).draft.sender == Mailbox("", "me@example.org")
    assert wrong(without) == {"from": "is missing"}


def test_domains_of_other_scripts_are_written_as_dns_has_them() -> None:
    offer = read({**PLAIN, "to": ["info@例え.example", "用户@例え.example"]})
    assert [address for address, _ in offer.recipients] == [
        "info@xn--r8jz45g.example",
        "用户@xn--r8jz45g.example",
    ]


WRONG: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing": ({}, {"from", "to", "text"}),
    "nobody": ({**PLAIN, "to": []}, {"to"}),
    "nobody, in words": ({**PLAIN, "to": [""], "cc": " ", "bcc": [" , "]}, {"to"}),
    "nothing in from": ({**PLAIN, "from": " ", "subject": 1}, {"from", "subject"}),
    "nobody and no sender": ({"from": None, "text": "x"}, {"from", "to"}),
    "misspelt": ({**PLAIN, "subjekt": "x"}, {"subjekt"}),
    "kinds": ({**PLAIN, "to": 1, "cc": [1], "subject": 1, "text": 1}, {"to", "cc[0]", "subject", "text"}),
    "addresses": ({**PLAIN, "to": ["a b@c", "a <b> <c>", "ok@example.net"]}, {"to[0]", "to[1]"}),
    "two senders": ({**PLAIN, "from": "a@b.example, c@d.example"}, {"from"}),
    "line breaks": ({**PLAIN, "subject": "a\u2028b", "from": "x\r\n <a@b.example>"}, {"subject", "from"}),
    "headers": (
        {
            **PLAIN,
            "headers": {
                "Bcc": "a@b",
                "X:Y": "",
                "X-A": "b\nc",
                "content-type": "x",
                "X-Dispatch-Tag": "y",
                "": "",
            },
        },
        {
            "headers.Bcc",
            "headers.X:Y",
            "headers.X-A",
            "headers.content-type",
            "headers.X-Dispatch-Tag",
            "headers.",
        },
    ),
    "files": (
        {
            **PLAIN,
            "attachments": [
                {"filename": "../a", "content": "YQ=="},
                {"filename": "a", "content": "YQ"},
                {"filename": "a", "content": "Y Q=="},
                {"filename": "a", "content": "YQ==", "content_type": "text/plain; charset=utf-8"},
                {"filename": "a", "content": "YQ==", "content_id": "<x>"},
                {"content": "YQ==", "name": "a"},
                "a",
            ],
        },
        {
            "attachments[0].filename",
            "attachments[1].content",
            "attachments[2].content",
            "attachments[3].content_type",
            "attachments[4].content_id",
            "attachments[5].filename",
            "attachments[5].name",
            "attachments[6]",
        },
    ),
    "others": (
        {**PLAIN, "tags": "one", "priority": "urgent", "headers": []},
        {"tags", "priority", "headers"},
    ),
    "surrogate": ({**PLAIN, "tags": ["x" * 100]}, {"tags[0]"}),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_every_mistake_at_once_with_its_path(name: str) -> None:
    document, paths = WRONG[name]
    assert set(wrong(document)) == paths


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"1", b'"x"', b"\xff", b'{"subject": "\xff"}', b'{"a":1}x']
)
def test_what_is_no_json_object(body: bytes) -> None:
    with pytest.raises(Problem) as caught:
        read_offer(body, None)
    assert caught.value.status == 400


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.text(max_size=20)
    | st.sampled_from(["a@b.example", "YQ==", "", " ", ","]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
documents = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            (
                "to",
                "cc",
                "bcc",
                "reply_to",
                "subject",
                "text",
                "html",
                "headers",
                "tags",
                "priority",
                "relay",
            ),
            values,
        ),
        "from": values | st.just("me@example.org"),
        "attachments": values
        | st.lists(
            st.dictionaries(st.sampled_from(["filename", "content", "content_type", "content_id"]), values)
        ),
    },
)


@given(documents)
def test_whatever_it_says_it_is_taken_or_told_what_is_wrong(document: dict[str, object]) -> None:
    try:
        offer = read(document)
    except Problem as problem:
        assert problem.status == 400
        assert problem.errors
        return
    content = b"".join(compose(offer.draft, "f00d"))
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert offer.recipients
