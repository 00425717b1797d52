"""What replies and faults mean: the one place where a relay's report becomes outcomes.

Protocol code reports, this file judges. A verdict has a *move* (what becomes of the delivery)
and a *scope* (what the answer says something about). The scope decides what the queue does beside:
relay scope fails over and counts towards the breaker, session scope only spoils this connection,
message and recipient scope never fail over, for another relay would be asked a question that has
been answered.

The rules are two tables, one for replies and one for faults, read from the top; the first row
that applies wins, and the last rows apply to everything. `render_verdicts` writes the manual's page
from the same rows. Direct delivery has rows of its own before them, because there the host speaks for the
recipient's domain; and what would be said of the relay is said of that domain alone.

Traps:

- "250" to anything but the end of data has delivered nothing; and no reply *after* the end of data
  is neither success nor failure (RFC 1047). Nothing here may turn the second into a deferral.
- Refused credentials, and a host that offers no way to use them, say nothing about the mail: it is kept, and
  the attempt is not counted.
- A provider's HTTP status is not an SMTP code: a codec translates (500 is a 451, 401 is a 535)
  before it reports. Only 429 has no SMTP twin and is understood here.
- Content of ours that is out of reach is tried later. What is lost, only a person can bring back: the mail is
  set aside for them. It does not bounce: that is final, and a folder that is not there for an hour would bounce
  everything that is large.
- The words of a reply are looked at only to tell a throttle from a failure, and to read how long
  to wait. They never decide between bounce and deferral.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

from dispatch.mail.delivery import Move
from dispatch.mail.outcome import Outcome, Scope
from dispatch.mail.reply import Reply
from dispatch.mail.report import Fault, FaultKind, Report, Stage

Seen = TypeVar("Seen", Reply, Fault)

REASON_CHARS_MAX = 500
RETRY_AFTER_S_MAX = 86_400.0
"""A day: what a peer may ask for at most."""


@dataclass(frozen=True, slots=True)
class Row(Generic[Seen]):
    """One rule: at these stages, if the test holds, this is the verdict."""

    stages: frozenset[Stage]
    answer: str
    """What was seen, for the manual."""
    applies: Callable[[Seen], bool]
    move: Move
    scope: Scope
    burns_attempt: bool
    reason: str
    """Beginning of the operator's line; the peer's words, or the fault's, follow."""
    source: str


# ---------------------------------------------------------------- what kind of reply it is

_AUTHENTICATION_CODES = frozenset({530, 534, 535, 538})
_AUTHENTICATION_ENHANCED = frozenset({"5.7.8", "5.7.9", "5.7.11", "5.7.14"})
_RELAY_TROUBLE_ENHANCED = frozenset({"4.3.1", "4.3.2", "4.3.5"})
_THROTTLE_WORDS = re.compile(
    r"throttl|rate[ -]?limit|(?:sending|message|connection) rate|too many (?:messages|connections|requests)"
    r"|gr[ea]ylist",
    re.IGNORECASE,
)
_QUOTA_WORDS = re.compile(r"quota|\b(?:daily|hourly|monthly)\b[^.]{0,40}\blimit", re.IGNORECASE)


def _is_authentication(reply: Reply) -> bool:
    """Codes of RFC 4954 section 6, and RFC 3463/5248 codes that speak of credentials."""
    return reply.code in _AUTHENTICATION_CODES or reply.enhanced in _AUTHENTICATION_ENHANCED


def _is_throttle(reply: Reply) -> bool:
    """We are too fast or too early for the peer; the mail itself was not judged."""
    if not reply.temporary:
        return False
    if reply.code in (421, 429):
        return True
    if reply.code in (450, 451) and reply.enhanced is not None and reply.enhanced.startswith("4.7."):
        return True
    return _THROTTLE_WORDS.search(reply.text) is not None


def _is_quota(reply: Reply) -> bool:
    return _is_throttle(reply) and _QUOTA_WORDS.search(reply.text) is not None


