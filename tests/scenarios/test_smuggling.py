"""No message is smuggled in another one, nor sent on in a form in which the next host could find two.

Every variant of `smuggling.py`, for both choices of `listener.bare_newline`, and however it is cut on its
way: one message or a refusal. `docs/develop/smuggling.md` has the answers as a table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pytest
from tests.scenarios.exact_upstream import CRLF, END_OF_DATA, ExactUpstream, Taken
from tests.scenarios.relay import Relay, until
from tests.scenarios.smuggling import (
    CUTS,
    HEAD,
    MODES,
    REFUSED_DATA,
    SENDER,
    SMUGGLED,
    SMUGGLER,
    VARIANTS,
    Variant,
    accepted,
    attack,
    by_data,
    executed,
    recipient_of,
)

ROOMY = {"max_connections": 10_000, "max_connections_per_ip": 10_000}


@pytest.fixture(params=[False, True], ids=["data-out", "bdat-out"])
def either(request: pytest.FixtureRequest) -> Iterator[ExactUpstream]:
    one = ExactUpstream(chunking=request.param)
    yield one
    one.close()


@pytest.fixture
def exact() -> Iterator[ExactUpstream]:
    one = ExactUpstream()
    yield one
    one.close()


def tried(
    relay: Relay, exact: ExactUpstream, variants: Sequence[Variant], mode: str, cut: str
) -> dict[str, str]:
    """Try them, wait for what was accepted, and say what is wrong, by variant."""
    relay.configure(exact.table(), listener={"bare_newline": mode, **ROOMY}).start()
    told = attack(relay.port, variants, cut)
    count = sum(map(accepted, told.values()))
    until(lambda: len(exact.taken) >= count, "what was accepted has left")
    assert len(exact.taken) == count
    wrong = {}
    for number, variant in enumerate(variants):
        replies = told[variant.name]
        arrived = [each for each in exact.taken if recipient_of(number) in each.recipients]
        expected = variant.taken[mode]
        if accepted(replies) != (expected is not None):
            wrong[variant.name] = f"answered {replies}"
        elif executed(replies):
            wrong[variant.name] = f"commands in content were executed: {executed(replies)}"
        elif len(arrived) != accepted(replies):
            wrong[variant.name] = f"{len(arrived)} messages arrived"
        elif expected is not None:
            for fault in faults(arrived[0], number, expected):
                wrong[variant.name] = fault
    return wrong


def faults(taken: Taken, number: int, expected: bytes) -> Iterator[str]:
    """What is not as it should be in what left."""
    yield from taken.faults()
    if (taken.reverse_path, taken.recipients) != (SENDER, (recipient_of(number),)):
        yield f"the envelope is {taken.reverse_path} {taken.recipients}"
    content = taken.content
    fields = content.removesuffix(expected)
    if fields == content:
        yield f"the content is {content[-len(expected) - 400 :]!r}"
    elif re.fullmatch(rb"(?:[A-Z][A-Za-z-]*: [^\r\n]+\r\n(?:[ \t][^\r\n]+\r\n)*)+(?:\r\n)?", fields) is None:
        yield f"the fields in front are {fields!r}"


@pytest.mark.parametrize(
    "cut", [cut if cut in ("whole", "octets") else pytest.param(cut, marks=pytest.mark.long) for cut in CUTS]
)
@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_smuggled(relay: Relay, exact: ExactUpstream, mode: str, cut: str) -> None:
    assert not tried(relay, exact, VARIANTS, mode, cut)
    assert not exact.strange
    assert SMUGGLER not in {each.reverse_path for each in exact.taken}


@pytest.mark.parametrize("cut", ["whole", "octets"])
def test_content_behind_a_refused_data_is_not_executed(relay: Relay, exact: ExactUpstream, cut: str) -> None:
    assert not tried(relay, exact, REFUSED_DATA, "reject", cut)


def test_the_true_end_of_data_is_one(relay: Relay, exact: ExactUpstream) -> None:
    """What the others are held against: the same stream with a CRLF.CRLF is two messages (RFC 2920)."""
    stream = HEAD + END_OF_DATA + SMUGGLED + END_OF_DATA + b"QUIT\r\n"
    variant = Variant(
        "control",
        "",
        (b"MAIL FROM:<me@example.org>", b"RCPT TO:<{to}>", b"DATA"),
        stream,
        (len(HEAD), len(HEAD) + 5),
        {},
    )
    relay.configure(exact.table()).start()
    replies = attack(relay.port, [variant], "octets")["control"]
    assert accepted(replies) == 2
    assert len(executed(replies)) == 3
    until(lambda: len(exact.taken) == 2, "both arrive")
    assert {each.reverse_path for each in exact.taken} == {SENDER, SMUGGLER}


SIZES_BYTES = {"in memory": 300_000, "in a file": 1_500_000}
"""Above 256 KiB content leaves by BDAT where the host offers it; above 1 MiB it is streamed from a file."""
PADDING = {
    # Three octets a line, so that the borders of blocks fall on each of them.
    "stuffed dots": b"..\r\n",
    "dots by bare newlines": b"\n.\r\r\n..\n\r.\r\n...\r\r",
}


@pytest.mark.parametrize("size", SIZES_BYTES)
@pytest.mark.parametrize("padding", PADDING)
def test_large_content_leaves_with_one_end(
    relay: Relay, either: ExactUpstream, padding: str, size: str
) -> None:
    line = PADDING[padding]
    head = HEAD + CRLF + line * (SIZES_BYTES[size] // (len(line) - 1))
    large = [
        by_data("plain", b"\r\n..\r\n", head=head),
        by_data("LF . LF", b"\n.\n", head=head),
        by_data("CRLF . CR CRLF", b"\r\n.\r\r\n", head=head + b"x"),
    ]
    assert not tried(relay, either, large, "normalise", "inside")
    assert not either.strange
    assert {each.by for each in either.taken} == {"BDAT" if b"CHUNKING" in either.greeting else "DATA"}
