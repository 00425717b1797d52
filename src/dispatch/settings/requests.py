"""What may be asked of control about the settings and the suppression list, and what it answers: the words of
control's socket.

Spoken by the command line, and by delivery of what only control may write. Carried out by
`dispatch.app.configuring`, in control or, where no relay runs, in the command itself. What a person got wrong
is an answer, `Refused`, with every mistake; nothing was changed.

Secrets go one way: they are taken, and never given out.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from dispatch.mail.report import CheckStep
from dispatch.settings.keys import Role
from dispatch.settings.renewed_tokens import RenewedToken

Value = str | int | float | bool | list[str | int | float]
"""As in the file; what is text may stand for any type, as on a command line."""


class PutEntry(msgspec.Struct, frozen=True, tag="put"):
    """Make a relay, rule or login, or change one that was made here. Answered with `Changed`."""

    section: str
    name: str
    keys: dict[str, Value | None]
    """None takes a key away: it has its default again."""
    wanted: Literal["new", "existing"]

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Without what it says: secrets may be among it."""
        return [("section", self.section), ("name", self.name), ("wanted", self.wanted)]

    def __repr__(self) -> str:
        return f"PutEntry({self.section!r}, {self.name!r}, wanted={self.wanted!r})"


class RemoveEntry(msgspec.Struct, frozen=True, tag="remove"):
    """Answered with `Changed`."""

    section: str
    name: str


class ListEntries(msgspec.Struct, frozen=True, tag="list"):
    """All of a section, whatever source they are from. Answered with `Entries`."""

    section: str


class Publish(msgspec.Struct, frozen=True, tag="publish"):
    """Read all sources again. Answered with `Changed`."""


class TestRelay(msgspec.Struct, frozen=True, tag="test-relay"):
    """Try a relay out, as it is configured or as it would be with these keys; nothing is stored. Answered
    with a `CheckStep` for each thing that was tried, as it comes, or with `Refused`."""

    __test__ = False  # its name is no test's

    name: str
    """One that does not exist is tried with nothing but these keys."""
    keys: dict[str, str] = {}
    """As `KEY=VALUE` on a command line."""
    sender: str = ""
    recipient: str = ""
    """Where it is given, a message is sent there; where not, a session is opened, and that is all."""

    def __repr__(self) -> str:
        return f"TestRelay({self.name!r})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Without the keys: secrets may be among them."""
        return [("name", self.name)]


class ShowCertificate(msgspec.Struct, frozen=True, tag="certificate"):
    """Answered with `CertificateShown`."""


class GenerateCertificate(msgspec.Struct, frozen=True, tag="generate-certificate"):
    """A self-signed one, for all names and addresses of the machine and these. Answered with `Changed`."""

    names: tuple[str, ...] = ()


class UploadCertificate(msgspec.Struct, frozen=True, tag="upload-certificate"):
    """Answered with `Changed`."""

    chain_pem: bytes
    key_pem: bytes

    def __repr__(self) -> str:
        return "UploadCertificate(...)"


class RemoveCertificate(msgspec.Struct, frozen=True, tag="remove-certificate"):
    """None in its place: TLS is not offered. Answered with `Changed`."""


class ShowDkim(msgspec.Struct, frozen=True, tag="dkim"):
    """What makes the keys of all relays known that sign. Answered with `DkimShown`."""


class KeepToken(msgspec.Struct, frozen=True, tag="keep-token"):
    """Delivery's: a server has replaced the refresh token of a relay. Answered with `TokenKept`."""

    relay: str
    renewed: RenewedToken


class AddSuppressions(msgspec.Struct, frozen=True, tag="suppress"):
    """Put addresses on the suppression list. Answered with `Changed`."""

    addresses: tuple[str, ...]
    reason: str = ""


class RemoveSuppressions(msgspec.Struct, frozen=True, tag="unsuppress"):
    """Answered with `Changed`."""

    addresses: tuple[str, ...]


class ListSuppressions(msgspec.Struct, frozen=True, tag="suppressions"):
    """In the order of the addresses. Answered with `Suppressions`."""

    part: str = ""
    """Of the address."""
    after: str = ""
    """The address behind which to go on."""


class Changed(msgspec.Struct, frozen=True, tag="changed"):
    number: int
    """Of the publication with the change."""
    remarks: tuple[str, ...] = ()
    """What should be known about it."""
    unconfirmed: tuple[Role, ...] = ()
    """Processes that did not say in time that they work by it. None of them runs where the command did it."""
    count: int = 1
    """How many of the things that were named are another way now."""


class Entry(msgspec.Struct, frozen=True):
    name: str
    origin: str
    """Where it was made: `settings.db`, or file and line."""
    keys: dict[str, object]
    """Those that were given; secrets are masked."""


class Entries(msgspec.Struct, frozen=True, tag="entries"):
    entries: tuple[Entry, ...]


class CertificateFacts(msgspec.Struct, frozen=True):
    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    days_left: int
    fingerprint: str
    """SHA-256, 64 hexadecimal digits."""
    key_type: str
    self_signed: bool
    made_here: bool
    """By the relay, which renews it."""


class CertificateShown(msgspec.Struct, frozen=True, tag="certificate"):
    certificate: CertificateFacts | None


class DkimRecord(msgspec.Struct, frozen=True):
    """A TXT record that receivers look for (RFC 6376 section 3.6.2). Nothing in it is secret."""

    relay: str
    name: str
    """`<selector>._domainkey.<domain>`."""
    text: str
    remark: str | None = None
    """What ought to be known about the key."""


class DkimShown(msgspec.Struct, frozen=True, tag="dkim"):
    records: tuple[DkimRecord, ...]


class TokenKept(msgspec.Struct, frozen=True, tag="token-kept"):
    """It is on stable storage, and the next start of delivery uses it."""


class Suppressed(msgspec.Struct, frozen=True):
    address: str
    """As it was given."""
    reason: str
    origin: str
    """Who put it on the list."""
    since_ms: int
    """Wall clock, milliseconds since 1970."""


class Suppressions(msgspec.Struct, frozen=True, tag="suppressions"):
    suppressions: tuple[Suppressed, ...]
    more: bool
    """There are further ones behind the last."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """What was asked cannot be; nothing was changed."""

    mistakes: tuple[str, ...]


Request = (
    PutEntry
    | RemoveEntry
    | ListEntries
    | Publish
    | TestRelay
    | ShowCertificate
    | GenerateCertificate
    | UploadCertificate
    | RemoveCertificate
    | ShowDkim
    | KeepToken
    | AddSuppressions
    | RemoveSuppressions
    | ListSuppressions
)
Answer = Changed | Entries | CheckStep | CertificateShown | DkimShown | TokenKept | Suppressions | Refused
