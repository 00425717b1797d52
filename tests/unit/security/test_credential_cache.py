"""Which logins are remembered, for how long, and what makes them forgotten."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from dispatch.security.credential_cache import CredentialCache

KEY = bytes(range(32))


def test_what_was_right_is_known_until_its_time_is_over() -> None:
    cache = CredentialCache(KEY, ttl_s=300)
    assert not cache.knows("app", b"pw", "hash", 0.0)
    cache.remember("app", b"pw", "hash", 10.0)
    assert cache.knows("app", b"pw", "hash", 309.9)
    assert not cache.knows("app", b"pw", "hash", 310.0)
    assert len(cache) == 0


def test_using_an_entry_does_not_prolong_it() -> None:
    cache = CredentialCache(KEY, ttl_s=300)
    cache.remember("app", b"pw", "hash", 0.0)
    assert all(cache.knows("app", b"pw", "hash", float(now)) for now in range(0, 300, 10))
    assert not cache.knows("app", b"pw", "hash", 300.0)


def test_a_changed_hash_forgets_at_once() -> None:
    cache = CredentialCache(KEY)
    cache.remember("app", b"pw", "hash", 0.0)
    assert not cache.knows("app", b"pw", "another", 0.0)


def test_a_revoked_login_is_forgotten_with_all_its_passwords_and_no_other() -> None:
    cache = CredentialCache(KEY)
    for user in ("app", "other"):
        for password in (b"old", b"new"):
            cache.remember(user, password, "hash", 0.0)
    cache.forget("app")
    assert not cache.knows("app", b"old", "hash", 0.0)
    assert not cache.knows("app", b"new", "hash", 0.0)
    assert cache.knows("other", b"old", "hash", 0.0)
    cache.forget("nobody")
    assert len(cache) == 2


def test_the_least_recently_used_goes_when_it_is_full() -> None:
    cache = CredentialCache(KEY, entries_max=2)
    cache.remember("a", b"pw", "hash", 0.0)
    cache.remember("b", b"pw", "hash", 0.0)
    assert cache.knows("a", b"pw", "hash", 1.0)
    cache.remember("c", b"pw", "hash", 2.0)
    assert cache.knows("a", b"pw", "hash", 3.0)
    assert not cache.knows("b", b"pw", "hash", 3.0)
    assert len(cache) == 2


def test_remembering_again_counts_from_then() -> None:
    cache = CredentialCache(KEY, ttl_s=300, entries_max=2)
    cache.remember("a", b"pw", "hash", 0.0)
    cache.remember("a", b"pw", "hash", 200.0)
    assert len(cache) == 1
    assert cache.knows("a", b"pw", "hash", 400.0)


TRIPLES = st.tuples(
    st.text("a1 é\0", max_size=4), st.binary(max_size=4) | st.just(b"1 1"), st.text("a1 \0", max_size=4)
)


@settings(max_examples=200)
@given(one=TRIPLES, other=TRIPLES)
@example(("ab", b"c", "h"), ("a", b"bc", "h"))
@example(("a", b"bc", "h"), ("a", b"b", "ch"))
@example(("1", b"", "1"), ("", b"", "11"))
def test_no_two_logins_are_mistaken_for_each_other(
    one: tuple[str, bytes, str], other: tuple[str, bytes, str]
) -> None:
    cache = CredentialCache(KEY)
    cache.remember(*one, 0.0)
    assert cache.knows(*other, 0.0) == (one == other)


def test_a_name_that_is_no_unicode_is_no_fault() -> None:
    cache = CredentialCache(KEY)
    cache.remember("\ud800", b"pw", "hash", 0.0)
    assert cache.knows("\ud800", b"pw", "hash", 0.0)


def test_digests_of_two_processes_have_nothing_in_common() -> None:
    assert CredentialCache(KEY).digest("a", b"pw", "h") != CredentialCache(KEY[::-1]).digest("a", b"pw", "h")