def _is_too_many_recipients(reply: Reply) -> bool:
    """452 4.5.3; a 552 that means it counts as 452 (RFC 5321 section 4.5.3.1.10)."""
    if reply.code not in (452, 552):
        return False
    if reply.enhanced is not None:
        return reply.enhanced.endswith(".5.3")
    return "recipients" in reply.text.lower()


def _is_relay_trouble(reply: Reply) -> bool:
    """RFC 3463 section 3.4 and 3.5: the system or its network is unwell, whatever the message."""
    if not reply.temporary:
        return False
    if reply.enhanced is None:
        return reply.code == 452
    return reply.enhanced in _RELAY_TROUBLE_ENHANCED or reply.enhanced.startswith("4.4.")


def _is_refused_access(reply: Reply) -> bool:
    """5.7.x to MAIL: mostly *we* are not permitted. 553 is the exception: it names the sender address."""
    return reply.code != 553 and reply.enhanced is not None and reply.enhanced.startswith("5.7.")


def _wants_more_of_us(reply: Reply) -> bool:
    """What a relay of ours would say for want of credentials or rights."""
    return reply.permanent and (_is_authentication(reply) or _is_refused_access(reply))


def _is_too_large(reply: Reply) -> bool:
    return reply.permanent and (reply.code == 552 or reply.enhanced == "5.3.4")


def _completed(reply: Reply) -> bool:
    return reply.code < 300


def _positive(reply: Reply) -> bool:
    return reply.positive


def _temporary(reply: Reply) -> bool:
    return reply.temporary


def _permanent(reply: Reply) -> bool:
    return reply.permanent


def _code(code: int) -> Callable[[Reply], bool]:
    return lambda reply: reply.code == code


def _kind(*kinds: FaultKind) -> Callable[[Fault], bool]:
    return lambda fault: fault.kind in kinds


# ---------------------------------------------------------------- the tables

_ALL = frozenset(Stage)
_OPENING = frozenset({Stage.CONNECT, Stage.GREETING, Stage.EHLO, Stage.STARTTLS, Stage.AUTH})
_AUTH = frozenset({Stage.AUTH})
_MAIL = frozenset({Stage.MAIL})
_RCPT = frozenset({Stage.RCPT})
_COMMANDS = frozenset({Stage.MAIL, Stage.RCPT, Stage.DATA})
_PAST_RCPT = frozenset({Stage.MAIL, Stage.DATA, Stage.END_OF_DATA})
_END = frozenset({Stage.END_OF_DATA})

_DELIVER, _DEFER, _BOUNCE, _LOSE = Move.DELIVER, Move.DEFER, Move.BOUNCE, Move.LOSE_REPLY
_SET_ASIDE = Move.QUARANTINE
_SESSION, _RELAY, _MESSAGE, _RECIPIENT = Scope.SESSION, Scope.RELAY, Scope.MESSAGE, Scope.RECIPIENT
_DOMAIN = Scope.DOMAIN

DELIVERED_REASON = "accepted by the relay"
CAPTURED_REASON = "kept in the local inbox"

