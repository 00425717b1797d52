"""Logins of a relay for the bench, and how one becomes a cached one.

A password that was right is remembered for five minutes from when it was hashed, and a bench takes longer. So
each round has a login of its own, which has just been used.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

from bench.conversation import Conversation, Login
from dispatch.security.passwords import hash_password

PASSWORD = "Correct, horse: battery"
OPTION = "listener.allow_unsecure_auth=true"
"""For sessions in clear: what TLS costs hides what AUTH costs."""


def logins(count: int) -> Iterator[Login]:
    return (Login(f"app{number}@example.org", PASSWORD) for number in range(count))


def tables(count: int) -> str:
    """The same, for a settings file."""
    hashed = hash_password(PASSWORD)
    return "".join(f'[[logins]]\nname = "{login.user}"\npassword = "{hashed}"\n' for login in logins(count))


async def remembered(port: int, login: Login, tls: ssl.SSLContext | None) -> None:
    """The relay knows the password from now on."""
    async with await Conversation.begin(port, tls=tls) as session:
        assert await session.log_in(login) == b"235"
