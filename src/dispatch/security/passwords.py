"""Passwords and what is kept of them: bcrypt hashes, ours and those brought along from elsewhere.

::

    dispatch1$2b$12$<22 characters of salt><31 of digest>     ours
    $2a$10$…   $2b$12$…   $2y$10$…                             foreign: htpasswd, PHP, other products

bcrypt reads 72 bytes and, in many implementations, stops at a NUL. So ours hash a SHA-256 digest in
base64: every byte of a password of any length counts. The tag keeps the two kinds apart, and is hashed with
the password, so that an unsalted SHA-256 that leaked elsewhere is not half of the work done here.

Rules:
- Checking raises nothing, whatever password and hash are: a peer chose the one, a settings file held the
  other. What cannot be checked is wrong.
- A foreign hash of a password above 72 bytes, or with a NUL in it, is wrong and not cut: its maker may have
  cut it, and then a prefix would do. It costs as much as any other, because an answer that comes at once says
  that the user exists.
- A password is bytes, as the client sent them (RFC 4616 section 2: UTF-8). Nothing is normalised.

Hashing takes a quarter of a second at cost 12 and lets go of the interpreter lock meanwhile: call it on a
worker (`dispatch.security.verifying`), never on the loop. It deliberately knows no users and no policy for
what a good password is.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode

import bcrypt

COST = 12
COST_MAX = 16
"""A check takes four seconds then, and each step doubles it: a login would be a way to stop the relay."""
_COST_MIN = 4
_FOREIGN_BYTES_MAX = 72
_TAG = "dispatch1"

UNKNOWN_USER_HASH = "dispatch1$2b$12$0/lSF4ly/jA0.aA4DQKY1eQp6qdhjsUr8xIW7Wu/kVCFXfvw9e3Pm"
"""A hash of something random that nobody has kept: what an unknown user's password is compared with."""

# Salt and digest fill their last characters only in part, and bcrypt leaves the rest zero.
_BCRYPT = re.compile(
    r"(?P<tag>dispatch1(?=\$2b))?(?P<bcrypt>\$2[aby]\$(?P<cost>\d\d)\$"
    r"[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{30}[.CGKOSWaeimquy26])",
    re.ASCII,
)
_DOLLARS_MISSING = re.compile(r"\$?2[aby]\$?\d\d\$?[./A-Za-z0-9]{53}", re.ASCII)
"""Some of the three `$` are gone, and nothing else."""
_VARIABLES_EATEN = re.compile(r"([aby]\d?|\$2[aby]\$\d\d)([./][./A-Za-z0-9]*)?", re.ASCII)
"""`$2` and `$1` are empty in a shell, and the name behind the third `$`, up to a dot or slash, everywhere."""
_OTHER_HASH = re.compile(r"\$[a-z0-9-]{1,20}\$|\{[A-Za-z0-9-]{2,20}\}", re.ASCII)


def hash_password(password: str, *, rounds: int = COST) -> str:
    """Our hash, 69 ASCII characters. Takes 0.25 s at 12 rounds, twice that for each one more.

    Raises `ValueError` for an empty password, and for text that is not Unicode. Bytes of a terminal that are
    not UTF-8 (`surrogateescape`) are hashed as the bytes they were.
    """
    if not password:
        raise ValueError("an empty password protects nothing")
    if not _COST_MIN <= rounds <= COST_MAX:
        raise ValueError(f"{rounds} rounds are not within {_COST_MIN} and {COST_MAX}")
    digest = _digest(password.encode("utf-8", "surrogateescape"))
    return _TAG + bcrypt.hashpw(digest, bcrypt.gensalt(rounds)).decode("ascii")


def verify_password(password: bytes, hashed: str) -> bool:
    """Whether it is the password that was hashed. Raises nothing; False for a hash that cannot be read."""
    found = _BCRYPT.fullmatch(hashed)
    if found is None or not _COST_MIN <= int(found["cost"]) <= COST_MAX:
        return False
    ours = found["tag"] is not None
    usable = ours or (len(password) <= _FOREIGN_BYTES_MAX and 0 not in password)
    # What is not usable is hashed all the same, for its time only.
    material = _digest(password) if ours or not usable else password
    try:
        good = bcrypt.checkpw(material, found["bcrypt"].encode("ascii"))
    except ValueError:
        return False
    return good and usable


def is_password_hash(text: str) -> bool:
    """Whether `verify_password` can check against it."""
    return what_is_wrong_with_hash(text) is None


def what_is_wrong_with_hash(text: str) -> str | None:
    """Why the text is no password hash, and what to do: words to follow the name of a setting; None if it is.

    It is never repeated in the answer: what was written instead of a hash is often the password.
    """
    found = _BCRYPT.fullmatch(text)
    if found is not None:
        if int(found["cost"]) > COST_MAX:
            return (
                f"costs {found['cost']}, and more than {COST_MAX} is refused: each login would take minutes"
            )
        if int(found["cost"]) < _COST_MIN:
            return f"costs {found['cost']}, which bcrypt does not know: make the hash again"
        return None
    if not text.strip():
        return "is empty: write a bcrypt hash of the password"
    if text != text.strip():
        return "has blanks around it: remove them"
    if _BCRYPT.fullmatch(text.replace("$$", "$")):
        return "has each $ doubled: that is for compose files; write single ones here"
    if _BCRYPT.fullmatch(text.strip("'\"")):
        return "has quotation marks in it: they belong around the value, not into it"
    bare = text.removeprefix(_TAG)
    if re.match(r"\$2[aby]?\$\d\d\$", bare, re.ASCII):
        return "begins like a bcrypt hash, but was cut off or altered: copy all of it"
    if _DOLLARS_MISSING.fullmatch(bare) or _VARIABLES_EATEN.fullmatch(bare):
        return (
            "looks like a hash whose $ were taken for variables: "
            "in a compose file write each $ as $$, in a shell put single quotes around it"
        )
    if bare.startswith("$2x$"):
        return "was made by a bcrypt that had a fault ($2x$): make the hash again"
    if bare != text or _OTHER_HASH.match(text):
        return "is no hash that can be checked here: make a bcrypt hash of the password"
    return "is no bcrypt hash, and looks like a plain password: write a bcrypt hash of it instead"


def _digest(password: bytes) -> bytes:
    """44 characters without a NUL."""
    return b64encode(hashlib.sha256(_TAG.encode() + b"\0" + password).digest())