# fmt: off
# ruff: noqa: E501 - a table reads by its columns; the long lines are its rows
REPLY_ROWS: tuple[Row[Reply], ...] = (
    Row(_END,     "2yz",                                  _completed,              _DELIVER, _RECIPIENT, True,  DELIVERED_REASON,                          "RFC 5321 §4.2.5"),
    Row(_END,     "3yz, which ends nothing",              _positive,               _LOSE,    _SESSION,   True,  "the end of data got an answer that is none", "RFC 5321 §4.3.2, RFC 1047"),
    Row(_ALL,     "2yz, 3yz where it settles nothing",    _positive,               _DEFER,   _RELAY,     True,  "the relay's answer fits no command",      "RFC 5321 §4.3.2"),

    Row(_AUTH,    "5yz",                                  _permanent,              _DEFER,   _RELAY,     False, "the relay refused our credentials",       "RFC 4954 §6"),
    Row(_AUTH,    "4yz",                                  _temporary,              _DEFER,   _RELAY,     False, "our credentials could not be checked",    "RFC 4954 §6"),
    Row(_ALL,     "530, 534, 535, 538, 5.7.8, 5.7.9, 5.7.11, 5.7.14", _is_authentication, _DEFER, _RELAY, False, "the relay wants other credentials",     "RFC 4954 §6, RFC 5248"),
    Row(_OPENING, "throttle",                             _is_throttle,            _DEFER,   _RELAY,     False, "the relay has no time for us now",        "RFC 5321 §3.8, RFC 3463 §3.8"),
    Row(_OPENING, "4yz",                                  _temporary,              _DEFER,   _RELAY,     True,  "the relay does not serve us now",         "RFC 5321 §3.1"),
    Row(_OPENING, "5yz",                                  _permanent,              _DEFER,   _RELAY,     True,  "the relay does not serve us",             "RFC 5321 §3.1, RFC 7504 §3"),

    Row(_ALL,     "421",                                  _code(421),              _DEFER,   _SESSION,   False, "the relay closed the session",            "RFC 5321 §3.8"),
    Row(_COMMANDS, "503",                                 _code(503),              _DEFER,   _SESSION,   True,  "the conversation came out of step",       "RFC 5321 §4.1.4"),

    Row(_RCPT,    "452 4.5.3, 552 5.5.3: too many recipients", _is_too_many_recipients, _DEFER, _RECIPIENT, False, "one recipient too many for one transaction", "RFC 5321 §4.5.3.1.10"),
    Row(_RCPT,    "throttle, greylisting",                _is_throttle,            _DEFER,   _RECIPIENT, False, "the recipient is to be tried later",      "RFC 6647 §5"),
    Row(_RCPT,    "4yz",                                  _temporary,              _DEFER,   _RECIPIENT, True,  "the recipient was refused for now",       "RFC 5321 §4.2.1"),
    Row(_RCPT,    "5yz",                                  _permanent,              _BOUNCE,  _RECIPIENT, True,  "the recipient was refused",               "RFC 5321 §3.3"),

    Row(_ALL,     "throttle that speaks of a quota",      _is_quota,               _DEFER,   _RELAY,     False, "our quota at the relay is used up",       "RFC 3463 §3.8"),
    Row(_ALL,     "throttle",                             _is_throttle,            _DEFER,   _SESSION,   False, "the relay slows us down",                 "RFC 3463 §3.8, RFC 6585 §4"),
    Row(_ALL,     "4.3.1, 4.3.2, 4.3.5, 4.4.x, plain 452", _is_relay_trouble,      _DEFER,   _RELAY,     True,  "the relay is unwell",                     "RFC 3463 §3.4, §3.5"),
    Row(_ALL,     "4yz",                                  _temporary,              _DEFER,   _MESSAGE,   True,  "the message was refused for now",         "RFC 5321 §4.2.1"),
    Row(_MAIL,    "5.7.x, but not 553",                   _is_refused_access,      _DEFER,   _RELAY,     True,  "the relay does not let us send",          "RFC 3463 §3.8"),
    Row(_ALL,     "552, 5.3.4",                           _is_too_large,           _BOUNCE,  _MESSAGE,   True,  "the message is too large for the relay",  "RFC 1870 §6"),
    Row(_ALL,     "5yz",                                  _permanent,              _BOUNCE,  _MESSAGE,   True,  "the message was refused",                 "RFC 5321 §4.2.1"),
)

