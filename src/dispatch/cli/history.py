"""`dispatch history`: what became of each message, newest first; `dispatch history show ID` all of one.

Reads history directly; works whether the relay runs or not. What was accepted a moment ago may not
be there yet: history follows the ledger.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated

import msgspec
import typer

from dispatch.cli.options import (
    DATE_FORMATS,
    ConfigOption,
    DataOption,
    JsonOption,
    SetOption,
    fail,
    print_json,
    shown_time,
    wall_ms,
)
from dispatch.cli.stats import open_history
from dispatch.mail.ids import InvalidMessageId, parse_message_id, spool_form
from dispatch.store.history_reader import Happening, HistoryReader, Listed, RecordedMessage
from dispatch.store.search import FAILED_MESSAGE_STATES, MESSAGE_STATES, HistoryFilter
from dispatch.store.sqlite import StoreFault

app = typer.Typer(
    help="What became of each message.",
    invoke_without_command=True,
    rich_markup_mode=None,
    add_completion=False,
)

UNFINISHED_STATES = frozenset({"waiting", "attempting", "uncertain", "held", "quarantined"})
STATE_GROUPS = {"failed": FAILED_MESSAGE_STATES, "unfinished": UNFINISHED_STATES}

FromOption = Annotated[
    datetime | None, typer.Option("--from", formats=DATE_FORMATS, help="Accepted then or later (UTC).")
]
ToOption = Annotated[
    datetime | None, typer.Option("--to", formats=DATE_FORMATS, help="Accepted before then (UTC).")
]
StateOption = Annotated[
    list[str] | None,
    typer.Option("--state", help="delivered, captured, failed, unfinished, bounced, … Repeatable."),
]
SenderOption = Annotated[str, typer.Option("--sender", help="Sender address or domain.")]
RecipientOption = Annotated[str, typer.Option("--recipient", help="Recipient address or domain.")]
SubjectOption = Annotated[str, typer.Option("--subject", help="Words of the subject.")]
TextOption = Annotated[
    str, typer.Option("--text", help="Words of sender, recipients, subject or Message-ID.")
]
RelayOption = Annotated[str, typer.Option("--relay", help="Last tried at this relay.")]
ClientOption = Annotated[str, typer.Option("--client", help="Submitted by this address, login or key.")]
MessageIdOption = Annotated[str, typer.Option("--message-id", help="The Message-ID header field.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Messages on a page.")]
AfterOption = Annotated[
    int | None, typer.Option("--after", metavar="CURSOR", help="The page behind this one, as told by it.")
]


@app.callback()
def page(
    context: typer.Context,
    from_: FromOption = None,
    to: ToOption = None,
    state: StateOption = None,
    sender: SenderOption = "",
    recipient: RecipientOption = "",
    subject: SubjectOption = "",
    text: TextOption = "",
    relay: RelayOption = "",
    client: ClientOption = "",
    message_id: MessageIdOption = "",
    limit: LimitOption = 50,
    after: AfterOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """What became of each message, newest first; all filters that are given must hold."""
    if context.invoked_subcommand is not None:
        return
    wanted = HistoryFilter(
        since_ms=wall_ms(from_),
        before_ms=wall_ms(to),
        states=_states(state or []),
        sender=sender,
        recipient=recipient,
        subject=subject,
        text=text,
        relay=relay,
        client=client,
        message_id=message_id,
    )
    with _reading(open_history(config, data, set_)) as reader:
        found = reader.find(wanted, limit=limit, after=after)
    following = found[-1].place if len(found) == limit else None
    if as_json:
        # As text: 63 bits are more than some readers of JSON keep of a number.
        cursor = None if following is None else str(following)
        print_json({"messages": [_plain(row) for row in found], "next": cursor})
        return
    if not found:
        typer.echo("No message matches.")
    for row in found:
        more = f" (+{row.recipients - 1})" if row.recipients > 1 else ""
        typer.echo(
            f"{shown_time(row.accepted_ms)}  {spool_form(row.id)}  {row.state:<19}  {row.relay or '–':<12}  "
            f"<{row.sender}> → <{row.recipient}>{more}  {row.subject}"
        )
    if following is not None:
        typer.echo(f"… and perhaps more: --after {following}")


@app.command()
def show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="spl_… or req_…")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """One message: who, when, what became of each recipient, and every attempt with the peer's words."""
    try:
        wanted = parse_message_id(id_)
    except InvalidMessageId as error:
        raise typer.BadParameter(str(error)) from None
    with _reading(open_history(config, data, set_)) as reader:
        message = reader.get(wanted)
    if message is None:
        fail(os.EX_DATAERR, f"history does not know {id_}.")
    if as_json:
        print_json({**msgspec.to_builtins(message), "id": spool_form(message.id)})
        return
    _print_message(message)


def _print_message(message: RecordedMessage) -> None:
    facts = {
        "id": spool_form(message.id),
        "accepted": shown_time(message.accepted_ms),
        "state": message.state,
        "settled": shown_time(message.settled_ms) if message.settled_ms is not None else "–",
        "from": f"<{message.sender}>",
        "subject": message.subject,
        "message-id": message.message_id,
        "header from": message.header_from,
        "size": f"{message.size_bytes} bytes",
        "client": " ".join(part for part in (message.client_address, message.client_name) if part),
        "login": message.login or "–",
        "tls": message.tls or "none",
        "tags": " ".join(message.tags) or "–",
    }
    for name, value in facts.items():
        typer.echo(f"{name:<12} {value}")
    typer.echo("")
    for delivery in message.deliveries:
        typer.echo(
            f"<{delivery.address}>  {delivery.state}  {delivery.relay or '–'}  attempts: {delivery.attempts}"
            + ("  (a copy)" if delivery.copy else "")
        )
    typer.echo("")
    for happening in message.timeline:
        typer.echo(_line(happening, message))


def _line(happening: Happening, message: RecordedMessage) -> str:
    whom = ", ".join(f"<{message.deliveries[index].address}>" for index in happening.indexes)
    at = shown_time(happening.at_ms)
    if happening.by:
        return f"{at}  {happening.move} by {happening.by}: {whom}  {happening.reason}"
    words = happening.reply or happening.reason
    over = f"over {happening.tls}" if happening.tls else ""
    where = " ".join(part for part in (happening.relay, happening.peer, over) if part)
    return f"{at}  {happening.state} at {where} ({happening.took_ms} ms): {whom}  {words}"


@contextmanager
def _reading(reader: HistoryReader) -> Iterator[HistoryReader]:
    """Closes the reader; a fault is told and ends the program with 74 (EX_IOERR)."""
    try:
        yield reader
    except StoreFault as fault:
        fail(os.EX_IOERR, str(fault))
    finally:
        reader.close()


def _states(given: list[str]) -> frozenset[str]:
    states: set[str] = set()
    for text in given:
        name = text.replace("-", " ").replace("_", " ").lower()
        if name not in MESSAGE_STATES and name not in STATE_GROUPS:
            known = ", ".join(sorted({*MESSAGE_STATES, *STATE_GROUPS}))
            raise typer.BadParameter(f"{text!r} is none of {known}")
        states |= STATE_GROUPS.get(name, frozenset({name}))
    return frozenset(states)


def _plain(row: Listed) -> dict[str, object]:
    return {**msgspec.structs.asdict(row), "id": spool_form(row.id), "place": str(row.place)}
