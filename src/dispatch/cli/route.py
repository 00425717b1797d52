"""`dispatch route`: which way a message would take, and which rule says so.

Works on the sources (file, environment, `--set`), and the suppression list as it was published, and needs no
running relay. So it knows what is configured, and nothing of how the relays are; that is `dispatch queue
relays`.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, cast, get_args

import msgspec
import typer

from dispatch.app.folders import Folders
from dispatch.cli.options import (
    DATE_FORMATS,
    ConfigOption,
    DataOption,
    JsonOption,
    SetOption,
    fail,
    load_settings,
    new_group,
    print_json,
    wall_ms,
)
from dispatch.mail.envelope import Envelope, Recipient
from dispatch.mail.message import Message, Origin, Summary
from dispatch.policy.admission import Refusal, refuse_named_relay
from dispatch.policy.conditions import BLANK, Facts, NoField, facts_of, parse_field
from dispatch.policy.logins import pin_of
from dispatch.policy.routing import Action, Considered, Route, Router, Rule
from dispatch.policy.suppression import SUPPRESSED_ROUTE, SuppressionList
from dispatch.settings import Settings, intake_router, router
from dispatch.settings.rule_keys import RuleSource
from dispatch.settings.suppressed import SuppressedDamaged, load_suppressed
from dispatch.smtp.grammar import read_path

NAMING_FIELD = "x-dispatch-relay"

app = new_group("See which relay would take a message, and why.")


class Asked(msgspec.Struct, frozen=True):
    """One simulated message, and the rules as delivery and as intake have them."""

    message: Message
    rules: Router
    refusing: Router
    facts: Facts
    refusal: Refusal | None
    """After the end of data, for the relay that it names."""
    ignored: bool
    """It names a relay, and may not."""
    suppressed: SuppressionList

    def decision(self, recipient: str) -> Route:
        """What intake says first, then what the queue would say."""
        if self.suppressed.holds(recipient):
            return SUPPRESSED_ROUTE
        sender, facts = self.message.envelope.reverse_path, self.facts
        refusal = self.refusing.refusal(sender, recipient, facts.origin, facts.now_ms)
        return refusal or self.rules.route(sender, recipient, facts, self.message.pin)

    def considered(self, recipient: str) -> tuple[Considered, ...]:
        return self.rules.explain(self.message.envelope.reverse_path, recipient, self.facts)

    def transactions(self) -> list[tuple[Route, list[str]]]:
        """Those whose recipients intake takes."""
        if self.refusal is not None:
            return []
        taken = tuple(
            recipient
            for recipient in self.message.envelope.recipients
            if self.decision(recipient.address).action not in (Action.REFUSE, Action.SUPPRESS)
        )
        if not taken:
            return []
        envelope = msgspec.structs.replace(self.message.envelope, recipients=taken)
        message = msgspec.structs.replace(self.message, envelope=envelope)
        groups = self.rules.routes(message, self.facts.now_ms)
        return [(route, [taken[index].address for index in indexes]) for route, indexes in groups]


@app.command()
def simulate(
    sender: Annotated[
        str, typer.Argument(metavar="FROM", help="The envelope's sender; <> is the null sender.")
    ],
    recipients: Annotated[list[str], typer.Argument(metavar="TO...", help="The envelope's recipients.")],
    source: Annotated[str, typer.Option(help="How it comes: smtp, api or internal.")] = "smtp",
    login: Annotated[str | None, typer.Option(help="The SMTP login or API key that submits it.")] = None,
    client: Annotated[str, typer.Option(metavar="ADDRESS", help="The client's IP address.")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="A tag of it. Repeatable.")] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="'NAME: VALUE'", help="A header field of it. Repeatable.")
    ] = None,
    size: Annotated[int, typer.Option(metavar="BYTES", min=0, help="Its size.")] = 0,
    at: Annotated[
        datetime | None, typer.Option(formats=DATE_FORMATS, help="When it is routed (UTC); default now.")
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain every rule for a message from FROM to each TO. Nothing is sent.

    What is not given is not there: no login, no tags, no header fields, a size of 0. The relay pin of the
    login goes before the rules; so does the header field X-Dispatch-Relay, where the login may name a
    relay."""
    envelope = Envelope(
        _address(sender, null=True), tuple(Recipient(_address(recipient)) for recipient in recipients)
    )
    origin = Origin(_source(source), _client(client), login=login)
    summary = Summary(tags=tuple(tag or ()), headers=tuple(_field(field) for field in header or ()))
    settings = load_settings(config, data, set_).settings
    moment = wall_ms(at)
    now_ms = int(time.time() * 1000) if moment is None else moment
    message = Message(BLANK.id, now_ms, envelope, origin, summary, size)
    asked = _asked(settings, message, now_ms, _suppressed(Path(settings.spool.directory)))
    if as_json:
        print_json(_fields(asked))
    else:
        _explain(asked)


def _suppressed(data: Path) -> SuppressionList:
    """The list as the relay works by it."""
    try:
        return load_suppressed(Folders(data).settings)[1]
    except (OSError, SuppressedDamaged) as error:
        typer.echo(f"note: the suppression list cannot be read, and was left out: {error}", err=True)
        return SuppressionList()


