"""Who is told what became of a message, and when (RFC 3461, RFC 3464; the letter itself is `mime.dsn`).

Told is the reverse-path, of each recipient by itself, as its NOTIFY asks; without one, of failure and of
delay. The null reverse-path is told nothing, ever (RFC 5321 section 6.1). The policy of the relay that had
the mail comes on top: what it forbids is not sent, whoever asked.

| state | NOTIFY | told | why |
|---|---|---|---|
| bounced | FAILURE | failed, the reply's status | |
| expired | FAILURE | failed, 4.4.7 | class 4: given up, not refused (RFC 3463 section 2) |
| gave up | FAILURE | failed, 4.4.2 | may have arrived, and the words say so |
| suppressed | FAILURE | failed, 5.7.1 | we answered 250 and never tried: silence would be a loss |
| waiting, for long | DELAY | delayed, 4.y.z | once a recipient; `delay_due` says when |
| delivered, no DSN there | SUCCESS | relayed, 2.y.z | nobody after us will tell (RFC 3461 section 5.2.2) |
| delivered, DSN passed on | – | nothing | it has the request now, and answers it |
| captured | – | nothing | it reached nobody, and nothing leaves a relay that captures |
| cancelled | – | nothing | the operator's quiet end of mail; their *bounce* is the one that tells |
| discarded | – | nothing | a rule that drops mail is made to be quiet |
| held, quarantined | – | nothing | nothing is decided yet, and a person has been told already |

A sender reads other words than an operator: what went wrong between us and our relay (credentials,
connections) is the operator's business, so of replies only those that speak of the mail are passed on.

Pure: what was told already is remembered by the caller, by `Told.key` and by `notice_id`. The same that is
to be told gives the same id, so a repeat after a crash can be recognised.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Literal

import msgspec

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.envelope import Recipient
from dispatch.mail.ids import MessageId, new_message_id
from dispatch.mail.message import Message
from dispatch.mail.reply import Reply
from dispatch.mime.dsn import FULL_BYTES_MAX, Action, Notice, NotifiedRecipient

DsnPolicy = Literal["on", "off", "authenticated"]
"""`authenticated`: only of mail that came in with a login or key. Anybody can forge a reverse-path elsewhere,
and its owner would get the notice."""

RECIPIENTS_PER_NOTICE_MAX = 100


class NoticeKind(StrEnum):
    """The words of NOTIFY (RFC 3461 section 4.1)."""

    FAILURE = "FAILURE"
    DELAY = "DELAY"
    SUCCESS = "SUCCESS"


class DsnRules(msgspec.Struct, frozen=True):
    """What the operator settled."""

    reporting_mta: str
    """Our own name."""
    sender: str
    """The address that notices are from."""
    default_policy: DsnPolicy = "authenticated"
    """For relays that `policies` does not name, and for mail that met none."""
    policies: Mapping[str, DsnPolicy] = {}
    """By the name of the relay."""
    delay_notice_after_s: float | None = 14_400.0
    """From acceptance; None: delays are not told."""
    gather_s: float = 60.0
    """What happened to recipients of one message within this time goes into one notice."""
    full_bytes_max: int = FULL_BYTES_MAX


class Standing(msgspec.Struct, frozen=True, gc=False):
    """Where one delivery stands: what the ledger said of it last."""

    index: int
    """Of the recipient, in the envelope."""
    state: DeliveryState
    at_ms: int
    relay: str = ""
    """Which had it, or would have had it."""
    reply: Reply | None = None
    reason: str = ""
    """The operator's line. Only a status at its beginning is read, never its words."""
    peer: str = ""
    """`192.0.2.1:25`, `[2001:db8::1]:25`, or empty."""
    by: str = ""
    """Who moved it, where it was not an attempt: `operator`, …"""
    dsn_passed_on: bool = False
    """The next hop offered DSN (RFC 3461), and so has the request."""
    retry_until_ms: int | None = None
    """When it expires."""


class Told(msgspec.Struct, frozen=True, gc=False):
    """What is to be told of one recipient. It may wait for others of its message (`gathered`)."""

    message_id: MessageId
    index: int
    kind: NoticeKind
    at_ms: int
    """When it happened."""
    recipient: NotifiedRecipient

    @property
    def key(self) -> tuple[MessageId, int, NoticeKind, int]:
        """The same after a repeat, another after a failure of a reopened delivery."""
        return self.message_id, self.index, self.kind, self.at_ms


