"""Many passwords at once: how many are hashed before lockout has its say, and who waits for whom."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.intake.door import HASHED, PASSWORD
from tests.unit.security.test_verifying import SteppedWorker, StillClock

from dispatch.intake import credentials
from dispatch.intake.credentials import Credentials, KnownLogin
from dispatch.policy.admission import Refusal
from dispatch.policy.limits import address_key
from dispatch.policy.lockout import Lockout, LockoutRules
from dispatch.policy.logins import LoginRules
from dispatch.security import passwords, verifying
from dispatch.security.credential_cache import CredentialCache
from dispatch.security.verifying import Verifier

GUESSER, OWNER = "203.0.113.9", "192.0.2.1"


class Door:
    """Whose passwords are looked at by a worker that the test moves; those in `right` are right."""

    def __init__(
        self, *, waiting_max: int = verifying.WAITING_MAX, rules: LockoutRules | None = None
    ) -> None:
        self.clock = StillClock()
        self.worker = SteppedWorker()
        cache = CredentialCache(b"k" * 32, ttl_s=300)
        self.verifier = Verifier(self.worker, self.clock, cache, waiting_max=waiting_max)
        self.lockout = Lockout(rules or LockoutRules())
        logins = {name: KnownLogin(LoginRules(name), HASHED) for name in ("app", "shop")}
        self.credentials = Credentials(self.clock, self.verifier, self.lockout, logins)
        self.answers: list[tuple[str, str]] = []
        """Password and kind of answer, in their order."""

    def guess(self, password: str, *, address: str = GUESSER, user: str = "app") -> None:
        self.credentials.prove(address, user, password.encode(), partial(self._answered, password))

    def _answered(self, password: str, proven: KnownLogin | Refusal) -> None:
        self.answers.append((password, proven.kind if isinstance(proven, Refusal) else "good"))

    def hash(self, count: int = 1) -> None:
        for _ in range(count):
            self.worker.asked.popleft()()

    @property
    def hashing(self) -> int:
        return self.verifier.hashing

    @property
    def kinds(self) -> Counter[str]:
        return Counter(kind for _, kind in self.answers)


@pytest.fixture(autouse=True)
def plain_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the cost of bcrypt."""
    monkeypatch.setattr(verifying, "verify_password", lambda password, hashed: password == PASSWORD.encode())
    assert passwords.verify_password(PASSWORD.encode(), HASHED)


def test_a_burst_of_one_address_gets_no_more_guesses_than_lockout_allows() -> None:
    door = Door()
    for number in range(100):
        door.guess(f"guess {number}")
    assert door.hashing == 5
    door.hash(5)
    assert door.kinds == {"login": 5, "lockout": 95}
    assert door.hashing == 0
    door.clock.now_s += 61
    for number in range(100):
        door.guess(f"guess {number}")
    door.hash(door.hashing)
    assert door.kinds == {"login": 10, "lockout": 190}


def test_whoever_comes_while_a_burst_is_looked_at_waits_for_five_hashes_at_most() -> None:
    door = Door()
    for number in range(100):
        door.guess(f"guess {number}", user=f"user{number}")
    door.guess(PASSWORD, address=OWNER)
    assert door.hashing == 6
    door.hash(6)
    assert door.answers[-1] == (PASSWORD, "good")


def test_many_who_are_right_behind_one_address_come_in_one_after_the_other() -> None:
    door = Door()
    logins = {f"user{number}": KnownLogin(LoginRules(f"user{number}"), HASHED) for number in range(40)}
    door.credentials.logins = logins
    for name in logins:
        door.guess(PASSWORD, user=name)
    while door.hashing:
        assert door.hashing <= 5
        door.hash()
    assert door.kinds == {"good": 40}


def test_a_right_password_among_wrong_ones_lets_the_others_go_on() -> None:
    door = Door()
    for password in ("a", "b", PASSWORD, "c", "d", "e", "f", "g"):
        door.guess(password)
    while door.hashing:
        door.hash()
    assert door.answers[:3] == [("a", "login"), ("b", "login"), (PASSWORD, "good")]
    assert sorted(door.answers[3:]) == [(password, "login") for password in "cdefg"]
    assert door.lockout.locked(GUESSER, "app", 0.0) == 60.0


def test_the_same_wrong_password_of_many_connections_is_one_guess() -> None:
    door = Door()
    for _ in range(100):
        door.guess("last year's")
    assert door.hashing == 1
    door.hash()
    assert door.kinds == {"login": 100}
    assert door.lockout.locked(GUESSER, "app", 0.0) == 0.0
    for _ in range(4):
        door.guess("last year's")
        door.hash()
    assert door.lockout.locked(GUESSER, "app", 0.0) == 60.0


