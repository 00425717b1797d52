"""Message ids: two ways to write one, and nothing else that is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.mail.ids import (
    InvalidMessageId,
    MessageId,
    accepted_ms,
    new_message_id,
    parse_message_id,
    request_form,
    spool_form,
)


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_both_ways_of_writing_name_the_same_message(wall_ms: int, chance: bytes) -> None:
    message_id = new_message_id(wall_ms, chance)
    assert parse_message_id(spool_form(message_id)) == message_id
    assert parse_message_id(request_form(message_id)) == message_id
    assert parse_message_id(request_form(message_id).lower()) == message_id
    assert accepted_ms(message_id) == wall_ms


def test_an_id_is_a_uuid_of_version_7_that_sorts_by_time() -> None:
    """RFC 9562 section 5.7."""
    earlier, later = new_message_id(1, b"\xff" * 10), new_message_id(2, bytes(10))
    assert earlier < later
    for message_id in (earlier, later):
        assert message_id[6] >> 4 == 7
        assert message_id[8] >> 6 == 0b10


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spl_",
        "spl_" + "g" * 32,
        "spl_" + "0" * 31,
        "spl_" + "00 " * 10 + "00",
        "req_" + "8" + "0" * 25,
        "req_" + "U" * 26,
        "abc_" + "0" * 32,
        "../" + "0" * 32,
    ],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidMessageId):
        parse_message_id(text)


def test_every_sixteen_bytes_have_a_request_form() -> None:
    for octets in (bytes(16), b"\xff" * 16):
        assert parse_message_id(request_form(MessageId(octets))) == octets
