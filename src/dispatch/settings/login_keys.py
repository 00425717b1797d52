"""The keys of a login: who may submit mail with a user name and a password, and what."""

from __future__ import annotations

from typing import Annotated, Literal

from dispatch.settings import kinds
from dispatch.settings.keys import Section, live
from dispatch.settings.kinds import NAME, Choice, Flag, ListOf, Text

_FLAG = Flag()
_USER = Text(
    "user name",
    r"(?=.{1,128}$)[a-z0-9_+-]+([.@][a-z0-9_+-]+)*",
    "small letters, digits, and . _ + - @ between them, like scanner or app@example.org",
)


class Login(Section, frozen=True, kw_only=True):
    """Who may submit mail with a user name and a password (SMTP AUTH), each in a table `[[logins]]` of its
    own. Clients are offered AUTH where there is any. Upper and lower case of a user name are the same to a
    client that logs in; here it is written small. `dispatch login hash` makes a password's hash."""

    name: Annotated[str, live("intake", _USER, "The user name.", required=True)]
    password: Annotated[
        str,
        live(
            "intake",
            kinds.PasswordHash(),
            "The hash of its password. Hashes of other products ($2a$, $2b$, $2y$) are taken as they are.",
            secret=True,
            required=True,
        ),
    ] = ""
    enabled: Annotated[
        bool, live("intake", _FLAG, "One that is switched off is answered like a wrong password.")
    ] = True
    allowed_cidrs: Annotated[
        tuple[str, ...],
        live(
            "intake",
            ListOf(kinds.Network()),
            """Networks from which it may be used; from these it may submit mail even where
            listener.allowed_cidrs does not name them. From anywhere: ["0.0.0.0/0", "::/0"].""",
            default_words="those of listener.allowed_cidrs",
        ),
    ] = ()
    allowed_senders: Annotated[
        tuple[str, ...],
        live(
            "intake",
            kinds.AddressPatterns(),
            "Patterns of senders (MAIL FROM) that it may use. The null sender <> is always permitted.",
            default_words="any sender",
        ),
    ] = ()
    allowed_recipients: Annotated[
        tuple[str, ...],
        live(
            "intake",
            kinds.AddressPatterns(),
            "Patterns of recipients that it may send to.",
            default_words="any recipient",
        ),
    ] = ()
    rate: Annotated[
        str,
        live(
            "intake",
            kinds.RateList(),
            "How many messages it may submit.",
            inherits="listener.rate_per_login",
        ),
    ] = "none"
    tags: Annotated[
        tuple[str, ...],
        live("intake", ListOf(NAME), "Tags that all of its mail gets.", default_words="none"),
    ] = ()
    priority: Annotated[
        Literal["high", "normal", "bulk"],
        live(
            "intake",
            Choice(("high", "normal", "bulk")),
            "The priority of its mail, where a message does not say another (X-Dispatch-Priority).",
        ),
    ] = "normal"
    relay: Annotated[
        str,
        live(
            "intake",
            NAME,
            """The relay that all of its mail takes, and no other: it goes before the rules. While that relay
            is switched off, its mail is held. A message keeps the relay that it was accepted for.""",
            default_words="as the rules say",
        ),
    ] = ""
    may_name_relay: Annotated[
        bool,
        live(
            "intake",
            _FLAG,
            """A message of it may name the relay that it takes, in the header field X-Dispatch-Relay, which
            goes before the login's own relay. From everybody else the field is ignored.""",
        ),
    ] = False
