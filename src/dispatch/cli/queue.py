"""`dispatch queue`: what waits, why, until when; and what an operator does about it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated, NamedTuple

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
from dispatch.cli.queue_drain import accept, drain
from dispatch.cli.queue_filter import (
    ReasonOption,
    RecipientOption,
    RelayOption,
    SenderOption,
    StateOption,
    YesOption,
    at_a_terminal,
    queue_filter,
)
from dispatch.cli.queue_transfer import export, import_
from dispatch.mail.delivery import DeliveryState
from dispatch.mail.ids import InvalidMessageId, MessageId, parse_message_id, spool_form
from dispatch.queue.requests import (
    AskLanes,
    Done,
    Flush,
    Lanes,
    LaneStatus,
    ListQueue,
    Order,
    Pause,
    Pauses,
    QueuedDelivery,
    QueuePage,
    Resume,
    ShowMessage,
    Shown,
    Verb,
)
from dispatch.store.parked import QueueFilter

app = new_group(
    "See what waits and why; retry, hold, release, reroute, bounce or cancel it; pause it; drain."
)

IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Message ids: spl_… or req_…")
]
AllOption = Annotated[bool, typer.Option("--all", help="Everything, where no filter and no id is given.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only count what it would do.")]


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
    wanted = queue_filter(sender, recipient, relay, reason, state)
    page = ask_delivery(data_directory(config, data, set_), ListQueue(wanted, limit), QueuePage)
    if as_json:
        rows = [_plain(row) for row in page.deliveries]
        print_json({"total": page.total, "paused": page.paused, "deliveries": rows})
        return
    if not page.deliveries:
        typer.echo("Nothing waits." if wanted == QueueFilter() else "Nothing that waits matches.")
        return
    if page.paused:
        typer.echo("The queue is paused: nothing of it starts (`dispatch queue resume`).")
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


class _Asked(NamedTuple):
    """How an order is to be given."""

    folder: Path
    as_json: bool
    dry_run: bool
    yes: bool


def _order(order: Order, ids: list[str] | None, everything: bool, asked: _Asked) -> None:
    """Give it for these messages, or for all that its filter means."""
    if ids:
        order = msgspec.structs.replace(order, ids=tuple(map(_id, ids)))
    elif order.wanted == QueueFilter() and not everything:
        fail(os.EX_USAGE, "name messages by id, give a filter, or say --all.")
    if asked.dry_run or (not asked.yes and at_a_terminal()):
        would = ask_delivery(asked.folder, msgspec.structs.replace(order, dry_run=True), Done)
        if asked.dry_run:
            _print_done(f"{order.verb}, if it were done", would, asked.as_json, order.relay)
            return
        if would.messages > 1:
            question = f"{order.verb} {would.changed} deliveries of {would.messages} messages?"
            typer.confirm(question, abort=True, err=True)
    _print_done(order.verb, ask_delivery(asked.folder, order, Done), asked.as_json, order.relay)


def _print_done(what: str, done: Done, as_json: bool, relay: str = "") -> None:
    if as_json:
        print_json(msgspec.structs.asdict(done) | ({"relay": relay} if relay else {}))
        return
    to = f" wait for {relay} now" if relay else ""
    typer.echo(f"{what}: {done.changed} deliveries{to}.")
    if done.under_way:
        typer.echo(f"{done.under_way} are being attempted right now: they finish first.")
    if done.unsuited:
        typer.echo(f"{done.unsuited} are in a state that this does not suit.")
    if done.uncertain:
        typer.echo(
            f"{done.uncertain} may have been delivered already and stay where they are; with --uncertain they"
            " go, too, and may arrive twice."
        )


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
        dry_run: DryRunOption = False,
        yes: YesOption = False,
        as_json: JsonOption = False,
        config: ConfigOption = None,
        data: DataOption = None,
        set_: SetOption = None,
    ) -> None:
        wanted = queue_filter(sender, recipient, relay, reason, state)
        asked = _Asked(data_directory(config, data, set_), as_json, dry_run, yes)
        _order(Order(verb, wanted), ids, everything, asked)


_add_order("retry", "Try now what waits; what failed and is kept begins again (by id, or --state bounced).")
_add_order("hold", "Keep back what waits, until it is released.")
_add_order("release", "Let go what is held or quarantined: it is due now.")
_add_order("cancel", "End what waits without delivering it. Its content goes; history keeps that it was.")


@app.command()
def bounce(
    ids: IdsArgument = None,
    sender: SenderOption = "",
    recipient: RecipientOption = "",
    relay: RelayOption = None,
    reason: ReasonOption = "",
    state: StateOption = "",
    because: Annotated[
        str,
        typer.Option("--because", metavar="TEXT", help="Why; for history and the log, not for the sender."),
    ] = "",
    everything: AllOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Return what waits, or is held, to its sender. Its content is kept as that of other failed mail is."""
    wanted = queue_filter(sender, recipient, relay, reason, state)
    asked = _Asked(data_directory(config, data, set_), as_json, dry_run, yes)
    _order(Order("bounce", wanted, reason=because), ids, everything, asked)


