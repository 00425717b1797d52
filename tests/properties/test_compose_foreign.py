"""What is composed reads back in a parser that nobody here wrote: postal-mime, in JavaScript."""

import json
import re
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from tests.properties.drafts import drafts, lines_of
from tests.scenarios.programs import POSTAL_MIME, node_package

from dispatch.mime.compose import Draft, compose

pytestmark = pytest.mark.timeout(300)  # it may have to be installed first

_READER = """
import PostalMime from "postal-mime";
import { createInterface } from "node:readline";
for await (const line of createInterface({ input: process.stdin })) {
    const mail = await PostalMime.parse(Buffer.from(line, "base64"), { attachmentEncoding: "base64" });
    console.log(JSON.stringify(mail));
}
"""


@pytest.fixture(scope="module")
def read() -> Iterator[Callable[[bytes], Any]]:
    """One process that reads many messages."""
    node, folder = node_package(POSTAL_MIME)
    reader = folder / "reader.mjs"
    reader.write_text(_READER)
    with subprocess.Popen([node, str(reader)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        given_, said = process.stdin, process.stdout

        def one(content: bytes) -> Any:
            given_.write(b64encode(content) + b"\n")
            given_.flush()
            return json.loads(said.readline())

        yield one
        given_.close()
        process.wait(10)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draft=drafts)
def test_everything_reads_back(read: Callable[[bytes], Any], draft: Draft) -> None:
    mail = read(b"".join(compose(draft, "f00dcafe")))
    assert mail.get("subject", "") == draft.subject
    if draft.sender.address.isascii():
        assert (mail["from"]["name"], mail["from"]["address"]) == draft.sender
    for key, wanted in (("to", draft.to), ("cc", draft.cc), ("replyTo", draft.reply_to)):
        if all(mailbox.address.isascii() for mailbox in wanted):
            assert [(each["name"], each["address"]) for each in mail.get(key, [])] == list(wanted)
    for key, text in (("text", draft.text), ("html", draft.html)):
        if text is not None and "\0" not in text:
            assert re.sub("\r?\n", "\r\n", mail.get(key, "")).rstrip("\r\n") == lines_of(text).rstrip("\r\n")
    shown = [each for each in draft.attachments if each.content_id and draft.html is not None]
    ordered = [*shown, *(each for each in draft.attachments if each not in shown)]
    assert [b64decode(each["content"]) for each in mail["attachments"]] == [
        b"".join(each.blocks) for each in ordered
    ]
    found = [each["filename"] or "" for each in mail["attachments"]]
    for name, each in zip(found, ordered, strict=True):
        # It looks for encoded words in a file's name, where none can be.
        assert name == each.filename or "=?" in each.filename
