"""The keys of a relay that say what it does to a message, and when it sends: rewriting, signing, pace.

They belong to the table `[[relays]]` like all others of `relay_keys`; what must go together stands in
`relay_checks`.
"""

from __future__ import annotations

import typing
from typing import Annotated, Literal

import msgspec

from dispatch.mime.dkim import DOMAIN, SELECTOR, Canonicalization
from dispatch.mime.rewrite import SenderRewrite
from dispatch.settings.keys import Section, live
from dispatch.settings.kinds import Choice, Flag, Misfit, Number, RateList, Text, Unfit, shown

DKIM_KEYS = (("dkim_key", "dkim_selector"), ("dkim_second_key", "dkim_second_selector"))
"""Of a relay: the keys that hold a private key, each with the one that says where its public key is."""

_FLAG = Flag()
_SELECTOR = Text("selector", SELECTOR, "letters, digits, hyphens, and dots between")


class SenderAddress(msgspec.Struct, frozen=True):
    """What a sender may be replaced by (`dispatch.mime.rewrite`)."""

    type_name: str = "address"
    limits: str = "in ASCII, like name@example.org"

    def read(self, given: object, *, text: bool) -> str:
        try:
            if isinstance(given, str):
                return SenderRewrite(given.strip()).envelope_from or ""
        except ValueError:
            pass
        remedy = f"write the bare address {self.limits}"
        raise Unfit(Misfit("", f"{shown(given)} is no address", remedy))


class PrivateKey(msgspec.Struct, frozen=True):
    """A private key that signs with DKIM; held as PEM. In text, a line break may be written as \\n."""

    kind: Literal["", "ed25519"] = ""
    type_name: str = "private key"

    @property
    def limits(self) -> str:
        which = "Ed25519" if self.kind else "RSA or Ed25519"
        return f"{which}, in PEM without a password"

    def read(self, given: object, *, text: bool) -> str:
        # Who signs nothing need not load all that signing takes.
        from dispatch.security.dkim_keys import UnusableKey, load

        why = "this is no private key in PEM format"
        if isinstance(given, str):
            pem = given.replace("\\n", "\n") if text else given
            try:
                kind = load(pem).kind
            except UnusableKey as refusal:
                why = str(refusal)
            else:
                if self.kind in ("", kind):
                    return pem.strip() + "\n"
                why = f"this is a key of {kind.upper()}"
        raise Unfit(Misfit("", why, f"write a {self.type_name} ({self.limits}): {why}"))


class Sending(Section, frozen=True, kw_only=True):
    """Part of a relay."""

    def private_keys(self) -> list[tuple[str, str]]:
        """Selector and PEM of each key that signs with DKIM, in the order of the signatures."""
        return [(getattr(self, selector), pem) for key, selector in DKIM_KEYS if (pem := getattr(self, key))]

    envelope_from: Annotated[
        str,
        live(
            "delivery",
            SenderAddress(),
            """The envelope sender that the relay is told in place of the message's own. A null one stays
            null. History shows the message's own; bounces that the relay makes go to this one.""",
            default_words="the message's own",
        ),
    ] = ""
    header_from: Annotated[
        str,
        live(
            "delivery",
            SenderAddress(),
            """The address that From gets in place of the message's own. What the client signed over From is
            broken by it.""",
            default_words="the message's own",
        ),
    ] = ""
    reply_to: Annotated[
        str,
        live(
            "delivery",
            SenderAddress(),
            "The address that Reply-To gets; where there is none, the field is added.",
            default_words="the message's own",
        ),
    ] = ""
    keep_display_name: Annotated[
        bool,
        live("delivery", _FLAG, "With header_from: the name beside the address of the old From stays."),
    ] = True
    keep_from_as_reply_to: Annotated[
        bool,
        live(
            "delivery",
            _FLAG,
            "With header_from: the old From becomes Reply-To, where the message has none of its own.",
        ),
    ] = False
    dkim_domain: Annotated[
        str,
        live(
            "delivery",
            Text("domain", DOMAIN, "in ASCII, like example.org"),
            """In whose name messages are signed with DKIM (RFC 6376), as they leave: d=. A client's own
            signatures stay.""",
            default_words="none: not signed",
        ),
    ] = ""
    dkim_selector: Annotated[
        str,
        live(
            "delivery",
            _SELECTOR,
            "The public key of dkim_key is at <selector>._domainkey.<dkim_domain>: s=.",
            default_words="none",
        ),
    ] = ""
    dkim_key: Annotated[
        str,
        live(
            "delivery",
            PrivateKey(),
            "The private key that signs, in PEM without a password; of RSA with 2048 bits, or of Ed25519.",
            secret=True,
            default_words="none",
        ),
    ] = ""
    dkim_second_selector: Annotated[
        str,
        live(
            "delivery",
            _SELECTOR,
            "As dkim_selector, of dkim_second_key.",
            default_words="none",
        ),
    ] = ""
    dkim_second_key: Annotated[
        str,
        live(
            "delivery",
            PrivateKey("ed25519"),
            """A second key, of Ed25519 (RFC 8463): each message then has two signatures. Not every receiver
            knows the newer one yet.""",
            secret=True,
            default_words="none",
        ),
    ] = ""
    dkim_canonicalization: Annotated[
        Canonicalization,
        live(
            "delivery",
            Choice(typing.get_args(Canonicalization)),
            """What may happen to header and body on the way before a signature breaks: relaxed forgives
            changed white space, simple nothing.""",
        ),
    ] = "relaxed/relaxed"
    rate: Annotated[
        str,
        live(
            "delivery",
            RateList(),
            """How many messages it is given in a time. What is over waits, which counts as no attempt and
            goes to no other relay. A restart begins with a full burst.""",
        ),
    ] = "none"
    flush_interval_seconds: Annotated[
        float,
        live(
            "delivery",
            Number(0, 86_400, "seconds", whole=False, zero="at once"),
            """Mail is collected, and delivered once in so many seconds, in one session over one connection.
            The first time is at the start; `dispatch queue flush` is another one.""",
        ),
    ] = 0.0
