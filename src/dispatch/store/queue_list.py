"""Finding parked deliveries for a person: the list of the queue, and orders to many at once."""

from __future__ import annotations

from typing import Any, cast

import apsw
import msgspec

from dispatch.mail.delivery import DeliveryState
from dispatch.mail.message import Message
from dispatch.store.changes import ID_DIGITS, ParkedDelivery, ParkedMessage, QueueFilter
from dispatch.store.numbers import NUMBER_MAX, PROBES, first_number, number_at
from dispatch.store.sqlite import address_pattern, like_literal

_decode_message = msgspec.msgpack.Decoder(Message).decode

# CROSS JOIN keeps deliveries outermost: they lie in the order of the pages.
_MEANT = "FROM delivery CROSS JOIN message ON message.number = delivery.message WHERE"


def find_parked(
    connection: apsw.Connection, wanted: QueueFilter, *, limit: int, after: int
) -> list[ParkedMessage]:
    """See `ParkedStore.find`; `after` is a row number."""
    condition, bindings = _condition(wanted)
    # A page is cut by messages, not by deliveries, so those come first.
    page = connection.execute(
        f"SELECT DISTINCT delivery.message, head {_MEANT} {condition} AND delivery.message > :after "
        "ORDER BY delivery.message LIMIT :limit",
        bindings | {"after": after, "limit": limit},
    ).fetchall()
    found = []
    for number, head in page:
        rows = connection.execute(
            "SELECT position, state, (SELECT relay FROM lane WHERE number = lane), due_ms, attempts, "  # noqa: S608 - no mail data in it
            f"family, since_ms, reason, uncertain {_MEANT} {condition} AND delivery.message = :number",
            bindings | {"number": number},
        )
        deliveries = tuple(parked_delivery(row) for row in rows)
        found.append(ParkedMessage(_decode_message(cast(bytes, head)), deliveries, None))
    return found


def count_parked(connection: apsw.Connection, wanted: QueueFilter) -> int:
    """See `ParkedStore.count`."""
    condition, bindings = _condition(wanted)
    cursor = connection.execute(
        "SELECT count(*) FROM message WHERE EXISTS "  # noqa: S608 - no mail data in it
        f"(SELECT 1 FROM delivery WHERE delivery.message = message.number AND {condition})",
        bindings,
    )
    return cast(int, cursor.get)


def parked_delivery(row: tuple[Any, ...]) -> ParkedDelivery:
    """From the columns position, state, relay, due_ms, attempts, family, since_ms, reason, uncertain."""
    index, state, relay, due_ms, attempts, family, since_ms, reason, uncertain = row
    return ParkedDelivery(
        index, DeliveryState(state), relay, due_ms, attempts, family, since_ms, reason, bool(uncertain)
    )


def _condition(wanted: QueueFilter) -> tuple[str, dict[str, str | int | bytes]]:
    """The filter as SQL, and what to bind: everything that a person or a client wrote is bound."""
    conditions = []
    bindings: dict[str, str | int | bytes] = {}
    names = []
    for place, state in enumerate(sorted(wanted.states)):
        names.append(f":state_{place}")
        bindings[f"state_{place}"] = state.value
    conditions.append(f"delivery.state IN ({', '.join(names)})")
    if digits := wanted.id_digits:
        low, high = bytes.fromhex(digits.ljust(ID_DIGITS, "0")), bytes.fromhex(digits.ljust(ID_DIGITS, "f"))
        conditions.append("delivery.message BETWEEN :low_number AND :high_number")
        conditions.append("message.id BETWEEN :low AND :high")
        bindings |= {"low": low, "high": high}
        bindings |= {
            "low_number": first_number(low),
            "high_number": min(first_number(high) + PROBES, NUMBER_MAX),
        }
    if wanted.accepted_before_ms is not None:
        conditions.append("delivery.message < :before")
        bindings["before"] = number_at(wanted.accepted_before_ms)
    if wanted.sender:
        conditions.append(r"message.sender LIKE :sender ESCAPE '\'")
        bindings["sender"] = address_pattern(wanted.sender)
    if wanted.recipient:
        conditions.append(r"delivery.address LIKE :recipient ESCAPE '\'")
        bindings["recipient"] = address_pattern(wanted.recipient)
    if wanted.reason:
        conditions.append(r"delivery.reason LIKE :reason ESCAPE '\'")
        bindings["reason"] = f"%{like_literal(wanted.reason)}%"
    if wanted.relay is not None:
        conditions.append("delivery.lane IN (SELECT number FROM lane WHERE relay = :relay)")
        bindings["relay"] = wanted.relay
    return " AND ".join(conditions), bindings
