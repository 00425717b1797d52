"""What is sealed opens with its key under its name, and what was tampered with is said and not opened."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.security.vault import Damaged, UnknownFormat, Vault, VaultFault, WrongKey, key_id_of

KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
NAME = "relays.smarthost.password"
VAULT = Vault(KEY)


@settings(max_examples=50)
@given(name=st.text(st.characters(codec="utf-8"), max_size=40), secret=st.binary(max_size=200))
def test_what_was_sealed_opens_again(name: str, secret: bytes) -> None:
    sealed = VAULT.seal(name, secret)
    assert sealed.isascii()
    assert sealed.isprintable()
    assert " " not in sealed
    assert Vault(KEY).unseal(name, sealed) == secret


def test_the_same_secret_is_sealed_differently_each_time() -> None:
    assert VAULT.seal(NAME, b"hunter2") != VAULT.seal(NAME, b"hunter2")


def test_the_nonce_comes_from_the_chance_that_was_given() -> None:
    fixed = Vault(KEY, chance=lambda size: b"\x07" * size)
    assert fixed.seal(NAME, b"hunter2") == fixed.seal(NAME, b"hunter2")


def test_a_sealed_value_names_its_format_and_key() -> None:
    assert VAULT.seal(NAME, b"hunter2").startswith(f"v1.{VAULT.key_id}.")
    assert VAULT.key_id == key_id_of(KEY) != key_id_of(OTHER_KEY)
    assert KEY.hex()[:8] not in VAULT.key_id


def test_another_key_is_told_with_both_fingerprints_and_what_to_do() -> None:
    sealed = VAULT.seal(NAME, b"hunter2")
    other = Vault(OTHER_KEY)
    with pytest.raises(WrongKey) as fault:
        other.unseal(NAME, sealed)
    said = str(fault.value)
    assert (fault.value.needed, fault.value.at_hand) == (VAULT.key_id, other.key_id)
    assert all(words in said for words in (NAME, VAULT.key_id, other.key_id, ".dispatch-key"))


def test_a_value_does_not_open_under_another_name() -> None:
    with pytest.raises(Damaged):
        VAULT.unseal("relays.other.password", VAULT.seal(NAME, b"hunter2"))


def test_a_value_with_another_keys_fingerprint_written_into_it_does_not_open() -> None:
    other = Vault(OTHER_KEY)
    relabelled = VAULT.seal(NAME, b"hunter2").replace(VAULT.key_id, other.key_id)
    with pytest.raises(Damaged):
        other.unseal(NAME, relabelled)


@pytest.mark.parametrize("text", ["", "hunter2", "hunter2.with.dots", "v2", "vault.abc", "v٣.x.y"])
def test_what_is_not_sealed_is_told_and_not_repeated(text: str) -> None:
    with pytest.raises(UnknownFormat) as fault:
        VAULT.unseal(NAME, text)
    assert "is not a sealed value" in str(fault.value)
    assert not text or text not in str(fault.value).replace(NAME, "")


def test_a_later_format_is_named() -> None:
    with pytest.raises(UnknownFormat, match="sealed in format v2: this version reads v1"):
        VAULT.unseal(NAME, VAULT.seal(NAME, b"x").replace("v1.", "v2.", 1))


@pytest.mark.parametrize("text", ["v1", "v1.", "v1..", "v1.zzzzzzzz.AAAA", "v1.ABCDEF01.AAAA"])
def test_what_has_no_readable_fingerprint_is_damaged_or_unknown(text: str) -> None:
    with pytest.raises((Damaged, UnknownFormat)):
        VAULT.unseal(NAME, text)


@settings(max_examples=200)
@given(data=st.data())
def test_any_alteration_is_noticed(data: st.DataObject) -> None:
    sealed = VAULT.seal(NAME, b"a secret")
    place = data.draw(st.integers(0, len(sealed) - 1))
    altered = data.draw(
        st.one_of(
            st.just(sealed[:place]),
            st.just(sealed[:place] + sealed[place + 1 :]),
            st.characters(codec="utf-8").map(lambda c: sealed[:place] + c + sealed[place:]),
            st.characters(codec="utf-8").map(lambda c: sealed[:place] + c + sealed[place + 1 :]),
        )
    )
    if altered != sealed:
        with pytest.raises(VaultFault):
            VAULT.unseal(NAME, altered)


@settings(max_examples=100)
@given(text=st.text(max_size=80))
def test_any_text_at_all_is_a_fault_of_the_vault(text: str) -> None:
    for candidate in (text, f"v1.{VAULT.key_id}.{text}"):
        with pytest.raises(VaultFault):
            VAULT.unseal(NAME, candidate)


def test_every_single_letter_matters_though_base64_has_spare_bits() -> None:
    sealed = VAULT.seal(NAME, b"ab")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/="
    opened = []
    for letter in letters:
        try:
            VAULT.unseal(NAME, sealed[:-1] + letter)
            opened.append(letter)
        except Damaged:
            pass
    assert opened == [sealed[-1]]


def test_a_rotation_seals_anew_and_may_be_repeated() -> None:
    old, new = VAULT, Vault(OTHER_KEY)
    once = new.reseal(NAME, old.seal(NAME, b"hunter2"), old)
    assert new.unseal(NAME, once) == b"hunter2"
    assert new.reseal(NAME, once, old) == once


def test_a_rotation_does_not_pass_on_what_neither_key_opens() -> None:
    old, new = VAULT, Vault(OTHER_KEY)
    with pytest.raises(WrongKey):
        new.reseal(NAME, Vault(os.urandom(32)).seal(NAME, b"hunter2"), old)
    with pytest.raises(Damaged):
        new.reseal(NAME, new.seal("elsewhere", b"hunter2"), old)


def test_neither_key_nor_secret_shows_in_repr_or_faults() -> None:
    key = b"0123456789abcdef0123456789abcdef"
    vault = Vault(key)
    sealed = vault.seal(NAME, b"hunter2")
    with pytest.raises(Damaged) as damaged:
        vault.unseal("x", sealed)
    for shown in (repr(vault), str(vault), repr(damaged.value)):
        assert "0123456789abcdef" not in shown
        assert key.hex() not in shown
        assert sealed not in shown


@pytest.mark.parametrize("size", [0, 16, 24, 31, 33])
def test_a_key_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Vault(bytes(size))
