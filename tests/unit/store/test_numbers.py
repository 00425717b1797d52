"""Row numbers sort by time and can be found again from an id."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dispatch.mail.ids import new_message_id
from dispatch.store.numbers import NUMBER_MAX, first_number, number_at, number_ms

times = st.integers(0, (1 << 42) - 1)
chances = st.binary(min_size=10, max_size=10)


@given(times, chances)
def test_a_number_carries_the_time_of_its_id(wall_ms: int, chance: bytes) -> None:
    number = first_number(new_message_id(wall_ms, chance))
    assert number_ms(number) == wall_ms
    assert number_at(wall_ms) <= number <= NUMBER_MAX
    assert number < number_at(wall_ms + 1) or wall_ms == (1 << 42) - 1


@given(times, chances, times, chances)
def test_numbers_sort_as_ids_do(ms_a: int, chance_a: bytes, ms_b: int, chance_b: bytes) -> None:
    first, second = sorted([new_message_id(ms_a, chance_a), new_message_id(ms_b, chance_b)])
    assert first_number(first) <= first_number(second)


def test_the_chance_of_an_id_reaches_its_number() -> None:
    numbers = {
        first_number(new_message_id(5, value.to_bytes(10, "big"))) for value in range(0, 1 << 74, 1 << 60)
    }
    assert len(numbers) == 1 << 14
