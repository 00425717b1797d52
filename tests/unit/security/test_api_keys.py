"""API keys: shown once, kept as a hash, read exactly."""

import pytest

from dispatch.security.api_keys import new_key, read_key
from dispatch.security.passwords import verify_password


def test_a_new_key_reads_back_and_its_hash_is_of_its_secret() -> None:
    made = new_key()
    offered = read_key(f" {made.text} ")
    assert offered is not None
    assert offered.key_id == made.key_id
    assert verify_password(offered.secret, made.hashed)
    assert new_key().text != made.text
    secret = made.text.rpartition("_")[2]
    assert secret not in repr(made) + repr(offered)


@pytest.mark.parametrize(
    "text", ["", "dsp_live_", "dsp_live_abcdefgh", "dsp_live_abcdefgh_short", "DSP_LIVE_abcdefgh_" + "x" * 43]
)
def test_what_is_no_key(text: str) -> None:
    assert read_key(text) is None