FAULT_ROWS: tuple[Row[Fault], ...] = (
    Row(_END, "no reply",                                  lambda _: True,                  _LOSE,   _SESSION, True,  "no reply came after the end of data", "RFC 1047, RFC 5321 §4.5.3.2.6"),
    Row(_ALL, "message needs what the host lacks",         _kind(FaultKind.UNSUITED),       _BOUNCE, _MESSAGE, True,  "the relay cannot take this message",  "RFC 6152 §3, RFC 6531 §3.2, RFC 1870 §6"),
    Row(_ALL, "null MX",                                   _kind(FaultKind.NULL_MX),        _DEFER,  _RELAY,   False, "nobody takes mail at the relay's domain: is its name right?", "RFC 7505 §3"),
    Row(_OPENING, "no usable way to authenticate",         _kind(FaultKind.AUTHENTICATION), _DEFER,  _RELAY,   False, "the relay cannot be given our credentials", "RFC 4954 §4, §6"),
    Row(_AUTH, "no credentials to be had now",             _kind(FaultKind.CREDENTIALS_ABSENT), _DEFER, _RELAY,   False, "the relay cannot be given our credentials", "-"),
    Row(_ALL, "content unreadable",                        _kind(FaultKind.CONTENT_UNREADABLE), _DEFER, _MESSAGE, False, "our own copy of the content could not be read", "-"),
    Row(_ALL, "content lost",                              _kind(FaultKind.CONTENT_LOST),   _SET_ASIDE, _MESSAGE, False, "our own copy of the content is gone or not whole", "-"),
    Row(_ALL, "name not resolved, refused, unreachable, timed out, connection lost, TLS failed, protocol violated", lambda _: True, _DEFER, _RELAY, True, "the relay could not be used", "RFC 5321 §4.5.4.1"),
)

DIRECT_REPLY_ROWS: tuple[Row[Reply], ...] = (
    Row(_RCPT,    "530, 534, 535, 538, 5.7.x",            _wants_more_of_us,        _BOUNCE, _RECIPIENT, True,  "the recipient was refused",               "RFC 5321 §3.3"),
    Row(_PAST_RCPT, "530, 534, 535, 538, 5.7.x",          _wants_more_of_us,        _BOUNCE, _MESSAGE,   True,  "the message was refused",                 "RFC 5321 §4.2.1"),
)
DIRECT_FAULT_ROWS: tuple[Row[Fault], ...] = (
    Row(_OPENING, "no such mail domain",                   _kind(FaultKind.NO_DOMAIN),      _BOUNCE, _RECIPIENT, True,  "mail cannot be delivered there", "RFC 5321 §5.1"),
    Row(_OPENING, "null MX",                               _kind(FaultKind.NULL_MX),        _BOUNCE, _RECIPIENT, True,  "mail cannot be delivered there", "RFC 7505 §3, §4.1"),
    Row(_OPENING, "mail would come back to us",            _kind(FaultKind.LOOP),           _BOUNCE, _RECIPIENT, True,  "mail cannot be delivered there", "RFC 5321 §5.1"),
    Row(_OPENING, "its hosts failed a moment ago",         _kind(FaultKind.RESTS),          _DEFER,  _DOMAIN,    False, "the domain's host could not be used", "-"),
    Row(_OPENING, "the domain's policy is not met",        _kind(FaultKind.POLICY),         _DEFER,  _DOMAIN,    True,  "the domain could not be reached as it demands", "RFC 8461 §5, RFC 7672 §2.2"),
)
# fmt: on


# ---------------------------------------------------------------- judging


def judge(report: Report, captured: bool = False, direct: bool = False) -> tuple[Outcome, ...]:
    """One outcome for each recipient of the transaction, in its order.

    `captured`: the relay is the local inbox, and what it took is captured, not delivered. `direct`: it delivers
    to the host of the recipients' own domain.
    """
    reply_rows, fault_rows = (_DIRECT_REPLIES, _DIRECT_FAULTS) if direct else (REPLY_ROWS, FAULT_ROWS)
    stage = report.stage
    stages = report.reply_stage
    outcomes: list[Outcome] = []
    last: Reply | None = None
    for position, reply in enumerate(report.replies):
        if stages:
            stage = stages[position]
        if reply is not None and reply.code < 300 and stage is Stage.END_OF_DATA:
            # Recipients answered by one reply share one outcome: the usual case makes one object.
            if reply is last:
                outcomes.append(outcomes[-1])
                continue
            last = reply
            outcomes.append(
                Outcome(Move.CAPTURE, Scope.RECIPIENT, reply, CAPTURED_REASON)
                if captured
                else Outcome(Move.DELIVER, Scope.RECIPIENT, reply, DELIVERED_REASON)
            )
            continue
        last = None
        if reply is not None:
            outcomes.append(_judge_reply(stage, reply, reply_rows))
        else:
            assert report.fault is not None, "a recipient without a reply needs a fault that explains it"
            # What has no reply has no stage of its own: it ended where the transaction ended.
            outcomes.append(_judge_fault(report.stage, report.fault, fault_rows))
    return tuple(outcomes)