def _asked(settings: Settings, message: Message, now_ms: int, suppressed: SuppressionList) -> Asked:
    named = tuple(dict.fromkeys(value for name, value in message.summary.headers if name == NAMING_FIELD))
    relays = {relay.name: relay.enabled for relay in settings.effective_relays()}
    known = {login.name: login for login in settings.logins if login.enabled}
    login = known.get(message.origin.login or "")
    may_name_relay = login is not None and login.may_name_relay
    refusal = refuse_named_relay(named, relays) if may_name_relay else None
    pin = "" if login is None or refusal else pin_of(login.relay, may_name_relay, named)
    message = msgspec.structs.replace(message, pin=pin)
    facts = facts_of(message, now_ms)
    ignored = bool(named) and not may_name_relay
    return Asked(message, router(settings), intake_router(settings), facts, refusal, ignored, suppressed)


def _explain(asked: Asked) -> None:
    if asked.ignored:
        typer.echo("X-Dispatch-Relay is ignored: this login may not name a relay.")
    envelope = asked.message.envelope
    for recipient in envelope.recipients:
        typer.echo(f"from {envelope.reverse_path or '<>'} to {recipient.address}")
        considered = asked.considered(recipient.address)
        for each in considered:
            typer.echo(f"  {_line(each)}")
        route = asked.decision(recipient.address)
        typer.echo(f"  → {_decision(route, _rule(considered, route))}")
    if asked.refusal is not None:
        typer.echo(f"The message is refused after its end of data: {asked.refusal.reply}")
    transactions = asked.transactions()
    if len(transactions) > 1:
        taken = sum(len(to) for _, to in transactions)
        them = "all of them" if len(envelope.recipients) == taken else "those that are taken"
        typer.echo(f"One message to {them} is split into {len(transactions)}.")


def _address(text: str, *, null: bool = False) -> str:
    bare = text.strip()
    path = read_path(bare if bare[:1] == "<" else f"<{bare}>")
    if path is None or path[1] or not (path[0] or null):
        fail(os.EX_USAGE, f"{text!r} is no address; write it like alice@example.org")
    return path[0]


def _source(text: str) -> RuleSource:
    if text not in get_args(RuleSource):
        fail(os.EX_USAGE, f"{text!r} is no source; write smtp, api or internal")
    return cast(RuleSource, text)


def _client(text: str) -> str:
    try:
        return str(ip_address(text)) if text else ""
    except ValueError:
        fail(os.EX_USAGE, f"{text!r} is no IP address; write it like 192.0.2.1 or 2001:db8::1")


def _field(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    try:
        field = parse_field(name) if colon else None
    except NoField:
        field = None
    if field is None:
        fail(os.EX_USAGE, f"{text!r} is no header field; write it like 'X-Name: value'")
    return field.name, value.strip()


def _line(considered: Considered) -> str:
    rule, matched, why = considered
    return f"{'yes' if matched else 'no ':<3}  {rule.name} (priority {rule.priority}): {why}"


def _decision(route: Route, rule: Rule | None) -> str:
    copies = f"; a copy goes to {', '.join(route.copies)}" if route.copies else ""
    match route.action:
        case Action.REFUSE:
            return (
                f"refused at RCPT, by {route.rule}: 550 5.7.1 {route.reply}"
                " (rules about the content are not looked at there)"
            )
        case Action.DISCARD:
            return f"discarded, by {route.rule}{copies}"
        case Action.SUPPRESS:
            return f"never tried: {route.hold_reason}"
        case Action.HOLD:
            return f"held: {route.hold_reason}{copies}"
        case Action.RELAY:
            return _relays(route, rule) + copies


def _relays(route: Route, rule: Rule | None) -> str:
    drawn = {relay: weight for relay, weight in _weights(route, rule).items() if weight}
    if len(drawn) > 1:
        shares = ", ".join(f"{relay} ({weight / sum(drawn.values()):.0%})" for relay, weight in drawn.items())
        return f"relay {shares} by weight, by {route.rule}; behind it the others"
    first, *behind = route.relays
    return f"relay {first}, by {route.rule}" + (f"; behind it {', '.join(behind)}" if behind else "")


def _weights(route: Route, rule: Rule | None) -> dict[str, int]:
    """Of the relays that can be used; empty where the rule has none."""
    if rule is None or not rule.weights:
        return {}
    weights = zip(rule.relays, rule.weights, strict=True)
    return {relay: weight for relay, weight in weights if relay in route.relays}


def _fields(asked: Asked) -> dict[str, object]:
    return {
        "from": asked.message.envelope.reverse_path,
        "pin": asked.message.pin,
        "refused": str(asked.refusal.reply) if asked.refusal else None,
        "recipients": [
            _recipient_fields(asked, recipient.address) for recipient in asked.message.envelope.recipients
        ],
        "transactions": [
            {"relays": route.relays, "held": route.hold_reason, "to": to}
            for route, to in asked.transactions()
        ],
    }


def _recipient_fields(asked: Asked, recipient: str) -> dict[str, object]:
    considered = asked.considered(recipient)
    route = asked.decision(recipient)
    return {
        "to": recipient,
        "rules": [
            {"name": rule.name, "priority": rule.priority, "matched": matched, "why": why}
            for rule, matched, why in considered
        ],
        "route": route,
        "weights": _weights(route, _rule(considered, route)),
    }


def _rule(considered: tuple[Considered, ...], route: Route) -> Rule | None:
    """The one that decided; None for the default relay."""
    return next((each.rule for each in considered if each.rule.name == route.rule), None)
