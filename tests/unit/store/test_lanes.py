"""Turns: what goes next, without a database under it."""

from __future__ import annotations

from collections import Counter

from dispatch.mail.delivery import DeliveryState
from dispatch.store.lanes import LANES_MAX, Lane, Lanes, Picked, Place

NORMAL = 1


class Waiting:
    """Lanes whose deliveries stand in lists."""

    def __init__(self) -> None:
        self.lanes = Lanes()
        self.places: dict[int, list[Place]] = {}
        self.walks = 0

    def add(self, share: str, *due: int, relay: str = "r", priority: int = NORMAL) -> Lane:
        lane = self.lanes.find(relay, priority, share)
        if lane is None:
            lane = Lane(self.lanes.next_number, relay, priority, self.lanes.name(relay, priority, share))
            self.lanes.add(lane)
        for due_ms in due:
            place = Place(due_ms, 1000 * lane.number + len(self.places.get(lane.number, [])), 0)
            self.places.setdefault(lane.number, []).append(place)
            self.places[lane.number].sort()
            lane.tally[DeliveryState.WAITING] = len(self.places[lane.number])
            self.lanes.notice(lane, place)
        return lane

    def pick(self, now_ms: int, limit: int, relay: str = "r") -> list[str]:
        def walk(lane: Lane, count: int) -> list[Picked]:
            self.walks += 1
            behind = [place for place in self.places[lane.number] if place > lane.resume]
            due = [place for place in behind if place.due_ms <= now_ms][:count]
            if due:
                lane.resume = due[-1]
            lane.next_due_ms = next((place.due_ms for place in behind[len(due) :]), None)
            return [Picked(lane, place) for place in due]

        return [picked.lane.share for picked in self.lanes.pick(relay, now_ms, limit, walk)]


def test_lanes_take_turns_one_message_each() -> None:
    waiting = Waiting()
    waiting.add("a", *[0] * 50)
    waiting.add("b", *[0] * 50)
    waiting.add("c", 0)
    went = Counter(waiting.pick(0, 7))
    assert went == {"a": 3, "b": 3, "c": 1}
    assert Counter(waiting.pick(0, 10)) == {"a": 5, "b": 5}


def test_who_was_served_waits_for_the_others() -> None:
    waiting = Waiting()
    for share in "abcd":
        waiting.add(share, 0, 0)
    assert [waiting.pick(0, 1) for _ in range(8)] == [[share] for share in "abcdabcd"]


def test_a_lane_sleeps_until_its_next_delivery_is_due() -> None:
    waiting = Waiting()
    waiting.add("a", 5, 10)
    assert waiting.pick(4, 9) == []
    assert waiting.walks == 0, "what is not due is not looked at"
    assert waiting.pick(5, 9) == ["a"]
    first = waiting.lanes.first("r")
    assert first is not None
    assert first.next_due_ms == 10
    assert waiting.pick(10, 9) == ["a"]
    assert waiting.lanes.first("r") is None


def test_what_comes_to_lie_before_the_place_reached_is_found() -> None:
    waiting = Waiting()
    waiting.add("a", 5)
    assert waiting.pick(9, 9) == ["a"]
    waiting.add("a", 3)
    assert "a" in waiting.pick(9, 9)


def test_a_thousand_empty_lanes_cost_nothing() -> None:
    waiting = Waiting()
    for number in range(1000):
        waiting.add(f"asleep {number}", 1_000_000)
    waiting.add("awake", *[0] * 10)
    for _ in range(10):
        assert waiting.pick(0, 1) == ["awake"]
    assert waiting.walks <= 11


def test_more_shares_than_there_are_lanes_share_lanes() -> None:
    waiting = Waiting()
    for number in range(3 * LANES_MAX):
        waiting.add(f"192.0.2.{number}", 0)
    assert len(list(waiting.lanes)) <= 2 * LANES_MAX
    assert len(waiting.pick(0, 4 * LANES_MAX)) == 3 * LANES_MAX


def test_an_emptied_lane_makes_room_and_is_picked_no_more() -> None:
    waiting = Waiting()
    lane = waiting.add("a", 0)
    waiting.add("b", 0, 0)
    assert waiting.pick(0, 2) == ["a", "b"]
    lane.tally.clear()
    assert lane.empty
    waiting.lanes.drop(lane)
    assert waiting.pick(9, 9) == ["b"]
    assert waiting.lanes.find("r", NORMAL, "a") is None


def test_relays_do_not_see_each_other() -> None:
    waiting = Waiting()
    waiting.add("a", 0, relay="one")
    waiting.add("b", 0, relay="two")
    assert waiting.pick(0, 9, relay="one") == ["a"]
    assert waiting.pick(0, 9, relay="two") == ["b"]
    assert waiting.pick(0, 9, relay="three") == []