# ---------------------------------------------------------------- whether


def asked_for(notify: str | None) -> frozenset[NoticeKind]:
    """What NOTIFY asks for (RFC 3461 section 4.1); without it failure, and delay by our own choice."""
    if notify is None:
        return frozenset({NoticeKind.FAILURE, NoticeKind.DELAY})
    words = notify.upper().split(",")
    return frozenset(kind for kind in NoticeKind if kind.value in words)


def may_tell(message: Message, relay: str, rules: DsnRules) -> bool:
    """Whether the sender of this message may be sent a notice at all, of what befell it at this relay."""
    if not message.envelope.reverse_path:
        return False
    match rules.policies.get(relay, rules.default_policy):
        case "on":
            return True
        case "off":
            return False
        case "authenticated":
            return message.origin.login is not None


def delay_due(since_ms: int, told_ms: int | None, now_ms: int, after_s: float | None) -> bool:
    """Whether it is time for the one notice of delay that a recipient's sender gets.

    `since_ms` is the acceptance (or the last reopening), `told_ms` when the notice was made, if it was.
    """
    return told_ms is None and after_s is not None and now_ms - since_ms >= after_s * 1000


def notices_for(message: Message, standings: Sequence[Standing], rules: DsnRules) -> tuple[Told, ...]:
    """What is to be told of these deliveries, in their order; most mail has nothing to be told.

    A standing that waits is one whose notice of delay is due (`delay_due`).
    """
    if not message.envelope.reverse_path:
        return ()
    recipients = message.envelope.recipients
    told: list[Told] = []
    for standing in standings:
        recipient = recipients[standing.index]
        found = _find(standing)
        if found is None or found.kind not in asked_for(recipient.notify):
            continue
        if may_tell(message, standing.relay, rules):
            told.append(_told(message.id, recipient, standing, found))
    return tuple(told)


# ---------------------------------------------------------------- what


class _Finding(msgspec.Struct, frozen=True, gc=False):
    kind: NoticeKind
    action: Action
    status: str
    explanation: str
    reply: Reply | None = None


_STATUS_IN_FRONT = re.compile(r"(5\.\d{1,3}\.\d{1,3}) ", re.ASCII)
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}", re.ASCII)

_REFUSED = "The next mail server refused it for this recipient."
_RETURNED = "The administrator of the mail relay returned it."
_UNSUITED = "The next mail server cannot take a message of this kind."
_EXPIRED = "It could not be delivered in the time set for that, though it was tried again and again."
_MAY_HAVE_ARRIVED = (
    "The connection to the next mail server broke just before it confirmed the message. It may have arrived,"
    " or not. It is not tried again, because it might then arrive twice."
)
_SUPPRESSED = (
    "It was not sent, because the mail relay has this address on its list of those that earlier mail bounced"
    " from or that asked for no more."
)
_WAITS = "It could not be passed on to the next mail server yet."
_DELAYED = "The next mail server does not take it yet."
_PASSED_ON = "The next mail server has it. Whether it reaches the mailbox is not confirmed from there on."


def _find(standing: Standing) -> _Finding | None:
    """What the table above says of a state, whoever asked."""
    reply = standing.reply
    match standing.state:
        case DeliveryState.BOUNCED:
            return _bounced(standing)
        case DeliveryState.EXPIRED:
            # RFC 3463 section 3.5 has X.4.7 with class 4 only, and prefers the code of the actual problem.
            # That one stands in Diagnostic-Code; this one says why it ended.
            return _Finding(NoticeKind.FAILURE, "failed", "4.4.7", _EXPIRED, _temporary(reply))
        case DeliveryState.GAVE_UP:
            return _Finding(NoticeKind.FAILURE, "failed", "4.4.2", _MAY_HAVE_ARRIVED)
        case DeliveryState.SUPPRESSED:
            return _Finding(NoticeKind.FAILURE, "failed", "5.7.1", _SUPPRESSED)
        case DeliveryState.WAITING:
            said = _temporary(reply)
            if said is None:
                return _Finding(NoticeKind.DELAY, "delayed", "4.4.0", _WAITS)
            return _Finding(NoticeKind.DELAY, "delayed", _status_of(said), _DELAYED, said)
        case DeliveryState.DELIVERED if not standing.dsn_passed_on:
            status = "2.0.0" if reply is None else _status_of(reply)
            return _Finding(NoticeKind.SUCCESS, "relayed", status, _PASSED_ON, reply)
        case _:
            return None