def _judge_reply(stage: Stage, reply: Reply, rows: tuple[Row[Reply], ...]) -> Outcome:
    for row in rows:
        if stage in row.stages and row.applies(reply):
            reason = f"{row.reason} ({stage.value}): {reply}"[:REASON_CHARS_MAX]
            retry_after_s = parse_retry_after(reply.text) if reply.temporary else None
            return Outcome(row.move, row.scope, reply, reason, retry_after_s, row.burns_attempt)
    raise AssertionError(f"no verdict for {reply} at {stage.value}")


def _judge_fault(stage: Stage, fault: Fault, rows: tuple[Row[Fault], ...]) -> Outcome:
    for row in rows:
        if stage in row.stages and row.applies(fault):
            reason = f"{row.reason} ({stage.value}): {fault.kind.value}"
            if fault.detail:
                reason = f"{reason}: {fault.detail}"
            if row.move is Move.BOUNCE:
                reason = f"{_status(fault)} {reason}"
            wait_s = fault.retry_after_s
            return Outcome(row.move, row.scope, None, reason[:REASON_CHARS_MAX], wait_s, row.burns_attempt)
    raise AssertionError(f"no verdict for {fault.kind} at {stage.value}")


_STATUS = {
    FaultKind.NO_DOMAIN: "5.1.2",
    FaultKind.NULL_MX: "5.1.10",
    FaultKind.LOOP: "5.4.6",
}
"""RFC 3463 sections 3.2 and 3.5, RFC 7505 section 4.1."""


def _status(fault: Fault) -> str:
    """What the host would have sent had we asked: RFC 6531 section 3.5, RFC 3463 sections 3.4, 3.7."""
    if fault.kind in _STATUS:
        return _STATUS[fault.kind]
    wanted = fault.detail.upper()
    if "SMTPUTF8" in wanted:
        return "5.6.7"
    if "8BITMIME" in wanted or "BINARYMIME" in wanted:
        return "5.6.3"
    if "SIZE" in wanted:
        return "5.3.4"
    return "5.6.0"


def _of_a_domain(row: Row[Seen]) -> Row[Seen]:
    """What a host says of itself is said for the domain, where it is nobody's relay."""
    if row.scope is not Scope.RELAY:
        return row
    return replace(row, scope=Scope.DOMAIN, reason=row.reason.replace("the relay", "the domain's host"))


_DIRECT_REPLIES = (*DIRECT_REPLY_ROWS, *map(_of_a_domain, REPLY_ROWS))
_DIRECT_FAULTS = (*DIRECT_FAULT_ROWS, *map(_of_a_domain, FAULT_ROWS))


def is_throttle(outcome: Outcome) -> bool:
    """Whether the relay as such asked us to slow down: its concurrency window shrinks."""
    return (
        not outcome.burns_attempt
        and outcome.scope in (Scope.SESSION, Scope.RELAY)
        and outcome.reply is not None
        and outcome.reply.temporary
    )


def is_authentication_failure(outcome: Outcome) -> bool:
    """Whether the relay refused our credentials, or cannot be given any: its breaker opens at once."""
    return (
        not outcome.burns_attempt
        and outcome.scope is Scope.RELAY
        and (outcome.reply is None or outcome.reply.permanent)
    )