def test_from_other_places_the_same_password_is_another_guess() -> None:
    door = Door()
    for number in range(5):
        door.guess("everybody's", address=f"198.51.100.{number}")
    assert door.hashing == 1, "of which the hash is the same"
    door.hash()
    assert door.kinds == {"login": 5}
    assert door.lockout.locked("198.51.100.77", "app", 0.0) == 60.0


def test_what_is_remembered_waits_for_nobody() -> None:
    door = Door()
    door.guess(PASSWORD)
    door.hash()
    for number in range(9):
        door.guess(f"guess {number}")
    door.guess(PASSWORD)
    assert door.answers == [(PASSWORD, "good"), (PASSWORD, "good")]
    assert door.hashing == 5


def test_who_has_logged_in_from_there_goes_before_guessers_from_everywhere() -> None:
    door = Door()
    door.guess(PASSWORD, address=OWNER)
    door.hash()
    door.clock.now_s = 400.0
    for number in range(40):
        door.guess(f"guess {number}", address=f"198.51.100.{number}", user=f"user{number}")
    assert door.hashing == verifying.WAITING_MAX
    door.guess(PASSWORD, address=OWNER)
    door.hash(2)
    assert door.answers[-1] == (PASSWORD, "good"), "it is remembered no more, and hashed next"


def test_without_lockout_only_the_line_of_hashes_is_bounded() -> None:
    door = Door(rules=LockoutRules(None))
    for number in range(100):
        door.guess(f"guess {number}")
    assert door.hashing == verifying.WAITING_MAX
    assert door.kinds == {"logins_busy": 100 - verifying.WAITING_MAX}


def test_too_many_that_are_held_back_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "HELD_MAX", 3)
    monkeypatch.setattr(credentials, "OFFERS_MAX", 2)
    door = Door()
    for number in range(10):
        door.guess(f"guess {number}")
    for _ in range(3):
        door.guess("guess 0")
    assert door.answers == [(f"guess {n}", "logins_busy") for n in (8, 9, 0, 0)]
    door.hash(5)
    assert door.kinds == {"logins_busy": 4, "login": 6, "lockout": 3}


def test_those_held_back_are_not_forgotten_where_no_hash_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(password: bytes, hashed: str) -> bool:
        raise MemoryError

    monkeypatch.setattr(verifying, "verify_password", no_memory)
    door = Door()
    for number in range(9):
        door.guess(f"guess {number}")
    while door.hashing:
        door.hash()
    assert door.kinds == {"logins_busy": 9}
    assert door.lockout.sizes == (0, 0, 0)


def test_whoever_is_answered_may_offer_the_next_one_at_once() -> None:
    door = Door()
    offered = iter(range(1000))

    def again(proven: KnownLogin | Refusal) -> None:
        door._answered("", proven)
        number = next(offered)
        if number < 50:
            door.credentials.prove(GUESSER, f"user{number % 7}", b"guess %d" % (number % 11), again)

    for number in range(20):
        door.credentials.prove(GUESSER, f"user{number}", b"guess", again)
    while door.hashing:
        door.hash()
    assert sum(door.kinds.values()) == 70, "each is answered"
    assert door.kinds["login"] == 5


Act = tuple[str, str, str]
"""An address, a user, a password; or, with an empty address, one hash that ends."""
_ACTS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]),
            st.sampled_from(["app", "nobody"]),
            st.sampled_from([PASSWORD, "a", "b", "c", "d", "e", "f"]),
        ),
        st.just(("", "", "")),
    ),
    max_size=60,
)


@given(_ACTS, st.booleans())
def test_everybody_is_answered_once_and_no_place_may_guess_beyond_its_lock(
    acts: list[Act], someone_is_right: bool
) -> None:
    door = Door(rules=LockoutRules(3))
    if not someone_is_right:
        door.credentials.logins = {}
    failed: dict[str, set[Act]] = {}
    answered: list[str] = []

    def done(act: Act, proven: KnownLogin | Refusal) -> None:
        answered.append("good" if isinstance(proven, KnownLogin) else proven.kind)
        if answered[-1] == "login":
            failed.setdefault(address_key(act[0]), set()).add((address_key(act[0]), *act[1:]))

    for act in acts:
        if act[0]:
            door.credentials.prove(act[0], act[1], act[2].encode(), partial(done, act))
        elif door.hashing:
            door.hash()
    while door.hashing:
        door.hash()
    assert len(answered) == sum(1 for act in acts if act[0])
    # The clock stands still: what is locked stays so, and only a success would make room again.
    if not someone_is_right:
        assert all(len(guesses) <= 3 for guesses in failed.values())
