"""Messages of all kinds as values, to be composed: what `test_compose` and `test_compose_foreign` draw."""

import re

from hypothesis import strategies as st

from dispatch.mime.compose import Attachment, Draft
from dispatch.mime.mailboxes import Mailbox

characters = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029")
tricky = st.sampled_from(
    ["=?utf-8?q?x?=", "  ", " ", "=", "?=", '"', "\\", "ü", "用户", "𝄞", ",", "<", ">", "@", "%41"]
)
words = st.text(characters, max_size=40) | st.lists(tricky | st.text(max_size=3, alphabet=characters)).map(
    "".join
)
long_words = words | words.map(lambda text: (text + " ") * 40)
names = words.map(str.strip)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300) | st.lists(
    st.sampled_from(
        ["From ", ".", "..", " ", "\t", "\n", "\r\n", "\r", "a", "ü" * 30, "=", "x" * 997, "\0", "From: x\n"]
    )
).map("".join)
local_parts = st.from_regex(r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,30}", fullmatch=True)
mailboxes = st.builds(
    Mailbox, names, local_parts.map("{}@example.org".format) | st.just("grüße@例え.example")
)
blocks = st.lists(st.binary(max_size=2000), max_size=4)
files = st.builds(
    Attachment,
    filename=names,
    content_type=st.sampled_from(
        ["application/pdf", "image/png", "text/plain", "message/rfc822", "multipart/x"]
    ),
    blocks=blocks,
)
images = st.builds(
    Attachment,
    filename=names,
    content_type=st.just("image/png"),
    blocks=blocks,
    content_id=st.sampled_from(["logo@example.org", "a.b"]),
)
attachments = files | images
drafts = st.builds(
    Draft,
    sender=mailboxes,
    to=st.lists(mailboxes, max_size=5),
    cc=st.lists(mailboxes, max_size=2),
    reply_to=st.lists(mailboxes, max_size=1),
    subject=long_words,
    text=st.none() | texts,
    html=st.none() | texts,
    headers=st.lists(
        st.tuples(st.sampled_from(["X-One", "X-Two-And-A-Longer-Name"]), long_words), max_size=2
    ),
    attachments=st.lists(attachments, max_size=3),
)


def lines_of(text: str) -> str:
    """As every body has them."""
    text = re.sub("\r\n|\r|\n", "\r\n", text)
    return text if not text or text.endswith("\r\n") else text + "\r\n"