@app.command()
def reroute(
    to: Annotated[str, typer.Option("--to", metavar="RELAY", help="The relay that takes it now.")],
    ids: IdsArgument = None,
    sender: SenderOption = "",
    recipient: RecipientOption = "",
    relay: RelayOption = None,
    reason: ReasonOption = "",
    state: StateOption = "",
    uncertain: Annotated[
        bool,
        typer.Option("--uncertain", help="Also what may have been delivered already: it may arrive twice."),
    ] = False,
    everything: AllOption = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Send what waits to another relay, now, whatever the rules say. What is held only with --state held."""
    wanted = queue_filter(sender, recipient, relay, reason, state)
    asked = _Asked(data_directory(config, data, set_), as_json, dry_run, yes)
    _order(Order("reroute", wanted, relay=to, uncertain=uncertain), ids, everything, asked)


PauseArgument = Annotated[
    str, typer.Argument(metavar="[RELAY]", help="A relay; without one, the whole queue.")
]


@app.command()
def pause(
    relay: PauseArgument = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Start nothing more, at one relay or at all, until it is resumed, restarts or not. Mail is accepted."""
    answer = ask_delivery(data_directory(config, data, set_), Pause(relay), Pauses)
    _print_pauses(answer, as_json)


@app.command()
def resume(
    relay: PauseArgument = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Take a pause back: that of a relay, or that of the whole queue."""
    _print_pauses(ask_delivery(data_directory(config, data, set_), Resume(relay), Pauses), as_json)


def _print_pauses(pauses: Pauses, as_json: bool) -> None:
    if as_json:
        print_json(pauses)
        return
    if pauses.everything:
        typer.echo("The queue is paused: nothing starts.")
    if pauses.relays:
        typer.echo(f"Paused by name: {', '.join(pauses.relays)}.")
    if not pauses.everything and not pauses.relays:
        typer.echo("Nothing is paused.")
    elif pauses.under_way:
        typer.echo(f"{pauses.under_way} transactions are under way, of all relays; they finish.")


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
    """How each relay is doing: its breaker, what is under way, what stands ready and what waits."""
    lanes = ask_delivery(data_directory(config, data, set_), AskLanes(), Lanes)
    if as_json:
        print_json(lanes)
        return
    if lanes.paused:
        typer.echo("The queue is paused: nothing of it starts (`dispatch queue resume`).")
    for lane in lanes.lanes:
        typer.echo(_lane(lane, time.time() * 1000))


def _lane(lane: LaneStatus, now_ms: float) -> str:
    probe = "" if lane.opens_until_s is None else f", probed in {lane.opens_until_s:.0f} s"
    oldest = "" if lane.oldest_ms is None else f", the oldest for {_span((now_ms - lane.oldest_ms) / 1000)}"
    held = f", {lane.held} held" if lane.held else ""
    return (
        f"{lane.relay}: {'paused, ' if lane.paused else ''}breaker {lane.breaker}{probe};"
        f" {lane.in_flight} under way of at most {lane.window}, {lane.ready} ready,"
        f" {lane.waiting} parked{oldest}{held}"
    )


app.command()(drain)
app.command()(accept)
app.command()(export)
app.command("import")(import_)


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
