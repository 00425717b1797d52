"""`dispatch queue`: what waits, why, until when; and what an operator does about it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from dispatch.app.folders import CONTENT
from dispatch.cli.delivery_bus import ask_delivery
from dispatch.cli.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    SetOption,
    data_directory,
    fail,
    new_group,
    print_json,
    shown_time,
)
from dispatch.mail.delivery import DeliveryState
from dispatch.mail.ids import InvalidMessageId, MessageId, parse_message_id, spool_form
from dispatch.queue.requests import (
    AskLanes,
    Done,
    Flush,
    Lanes,
    ListQueue,
    Order,
    QueuedDelivery,
    QueuePage,
    ShowMessage,
    Shown,
    Verb,
)
from dispatch.store.parked import PARKED_STATES, QueueFilter

app = new_group("See what waits and why; retry, hold, release or cancel it.")

IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Message ids: spl_… or req_…")
]
AllOption = Annotated[bool, typer.Option("--all", help="Everything, where no filter and no id is given.")]
SenderOption = Annotated[str, typer.Option("--sender", help="Sender address or domain.")]
RecipientOption = Annotated[str, typer.Option("--recipient", help="Recipient address or domain.")]
RelayOption = Annotated[str | None, typer.Option("--relay", help="Deliveries that wait for this relay.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Part of the reason why it waits.")]
StateOption = Annotated[str, typer.Option("--state", help="waiting, held, quarantined, bounced, expired, …")]


def _filter(sender: str, recipient: str, relay: str | None, reason: str, state: str) -> QueueFilter:
    try:
        wanted_state = DeliveryState(state) if state else None
    except ValueError:
        raise typer.BadParameter(f"{state!r} is none of {', '.join(sorted(PARKED_STATES))}") from None
    return QueueFilter(sender=sender, recipient=recipient, relay=relay, reason=reason, state=wanted_state)


@app.command("list")
def list_(
    sender: SenderOption = "",
    recipient: RecipientOption = "",
    relay: RelayOption = None,
    reason: ReasonOption = "",
    state: StateOption = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="Messages to show.")] = 100,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """What waits: each recipient with its state, when it is due, how often it was tried, and why it waits."""
    wanted = _filter(sender, recipient, relay, reason, state)
    page = ask_delivery(data_directory(config, data, set_), ListQueue(wanted, limit), QueuePage)
    if as_json:
        print_json({"total": page.total, "deliveries": [_plain(row) for row in page.deliveries]})
        return
    if not page.deliveries:
        typer.echo("Nothing waits." if wanted == QueueFilter() else "Nothing that waits matches.")
        return
    _table(page.deliveries)
    if page.next is not None:
        typer.echo(f"… and more: {page.total} messages match; --limit shows more of them.")


@app.command()
def show(
    id_: Annotated[str, typer.Argument(metavar="ID")],
    eml: Annotated[
        bool, typer.Option("--eml", help="Print the content, byte for byte, and nothing else.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """One message that is here: its envelope, its deliveries; with --eml its content."""
    folder = data_directory(config, data, set_)
    message_id = _id(id_)
    shown = ask_delivery(folder, ShowMessage(message_id, content=eml), Shown)
    if shown.message is None:
        fail(os.EX_DATAERR, f"{id_} is not in the queue; `dispatch history` knows what became of it.")
    if eml:
        content = shown.content
        if shown.content_file is not None:
            try:
                content = (folder / CONTENT / shown.content_file).read_bytes()
            except OSError as error:
                fail(os.EX_IOERR, f"the content of {id_} cannot be read: {error}")
        sys.stdout.buffer.write(content or b"")
        return
    if as_json:
        print_json({"message": _message(shown), "deliveries": [_plain(row) for row in shown.deliveries]})
        return
    for key, value in _message(shown).items():
        typer.echo(f"{key:<14} {value}")
    typer.echo("")
    _table(shown.deliveries)


def _order(
    verb: Verb,
    ids: list[str] | None,
    wanted: QueueFilter,
    everything: bool,
    folder: Path,
    as_json: bool,
) -> None:
    if ids:
        done = Done(0, 0, 0)
        for text in ids:
            one = QueueFilter(id_prefix=_id(text).hex())
            answer = ask_delivery(folder, Order(verb, one), Done)
            done = Done(
                done.changed + answer.changed,
                done.under_way + answer.under_way,
                done.unsuited + answer.unsuited,
            )
    elif wanted == QueueFilter() and not everything:
        fail(os.EX_USAGE, "name messages by id, give a filter, or say --all.")
    else:
        done = ask_delivery(folder, Order(verb, wanted), Done)
    _print_done(verb, done, as_json)


def _print_done(verb: str, done: Done, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.structs.asdict(done))
        return
    typer.echo(f"{verb}: {done.changed} deliveries.")
    if done.under_way:
        typer.echo(f"{done.under_way} are being attempted right now: they finish first.")
    if done.unsuited:
        typer.echo(f"{done.unsuited} are in a state that this does not suit.")


def _add_order(verb: Verb, help_: str) -> None:
    """`dispatch queue VERB`: by ids, by a filter, or for all."""

    @app.command(verb, help=help_)
    def order(
        ids: IdsArgument = None,
        sender: SenderOption = "",
        recipient: RecipientOption = "",
        relay: RelayOption = None,
        reason: ReasonOption = "",
        state: StateOption = "",
        everything: AllOption = False,
        as_json: JsonOption = False,
        config: ConfigOption = None,
        data: DataOption = None,
        set_: SetOption = None,
    ) -> None:
        wanted = _filter(sender, recipient, relay, reason, state)
        _order(verb, ids, wanted, everything, data_directory(config, data, set_), as_json)


_add_order("retry", "Try now what waits; what failed and is kept begins again (by id, or --state bounced).")
_add_order("hold", "Keep back what waits, until it is released.")
_add_order("release", "Let go what is held or quarantined: it is due now.")
_add_order("cancel", "End what waits without delivering it. Its content goes; history keeps that it was.")


@app.command()
def flush(
    as_json: JsonOption = False, config: ConfigOption = None, data: DataOption = None, set_: SetOption = None
) -> None:
    """Everything that waits is due now, and relays that were given a rest are tried again."""
    _print_done("flush", ask_delivery(data_directory(config, data, set_), Flush(), Done), as_json)


@app.command()
def relays(
    as_json: JsonOption = False, config: ConfigOption = None, data: DataOption = None, set_: SetOption = None
) -> None:
    """How each relay is doing: its breaker, what is under way, what stands ready."""
    lanes = ask_delivery(data_directory(config, data, set_), AskLanes(), Lanes)
    if as_json:
        print_json(lanes)
        return
    for lane in lanes.lanes:
        probe = "" if lane.opens_until_s is None else f", probed in {lane.opens_until_s:.0f} s"
        typer.echo(
            f"{lane.relay}: breaker {lane.breaker}{probe};"
            f" {lane.in_flight} under way of at most {lane.window}, {lane.ready} ready"
        )


def _id(text: str) -> MessageId:
    try:
        return parse_message_id(text)
    except InvalidMessageId as error:
        raise typer.BadParameter(str(error)) from None


def _plain(row: QueuedDelivery) -> dict[str, object]:
    plain = msgspec.structs.asdict(row)
    plain["id"] = spool_form(row.id)
    return plain


def _message(shown: Shown) -> dict[str, object]:
    message = shown.message
    assert message is not None
    return {
        "id": spool_form(message.id),
        "accepted": f"{shown_time(message.accepted_ms)} UTC",
        "from": message.envelope.reverse_path or "<>",
        "subject": message.summary.subject,
        "size_bytes": message.size_bytes,
        "client": message.origin.client_address,
        "priority": message.priority,
    }


def _table(rows: tuple[QueuedDelivery, ...]) -> None:
    now_ms = time.time() * 1000
    for row in rows:
        typer.echo(
            f"{spool_form(row.id)}  {row.state:<11} {row.relay or '-':<12} {_due(row, now_ms):<16} "
            f"tried {row.attempts}x  <{row.reverse_path}> to <{row.recipient}>"
        )
        if row.reason:
            typer.echo(f"    {row.reason}")


def _due(row: QueuedDelivery, now_ms: float) -> str:
    if row.state != DeliveryState.WAITING:
        return ""
    wait_s = (row.due_ms - now_ms) / 1000
    return "due now" if wait_s <= 0 else f"due in {_span(wait_s)}"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
