"""The keys of a routing rule. `dispatch.settings.model` has it as a section; what it means is said in
`dispatch.policy.routing`."""

from __future__ import annotations

import typing
from typing import Annotated, Literal

from dispatch.settings import kinds
from dispatch.settings.keys import Section, live
from dispatch.settings.kinds import NAME, Choice, Flag, ListOf, Number, Text

RuleAction = Literal["relay", "hold", "discard", "refuse"]
RuleSource = Literal["smtp", "api", "internal"]

_SIZE = Number(0, 2 << 30, "bytes", none=True)
_WORD = Text("word", r"[^\x00-\x20\x7f]{1,255}", "without spaces")
_TAG = Text("tag", r"[^\x00-\x1f\x7f]{1,64}", "at most 64 characters")
_REPLY = Text("text", r"[ -~]{1,400}", "one line of at most 400 ASCII characters")


class Rule(Section, frozen=True, kw_only=True):
    """What happens to which mail, each rule in a table `[[rules]]` of its own. It needs a condition; where
    several are given, all must hold. The smaller priority goes first, then the narrower rule (by its
    recipient, then by its sender, then by how many kinds of other conditions it has), then the one that
    stands first; the first that matches decides. A message whose recipients match different rules is split.
    What no rule matches takes the default relay.

    A condition is a list, of which one thing must match. For sender and recipient that is a pattern: an
    address (`alice@example.org`), a domain (`example.org` or `*@example.org`), the domains below one
    (`*.example.org`), or a glob (`news-*@example.org`; `*` is any run of characters, `?` is one). `*` alone
    is everybody, `<>` the null sender. Upper and lower case are the same in domains and not the same before
    the `@`. One text with commas is a list, too. `dispatch route simulate FROM TO` shows what rules do."""

    name: Annotated[
        str,
        live(
            "intake delivery",
            NAME,
            "What it is called in the log and on the command line.",
            required=True,
        ),
    ]
    priority: Annotated[
        int,
        live("intake delivery", Number(0, 1_000_000), "Rules with a smaller number are looked at first."),
    ] = 100
    enabled: Annotated[
        bool, live("intake delivery", Flag(), "A rule that is switched off matches nothing.")
    ] = True
    sender: Annotated[
        tuple[str, ...],
        live(
            "intake delivery",
            kinds.AddressPatterns(),
            "Patterns of the envelope's sender (MAIL FROM), not of the From field.",
            default_words="any sender",
        ),
    ] = ()
    recipient: Annotated[
        tuple[str, ...],
        live(
            "intake delivery",
            kinds.AddressPatterns(),
            "Patterns of the envelope's recipient (RCPT TO), not of the To field.",
            default_words="any recipient",
        ),
    ] = ()
    source: Annotated[
        tuple[RuleSource, ...],
        live(
            "intake delivery",
            ListOf(Choice(typing.get_args(RuleSource)), at_least=1),
            "By which way the mail came: over SMTP, over the HTTP API, or from this relay itself.",
            default_words="any source",
        ),
    ] = ()
    login: Annotated[
        tuple[str, ...],
        live(
            "intake delivery",
            ListOf(_WORD, at_least=1),
            "Who submitted it: names of SMTP logins or of API keys.",
            default_words="anybody, also without a login",
        ),
    ] = ()
    client: Annotated[
        tuple[str, ...],
        live(
            "intake delivery",
            ListOf(kinds.Network(), at_least=1),
            "Networks from which it was submitted.",
            default_words="any client",
        ),
    ] = ()
    tag: Annotated[
        tuple[str, ...],
        live(
            "intake delivery",
            ListOf(_TAG, at_least=1),
            "Tags, by the header field X-Dispatch-Tag or by the API; compared with upper and lower case.",
            default_words="any, also without tags",
        ),
    ] = ()
    header: Annotated[
        tuple[str, ...],
        live(
            "intake delivery",
            ListOf(kinds.HeaderField(), at_least=1),
            """Header fields: "X-Name" must be there, "X-Name: value" must say just that. Case counts in the
            value and not in the name. Mail accepted before a rule asked for a field does not have it.""",
            default_words="any header",
        ),
    ] = ()
    min_bytes: Annotated[
        int | None,
        live(
            "intake delivery",
            _SIZE,
            "The smallest content, as it is kept: with the Received field that this relay adds.",
        ),
    ] = None
    max_bytes: Annotated[
        int | None, live("intake delivery", _SIZE, "The largest content, counted in the same way.")
    ] = None
    time: Annotated[
        tuple[str, ...],
        live(
            "intake delivery",
            ListOf(kinds.TimeWindow(), at_least=1),
            """When the rule is in force. 22:00-06:00 runs over midnight and belongs to the day on which it
            began. It is looked at when a message is routed: as it comes, and again when it is released,
            retried for want of its relay, or taken up after a restart. A message that waits for a relay goes
            on waiting for it when the window ends, and one that is held stays held.""",
            default_words="always",
        ),
    ] = ()
    time_zone: Annotated[
        str, live("intake delivery", kinds.TimeZone(), "The clock by which the time is meant.")
    ] = "UTC"
    action: Annotated[
        RuleAction,
        live(
            "intake delivery",
            Choice(typing.get_args(RuleAction)),
            """What happens to its mail: a relay takes it, it is held for a person, it is discarded with a
            record, or the recipient is refused (at RCPT, so such a rule cannot ask for tag, header or size,
            and rules that do are passed over then). What was accepted before a rule refuses it is held.""",
        ),
    ] = "relay"
    relays: Annotated[
        tuple[str, ...],
        live(
            "intake delivery",
            ListOf(NAME, at_least=1),
            """The relays that may take its mail, by name, in the order in which they are tried. One that is
            switched off is passed over. Where none is left the mail is held.""",
            default_words="none; one must be given where the action is relay",
        ),
    ] = ()
    weights: Annotated[
        tuple[int, ...],
        live(
            "delivery",
            ListOf(Number(0, 1_000_000), at_least=1, distinct=False),
            """A number for each of the relays, in their order: with [3, 1] the first relay is tried first for
            three messages of four, the second one for the fourth. The others follow in their order. A relay
            with 0 is never tried first while one of the others can be.""",
            default_words="none: always in the order of the list",
        ),
    ] = ()
    copy_to: Annotated[
        str,
        live(
            "delivery",
            NAME,
            """A relay that gets a copy of its mail, for the same recipients: an archive. Whatever else the
            rule does with the mail, and wherever it goes, its copy is made once, when the mail is taken up;
            it waits for this relay alone, and no notice is sent of it.""",
            default_words="none",
        ),
    ] = ""
    reply: Annotated[
        str,
        live(
            "intake delivery",
            _REPLY,
            """What a client is told that is refused, after the codes 550 5.7.1; and why mail bounces that was
            accepted before its rule was there.""",
        ),
    ] = "Refused by a rule of this relay"