# ---------------------------------------------------------------- how long the peer wants us to wait

_UNIT_S = {"s": 1, "m": 60, "h": 3600}
_WAIT = re.compile(
    r"(?:\b(?:in|after|for|within|wait|least|another)[ :=]{1,3}(?:about |at least )?"
    r"(?:(?P<clock>\d{1,2}:\d{2}(?::\d{2})?)\b|(?P<count>\d{1,6}) ?(?P<unit>s|m|h)(?:ec|in|r|ou?r|inute|econd)?s?\b))"
    r"|retry-after[ :=]{1,3}(?P<header>\d{1,6})\b",
    re.IGNORECASE,
)


def parse_retry_after(text: str) -> float | None:
    """Seconds from words like `try again in 5 minutes`, `Retry-After: 120`, `come back in 00:05:00`.

    At least one second, at most `RETRY_AFTER_S_MAX`; None where nothing of the kind is said.
    """
    found = _WAIT.search(text)
    if found is None:
        return None
    if clock := found["clock"]:
        wait_s = 0
        for part in clock.split(":"):
            wait_s = wait_s * 60 + int(part)
    elif header := found["header"]:
        wait_s = int(header)
    else:
        wait_s = int(found["count"]) * _UNIT_S[found["unit"].lower()]
    return min(max(float(wait_s), 1.0), RETRY_AFTER_S_MAX)


# ---------------------------------------------------------------- the manual


class VerdictRow(NamedTuple):
    """One row of the manual's table, as words."""

    stages: str
    answer: str
    move: str
    scope: str
    counted: str
    reason: str
    source: str


def verdict_table() -> tuple[VerdictRow, ...]:
    """Both tables in the order in which they are read: replies, then faults."""
    return _in_words((*REPLY_ROWS, *FAULT_ROWS))


def _in_words(rows: tuple[Row[Reply] | Row[Fault], ...]) -> tuple[VerdictRow, ...]:
    return tuple(
        VerdictRow(
            _stages_text(row.stages),
            row.answer,
            row.move.value,
            row.scope.value,
            "yes" if row.burns_attempt else "no",
            row.reason,
            row.source,
        )
        for row in rows
    )


def _stages_text(stages: frozenset[Stage]) -> str:
    if stages == _ALL:
        return "any"
    return ", ".join(stage.value for stage in Stage if stage in stages)


_DIRECT_WORDS = """\
These rows are read first where a relay delivers to the recipients' own domains. What is of relay scope in the tables
above is then of *domain* scope: the next relay of the route is tried at once, and no breaker counts it."""


def render_verdicts() -> str:
    """The page `docs/reference/verdicts.md`, Markdown."""
    lines = [
        "# What a relay's answer means",
        "",
        "Read from the top; the first row that applies decides, for each recipient by itself. *Scope* is what",
        "the answer says something about: after a failure of relay scope the next relay of the route is tried",
        "at once, and the relay's breaker counts it. *Counted* says whether the attempt counts towards",
        "`spool.max_retries`. A *throttle* is 421, 429, 450 or 451 with 4.7.x, or a temporary answer whose",
        "words speak of a rate, of too many messages or connections, or of greylisting.",
        "A recipient taken by the local inbox is captured where the table says deliver.",
    ]
    sections: tuple[tuple[str, str, tuple[Row[Reply] | Row[Fault], ...]], ...] = (
        ("Replies", "", REPLY_ROWS),
        ("No reply", "", FAULT_ROWS),
        ("Direct delivery: before these", _DIRECT_WORDS, (*DIRECT_REPLY_ROWS, *DIRECT_FAULT_ROWS)),
    )
    for title, words, rows in sections:
        lines += [
            "",
            f"## {title}",
            "",
            *((words, "") if words else ()),
            "| at | seen | move | scope | counted | reason | source |",
            "|---|---|---|---|---|---|---|",
            *("| " + " | ".join(row) + " |" for row in _in_words(rows)),
        ]
    return "\n".join(lines) + "\n"
