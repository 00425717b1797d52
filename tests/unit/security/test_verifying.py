"""Who is let in, how many hashes that costs, and what is said when there are too many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

import pytest

from dispatch.ports import Timer
from dispatch.security import verifying
from dispatch.security.credential_cache import CredentialCache
from dispatch.security.passwords import UNKNOWN_USER_HASH, hash_password
from dispatch.security.verifying import Verified, Verifier

T = TypeVar("T")

HASH = hash_password("right", rounds=4)


class StillClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def wall(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        raise AssertionError("nothing waits by the clock here")


class SteppedWorker:
    """Works when it is told to, one job at a time."""

    def __init__(self) -> None:
        self.asked: deque[Callable[[], None]] = deque()

    def call(self, work: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        def job() -> None:
            result: T | Exception
            try:
                result = work()
            except Exception as error:
                result = error
            done(result)

        self.asked.append(job)

    def work(self) -> None:
        while self.asked:
            self.asked.popleft()()

    def close(self) -> None:
        self.work()


class Door:
    def __init__(self, waiting_max: int = 32) -> None:
        self.worker, self.clock = SteppedWorker(), StillClock()
        self.cache = CredentialCache(bytes(32), ttl_s=300)
        self.verifier = Verifier(self.worker, self.clock, self.cache, waiting_max=waiting_max)
        self.answers: list[tuple[str, Verified]] = []

    def ask(self, user: str, password: bytes, hashed: str | None = HASH, *, first: bool = False) -> None:
        def done(verified: Verified) -> None:
            self.answers.append((user, verified))

        self.verifier.verify(user, password, hashed, done, first=first)

    def told(self) -> list[tuple[str, Verified]]:
        answers, self.answers = self.answers, []
        return answers


def test_the_right_password_is_good_and_any_other_wrong() -> None:
    door = Door()
    door.ask("app", b"right")
    door.ask("app", b"wrong")
    assert door.told() == [], "hashing is not the loop's business"
    door.worker.work()
    assert door.told() == [("app", Verified.GOOD), ("app", Verified.WRONG)]


def test_what_was_right_is_answered_at_once_until_it_is_too_long_ago() -> None:
    door = Door()
    door.ask("app", b"right")
    door.worker.work()
    door.told()
    door.clock.now_s = 299.0
    door.ask("app", b"right")
    assert door.told() == [("app", Verified.GOOD)]
    door.clock.now_s = 301.0
    door.ask("app", b"right")
    assert door.told() == []
    assert len(door.worker.asked) == 1


def test_a_wrong_password_is_hashed_each_time() -> None:
    door = Door()
    for _ in range(2):
        door.ask("app", b"wrong")
        assert len(door.worker.asked) == 1
        door.worker.work()
        assert door.told() == [("app", Verified.WRONG)]


def test_a_revoked_login_is_wrong_though_its_password_was_right_a_moment_ago() -> None:
    door = Door()
    door.ask("app", b"right")
    door.worker.work()
    door.told()
    door.ask("app", b"right", None)
    door.worker.work()
    assert door.told() == [("app", Verified.WRONG)]


def test_an_unknown_user_costs_a_hash_like_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    door, against = Door(), []

    def check(password: bytes, hashed: str) -> bool:
        against.append(hashed)
        return True

    monkeypatch.setattr(verifying, "verify_password", check)
    door.ask("nobody", b"right", None)
    door.worker.work()
    assert against == [UNKNOWN_USER_HASH]
    assert door.told() == [("nobody", Verified.WRONG)], "whatever the hash says, nobody is let in"
    door.ask("nobody", b"right", None)
    assert door.told() == [], "and nobody is remembered"


def test_a_hundred_connections_of_one_application_cost_one_hash() -> None:
    door = Door(waiting_max=1)
    for _ in range(100):
        door.ask("app", b"right")
    assert len(door.worker.asked) == 1
    door.worker.work()
    assert door.told() == [("app", Verified.GOOD)] * 100


def test_two_users_with_one_hash_do_not_share_it() -> None:
    door = Door()
    door.ask("app", b"right")
    door.ask("other", b"right")
    assert door.verifier.hashing == 2


def test_beyond_the_bound_it_is_busy_at_once_and_nothing_is_hashed() -> None:
    door = Door(waiting_max=2)
    for number in range(5):
        door.ask(f"user{number}", b"wrong")
    assert door.told() == [(f"user{number}", Verified.BUSY) for number in (2, 3, 4)]
    assert door.verifier.hashing == 2
    door.worker.work()
    assert door.told() == [("user0", Verified.WRONG), ("user1", Verified.WRONG)]
    door.ask("user4", b"right")
    door.worker.work()
    assert door.told() == [("user4", Verified.GOOD)]


def test_who_was_right_before_comes_in_while_it_is_busy() -> None:
    door = Door(waiting_max=1)
    door.ask("app", b"right")
    door.worker.work()
    door.told()
    door.ask("guesser", b"guess")
    door.ask("app", b"right")
    assert door.told() == [("app", Verified.GOOD)]


def test_who_is_known_to_come_from_there_waits_for_one_hash_and_finds_a_place() -> None:
    door = Door(waiting_max=3)
    for number in range(4):
        door.ask(f"stranger{number}", b"guess")
    assert door.told() == [("stranger3", Verified.BUSY)]
    for number in range(4):
        door.ask(f"known{number}", b"right", first=True)
    assert door.told() == [("known3", Verified.BUSY)], "they, too, are bounded"
    door.worker.work()
    known = [(f"known{number}", Verified.GOOD) for number in range(3)]
    strangers = [(f"stranger{number}", Verified.WRONG) for number in range(3)]
    assert door.told() == [strangers[0], *known, *strangers[1:]]


def test_one_hash_is_under_way_at_a_time() -> None:
    door = Door()
    for number in range(3):
        door.ask(f"user{number}", b"wrong")
        assert len(door.worker.asked) == 1


def test_a_machine_that_cannot_hash_is_busy_and_nobody_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(password: bytes, hashed: str) -> bool:
        raise MemoryError

    door = Door(waiting_max=1)
    with monkeypatch.context() as patched:
        patched.setattr(verifying, "verify_password", fail)
        door.ask("app", b"right")
    door.worker.work()
    assert door.told() == [("app", Verified.BUSY)]
    door.ask("app", b"right")
    door.worker.work()
    assert door.told() == [("app", Verified.GOOD)], "and its place is free again"


def test_an_answer_may_ask_again() -> None:
    door, answers = Door(), []

    def again(verified: Verified) -> None:
        answers.append(verified)
        if len(answers) < 3:
            door.verifier.verify("app", b"wrong", HASH, again)

    door.verifier.verify("app", b"wrong", HASH, again)
    door.worker.work()
    assert answers == [Verified.WRONG] * 3