def _bounced(standing: Standing) -> _Finding:
    reply = standing.reply
    if reply is not None and reply.permanent:
        return _Finding(NoticeKind.FAILURE, "failed", _status_of(reply), _REFUSED, reply)
    # Without a host's word: `policy.verdict` puts the status that it would have sent in front.
    judged = _STATUS_IN_FRONT.match(standing.reason)
    if judged and not standing.by:
        return _Finding(NoticeKind.FAILURE, "failed", judged[1], _UNSUITED)
    return _Finding(NoticeKind.FAILURE, "failed", "5.0.0", _RETURNED if standing.by else _REFUSED)


def _temporary(reply: Reply | None) -> Reply | None:
    """The reply, unless it speaks of us: a 5yz that only deferred was about credentials or access."""
    return reply if reply is not None and reply.temporary else None


def _status_of(reply: Reply) -> str:
    """The enhanced code; its class alone where there is none, or one of another class than the reply's."""
    class_ = str(reply.code)[0]
    enhanced = reply.enhanced
    if enhanced is not None and _STATUS.fullmatch(enhanced) and enhanced[0] == class_:
        return enhanced
    return f"{class_}.0.0"


def _told(message_id: MessageId, recipient: Recipient, standing: Standing, found: _Finding) -> Told:
    return Told(
        message_id,
        standing.index,
        found.kind,
        standing.at_ms,
        NotifiedRecipient(
            recipient.address,
            found.action,
            found.status,
            found.explanation,
            recipient.original,
            found.reply,
            _host_of(standing.peer) if found.reply is not None else "",
            standing.at_ms if standing.peer else None,
            standing.retry_until_ms if found.action == "delayed" else None,
        ),
    )


def _host_of(peer: str) -> str:
    """The address literal (RFC 5321 section 4.1.3) of a peer with its port."""
    host = peer.rpartition(":")[0].strip("[]")
    if not host:
        return ""
    return f"[IPv6:{host}]" if ":" in host else f"[{host}]"


# ---------------------------------------------------------------- together


def gathered(pending: Sequence[Told], now_ms: int, gather_s: float) -> tuple[tuple[Told, ...], ...]:
    """What of this is to go now: one group a notice, of one message and one kind, in the order of `index`.

    A group is ripe when its first part has waited `gather_s`; what a clock that jumped put into the future is
    ripe too. What is not returned waits on. Groups hold at most `RECIPIENTS_PER_NOTICE_MAX`.
    """
    groups: dict[tuple[MessageId, NoticeKind], dict[int, Told]] = {}
    for told in pending:
        # One word a recipient: what was said last is what holds.
        groups.setdefault((told.message_id, told.kind), {})[told.index] = told
    ripe: list[tuple[Told, ...]] = []
    for by_index in groups.values():
        waited_ms = [now_ms - told.at_ms for told in by_index.values()]
        if max(waited_ms) < gather_s * 1000 and min(waited_ms) >= 0:
            continue
        group = [by_index[index] for index in sorted(by_index)]
        ripe += [
            tuple(group[at : at + RECIPIENTS_PER_NOTICE_MAX])
            for at in range(0, len(group), RECIPIENTS_PER_NOTICE_MAX)
        ]
    return tuple(ripe)


def notice_id(group: Sequence[Told]) -> MessageId:
    """The id of the notice that tells this: the same for the same group, and its idempotency key."""
    assert len({(told.message_id, told.kind) for told in group}) == 1, (
        "a notice is of one message and one kind"
    )
    digest = hashlib.sha256(group[0].message_id + group[0].kind.encode())
    for told in sorted(group, key=lambda one: one.index):
        digest.update(b"%d %d\n" % (told.index, told.at_ms))
    return new_message_id(max(told.at_ms for told in group), digest.digest())


def notice_for(message: Message, group: Sequence[Told], rules: DsnRules, now_ms: int) -> Notice:
    """The notice that tells this group. `now_ms` is its date: for the same bytes, the same time."""
    envelope, summary = message.envelope, message.summary
    return Notice(
        notice_id(group),
        now_ms,
        envelope.reverse_path,
        rules.sender,
        rules.reporting_mta,
        tuple(told.recipient for told in group),
        message.accepted_ms,
        message.size_bytes,
        summary.subject,
        summary.message_id,
        envelope.envid,
        envelope.ret,
        rules.full_bytes_max,
    )
