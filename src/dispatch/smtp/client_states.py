"""The client's state tables: what is awaited, and what each answer to it means (RFC 5321 section 4.3.2).

Two tables. `PHASE_MOVES` is the session's course; `STEPS` says for every awaited answer and every first
digit what follows. `421` is in neither: it closes the session wherever it comes (RFC 5321 section 3.8).
Both are total, so that a hostile server meets no missing entry.

A session passes `Phase.STARTTLS`, `TLS` and `AUTH` only where its settings ask for them (`client_opening`).
"""

from __future__ import annotations

from enum import Enum, IntEnum, StrEnum, auto

from dispatch.mail.report import Stage


class Phase(StrEnum):
    """Where a session is."""

    GREETING = "greeting"
    EHLO = "ehlo"
    HELO = "helo"
    STARTTLS = "starttls"
    TLS = "tls"
    """The handshake runs below; what the server said before it is forgotten (RFC 3207 section 4.2)."""
    AUTH = "auth"
    READY = "ready"
    """Transactions, one behind the other."""
    QUIT = "quit"
    CLOSED = "closed"


PHASE_MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.GREETING: frozenset({Phase.EHLO, Phase.CLOSED}),
    Phase.EHLO: frozenset({Phase.HELO, Phase.STARTTLS, Phase.AUTH, Phase.READY, Phase.CLOSED}),
    Phase.HELO: frozenset({Phase.READY, Phase.CLOSED}),
    Phase.STARTTLS: frozenset({Phase.TLS, Phase.AUTH, Phase.READY, Phase.CLOSED}),
    Phase.TLS: frozenset({Phase.EHLO, Phase.CLOSED}),
    Phase.AUTH: frozenset({Phase.READY, Phase.CLOSED}),
    Phase.READY: frozenset({Phase.QUIT, Phase.CLOSED}),
    Phase.QUIT: frozenset({Phase.CLOSED}),
    Phase.CLOSED: frozenset(),
}

PHASE_STAGE: dict[Phase, Stage] = {
    Phase.GREETING: Stage.GREETING,
    Phase.EHLO: Stage.EHLO,
    Phase.HELO: Stage.EHLO,
    Phase.STARTTLS: Stage.STARTTLS,
    Phase.TLS: Stage.STARTTLS,
    Phase.AUTH: Stage.AUTH,
}
"""How a session that ends in this phase is reported to the transactions that waited for it."""


class Awaited(IntEnum):
    """What the next reply answers. Replies come in the order of the commands: a queue of these is enough."""

    GREETING = 0
    EHLO = auto()
    HELO = auto()
    STARTTLS = auto()
    AUTH = auto()
    """Also each answer to a challenge (RFC 4954 section 4)."""
    MAIL = auto()
    RCPT = auto()
    DATA = auto()
    END_OF_DATA = auto()
    EMPTY_END_OF_DATA = auto()
    """No recipient was accepted, and still DATA was: the content sent is empty (RFC 2920 section 3.1)."""
    CHUNK = auto()
    """BDAT without LAST (RFC 3030 section 2)."""
    LAST_CHUNK = auto()
    RSET = auto()
    QUIT = auto()


class Step(Enum):
    """What an answer means."""

    GO = auto()
    """The command did what it should."""
    REFUSED = auto()
    """The peer says no, in its own words."""
    FALL_BACK = auto()
    """A host that does not know EHLO is asked with HELO (RFC 5321 section 3.2)."""
    CONTINUE = auto()
    """The peer asks for more."""
    CLOSE = auto()
    """There is nothing left to say to this peer."""
    VIOLATION = auto()
    """No server may answer so."""


_GO, _REFUSED, _VIOLATION, _CLOSE = Step.GO, Step.REFUSED, Step.VIOLATION, Step.CLOSE
_CONTINUE = Step.CONTINUE
_ORDINARY = (_GO, _VIOLATION, _REFUSED, _REFUSED)

STEPS: dict[Awaited, tuple[Step, Step, Step, Step]] = {
    #                            2yz         3yz         4yz        5yz
    Awaited.GREETING:           (_GO,        _VIOLATION, _REFUSED,  _REFUSED),
    Awaited.EHLO:               (_GO,        _VIOLATION, _REFUSED,  Step.FALL_BACK),
    Awaited.HELO:               (_GO,        _VIOLATION, _REFUSED,  _REFUSED),
    Awaited.STARTTLS:           _ORDINARY,
    Awaited.AUTH:               (_GO,        _CONTINUE,  _REFUSED,  _REFUSED),
    Awaited.MAIL:               _ORDINARY,
    Awaited.RCPT:               _ORDINARY,
    Awaited.DATA:               (_VIOLATION, _GO,        _REFUSED,  _REFUSED),
    Awaited.END_OF_DATA:        _ORDINARY,
    Awaited.EMPTY_END_OF_DATA:  (_GO,        _VIOLATION, _GO,       _GO),
    Awaited.CHUNK:              _ORDINARY,
    Awaited.LAST_CHUNK:         _ORDINARY,
    Awaited.RSET:               (_GO,        _VIOLATION, _CLOSE,    _CLOSE),
    Awaited.QUIT:               (_CLOSE,     _CLOSE,     _CLOSE,    _CLOSE),
}  # fmt: skip
