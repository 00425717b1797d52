"""Which password is right, for which hash, and what is said of a hash that is none."""

from __future__ import annotations

import bcrypt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.security.passwords import (
    UNKNOWN_USER_HASH,
    hash_password,
    is_password_hash,
    verify_password,
    what_is_wrong_with_hash,
)

OURS = "dispatch1$2b$04$Dstnlpr69JXWxmWfq5zgYeWLfU4UfoHmayGd/h/RyNxJ/MgMJTcQ6"
"""Of `correct horse`. Written down: it must verify for ever, and test names must not change."""


def foreign(password: bytes, version: str = "2b") -> str:
    return f"${version}" + bcrypt.hashpw(password, bcrypt.gensalt(4)).decode()[3:]


def test_our_hash_verifies_its_password_and_no_other() -> None:
    assert verify_password(b"correct horse", OURS)
    assert not verify_password(b"correct hors", OURS)
    assert not verify_password(b"", OURS)


@settings(max_examples=30, deadline=None)
@given(password=st.text(min_size=1, max_size=200), change=st.integers(0, 199))
def test_every_byte_of_a_password_of_any_length_counts(password: str, change: int) -> None:
    hashed = hash_password(password, rounds=4)
    octets = password.encode()
    assert verify_password(octets, hashed)
    place = change % len(octets)
    assert not verify_password(octets[:place] + bytes([octets[place] ^ 1]) + octets[place + 1 :], hashed)
    assert not verify_password(octets + b"\0", hashed)


def test_what_bcrypt_would_cut_off_counts_in_our_hash() -> None:
    hashed = hash_password("a" * 73, rounds=4)
    assert verify_password(b"a" * 73, hashed)
    assert not verify_password(b"a" * 72 + b"b", hashed)
    assert not verify_password(b"a" * 72, hashed)


def test_bytes_of_a_terminal_that_are_no_utf8_are_hashed_as_they_are() -> None:
    assert verify_password(b"p\xe4ss", hash_password("p\udce4ss", rounds=4))


def test_the_usual_cost_is_twelve() -> None:
    assert hash_password("x").startswith("dispatch1$2b$12$")


@pytest.mark.parametrize(("password", "rounds"), [("", 4), ("x", 3), ("x", 17)])
def test_what_is_not_worth_hashing_is_refused(password: str, rounds: int) -> None:
    with pytest.raises(ValueError, match=r"empty|rounds"):
        hash_password(password, rounds=rounds)


@pytest.mark.parametrize("version", ["2a", "2b", "2y"])
def test_hashes_of_other_products_verify_as_they_are(version: str) -> None:
    hashed = foreign(b"s3cret", version)
    assert is_password_hash(hashed)
    assert verify_password(b"s3cret", hashed)
    assert not verify_password(b"s3cret ", hashed)


def test_a_published_vector_verifies() -> None:
    # One of jBCrypt's test vectors.
    assert verify_password(b"abc", "$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i")


def test_a_password_that_bcrypt_would_cut_is_wrong_for_a_foreign_hash() -> None:
    hashed = foreign(b"a" * 72)
    assert verify_password(b"a" * 72, hashed)
    assert not verify_password(b"a" * 73, hashed)
    assert not verify_password(b"a" * 10_000, hashed)
    assert not verify_password(b"s3cret\0more", foreign(b"s3cret"))


def test_what_cannot_be_right_is_hashed_for_its_time_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed, checked = foreign(b"x"), []

    def check(password: bytes, against: bytes) -> bool:
        checked.append(password)
        return True

    monkeypatch.setattr(bcrypt, "checkpw", check)
    assert not verify_password(b"a" * 73, hashed)
    assert not verify_password(b"a\0b", hashed)
    assert len(checked) == 2


def test_our_tag_is_not_to_be_taken_off_or_put_on() -> None:
    assert not verify_password(b"correct horse", OURS.removeprefix("dispatch1"))
    assert not verify_password(b"s3cret", "dispatch1" + foreign(b"s3cret"))


@settings(max_examples=100, deadline=None)
@given(
    password=st.binary(max_size=100),
    hashed=st.one_of(
        st.text(max_size=70),
        st.text(max_size=60).map(lambda text: "$2b$04$" + text),
        st.text("./Aaz09$", min_size=53, max_size=53).map(lambda text: "$2b$04$" + text),
        st.text("./Aaz09$", min_size=53, max_size=53).map(lambda text: "$2b$99$" + text),
    ),
)
def test_nothing_makes_the_check_raise(password: bytes, hashed: str) -> None:
    assert verify_password(password, hashed) is False
    assert isinstance(what_is_wrong_with_hash(hashed), str | None)


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, 68))
def test_a_hash_that_was_cut_off_is_wrong_and_said_to_be_none(place: int) -> None:
    assert not verify_password(b"correct horse", OURS[:place])
    assert not is_password_hash(OURS[:place])


def test_nobody_knows_the_unknown_users_password() -> None:
    assert is_password_hash(UNKNOWN_USER_HASH)
    assert UNKNOWN_USER_HASH.startswith("dispatch1$2b$12$")
    assert not verify_password(b"", UNKNOWN_USER_HASH)


SALT_AND_DIGEST = "If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        (f"{OURS}\n", "blanks around"),
        (f'"{OURS}"', "quotation marks"),
        (OURS.replace("$", "$$"), "doubled"),
        ("correct horse", "plain password"),
        ("Tr0ub4dor&3", "plain password"),
        (OURS.replace("$", ""), "taken for variables"),
        (f"2a06{SALT_AND_DIGEST}", "taken for variables"),
        # Between double quotes in a shell.
        ("a6.iqN8.yx.jNN1ILEf7h0i", "taken for variables"),
        ("dispatch1b2/cIPz0gi.URNNX3kh2OPST9", "taken for variables"),
        ("b2", "taken for variables"),
        ("$2b$12.iqN8.yx.jNN1ILEf7h0i", "taken for variables"),
        (OURS[:-1], "cut off or altered"),
        (OURS + "a", "cut off or altered"),
        (f"$2b$06${SALT_AND_DIGEST[:-1]}j", "cut off or altered"),
        (f"$2x$06${SALT_AND_DIGEST}", "had a fault"),
        (f"$2b$17${SALT_AND_DIGEST}", "more than 16 is refused"),
        (f"$2b$03${SALT_AND_DIGEST}", "make the hash again"),
        ("$6$rounds=5000$abc$def", "no hash that can be checked"),
        ("$argon2id$v=19$m=65536,t=3,p=4$abc$def", "no hash that can be checked"),
        ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "no hash that can be checked"),
        (f"dispatch1$2a$06${SALT_AND_DIGEST}", "cut off or altered"),
        ("dispatch1hunter2", "no hash that can be checked"),
    ],
)
def test_what_is_no_hash_is_told_why_and_not_repeated(text: str, said: str) -> None:
    wrong = what_is_wrong_with_hash(text)
    assert wrong is not None
    assert said in wrong
    assert len(text.strip()) < 3 or text.strip() not in wrong
    assert not is_password_hash(text)
    assert not verify_password(b"abc", text)


def test_a_hash_is_not_found_fault_with() -> None:
    assert what_is_wrong_with_hash(OURS) is None
    assert what_is_wrong_with_hash(f"$2y$06${SALT_AND_DIGEST}") is None
