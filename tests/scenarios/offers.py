"""Mail of all kinds, as it is offered; and what of the mail that arrives is ours."""

from __future__ import annotations

import re
from dataclasses import dataclass

HELO = "client.test"


@dataclass(frozen=True)
class Offer:
    sender: str
    recipients: tuple[str, ...]
    content: bytes
    """With CRLF."""


YOU = ("you@example.net",)
HEADER = (
    b"From: Me <me@example.org>\r\nTo: you@example.net\r\nSubject: Test\r\n"
    b"Date: Fri, 20 Nov 2026 10:00:00 +0000\r\nMessage-ID: <given@example.org>\r\n"
)
OFFERS = {
    "ordinary": Offer("me@example.org", YOU, HEADER + b"\r\nIt works.\r\n"),
    "without_date_and_message_id": Offer("me@example.org", YOU, b"Subject: Bare\r\n\r\nIt works.\r\n"),
    "several_recipients": Offer(
        "me@example.org", ("a@example.net", "b@example.com", "c@example.net"), HEADER + b"\r\nTo three.\r\n"
    ),
    "dot_lines": Offer("me@example.org", YOU, HEADER + b"\r\n.\r\n..\r\n.dot\r\n...\r\n\r\n.\r\nend\r\n"),
    "empty_body": Offer("me@example.org", YOU, HEADER + b"\r\n"),
    "eight_bit": Offer(
        "me@example.org",
        YOU,
        HEADER
        + b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        + b"Content-Transfer-Encoding: 8bit\r\n\r\n"
        + "Grüße, žluťoučký kůň, 日本語\r\n".encode()
        + b"and \xff\xfe no UTF-8 at all\r\n",
    ),
    "long_lines": Offer(
        "me@example.org", YOU, HEADER + b"\r\n" + b"x" * 998 + b"\r\n" + b"y" * 998 + b"\r\n"
    ),
    "white_space_at_the_end": Offer("me@example.org", YOU, HEADER + b"\r\ntrailing  \r\n\t\r\n\r\n\r\n"),
}
INTERNATIONAL = Offer(
    "grüße@example.org",
    ("用户@example.net",),
    "Subject: Grüße\r\nTo: 用户@example.net\r\nDate: Fri, 20 Nov 2026 10:00:00 +0000\r\n".encode()
    + b"Message-ID: <given@example.org>\r\n\r\n"
    + "Schöne Grüße\r\n".encode(),
)


def without_our_trace(arrived: bytes, offered: bytes, helo: str = HELO) -> bytes:
    """What stands behind our one `Received`, and our `Date` and `Message-ID` where they were missing."""
    trace = rb"Received: from %s \(\[127\.0\.0\.1\]\)\r\n(?:[ \t][^\r\n]+\r\n)+" % re.escape(helo.encode())
    header = offered.partition(b"\r\n\r\n")[0] + b"\r\n"
    if re.search(rb"(?mi)^date:", header) is None:
        trace += rb"Date: [^\r\n]+\r\n"
    if re.search(rb"(?mi)^message-id:", header) is None:
        trace += rb"Message-ID: <[^\r\n]+@relay\.test>\r\n"
    ours = re.match(trace, arrived)
    assert ours is not None, arrived[:600]
    return arrived[ours.end() :]
