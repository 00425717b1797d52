"""How a session is opened: greeting, EHLO or HELO, STARTTLS (RFC 3207), AUTH (RFC 4954).

Duty: from what the host said, the one next thing to do. `ClientCore` does it, and keeps queue and phase.

Rules:

- What is said in clear text binds nobody: the extensions in force are those of the last EHLO, and behind a
  TLS handshake all that came before is forgotten (RFC 3207 section 4.2).
- Nothing falls back behind the operator's word. An absent offer is what somebody in between would make of a
  present one, so where TLS is wanted its absence ends the session (RFC 3207 section 6).
- Credentials stay here until the connection is encrypted, or the operator lets them go in clear text.

Deliberately not here: the handshake, which is the driver's; whose certificate is trusted; and whether the
host is tried again without TLS.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from dispatch.mail.reply import Reply
from dispatch.mail.report import Fault, FaultKind, Stage
from dispatch.smtp.client_auth import Authentication, Credentials, Unanswerable
from dispatch.smtp.client_commands import command, helo_argument
from dispatch.smtp.client_extensions import NO_EXTENSIONS, parse_extensions
from dispatch.smtp.client_states import PHASE_STAGE, Awaited, Phase, Step
from dispatch.smtp.replies import ReplyViolation, ViolationReason

Security = Literal["none", "auto", "starttls", "starttls_required"]
"""What a connection without TLS becomes.

- *none*: it stays as it is.
- *auto*: encrypted if the host offers it and agrees.
- *starttls*: encrypted if the host offers it; a refusal, and no offer from a host that made one before (a
  downgrade), ends the session.
- *starttls_required*: encrypted, or the session ends.
"""


class Say(NamedTuple):
    """Write the line; its answer comes in this phase."""

    phase: Phase
    line: bytes
    awaited: Awaited

    def __repr__(self) -> str:
        return f"Say({self.phase}, {self.awaited.name})"  # the line may hold a secret


class Handshake(NamedTuple):
    """The host is ready for TLS."""


class Opened(NamedTuple):
    """Exchanges may begin."""


class GaveUp(NamedTuple):
    """The session ends here, with the host's refusal or a fault."""

    stage: Stage
    reply: Reply | None
    fault: Fault | None = None


Move = Say | Handshake | Opened | GaveUp


class Opening:
    """The beginning of one session."""

    def __init__(
        self, helo_name: str, security: Security, credentials: Credentials | None, *, had_tls: bool
    ) -> None:
        """Raises `UnwritableCommand` for a `helo_name` that is not one word of ASCII."""
        self.extensions = NO_EXTENSIONS
        """Of the EHLO in force."""
        self._helo_name = helo_argument(helo_name)
        self._security = security
        self._credentials = credentials
        self._had_tls = had_tls
        self._authentication: Authentication | None = None

    def hello(self) -> Say:
        """EHLO, at first and behind the handshake."""
        self.extensions = NO_EXTENSIONS
        return Say(Phase.EHLO, command("EHLO", self._helo_name), Awaited.EHLO)

    def answered(self, phase: Phase, reply: Reply, step: Step, *, encrypted: bool) -> Move:
        """What follows from the answer that this phase waited for. Raises `ReplyViolation`."""
        match phase:
            case Phase.STARTTLS:
                return self._on_starttls(reply, step)
            case Phase.AUTH:
                return self._on_auth(reply, step)
        if step is Step.REFUSED:
            return GaveUp(PHASE_STAGE[phase], reply)
        if phase is Phase.GREETING:
            return self.hello()
        if step is Step.FALL_BACK:
            return Say(Phase.HELO, command("HELO", self._helo_name), Awaited.HELO)
        if phase is Phase.EHLO:
            self.extensions = parse_extensions(reply)
        return self._secure(encrypted)

    def redacted(self, reply: Reply) -> Reply:
        """What the host says while it is told secrets, without them."""
        return reply if self._authentication is None else self._authentication.redacted(reply)

    def _on_starttls(self, reply: Reply, step: Step) -> Move:
        if step is Step.GO:
            if reply.code != 220:  # RFC 3207 section 4
                raise ReplyViolation(ViolationReason.OUT_OF_PLACE, f"{reply} to STARTTLS")
            return Handshake()
        if self._security == "auto":
            return self._authenticate(encrypted=False)
        return _no_tls(f"STARTTLS refused: {reply}")

    def _on_auth(self, reply: Reply, step: Step) -> Move:
        authentication = self._authentication
        assert authentication is not None
        if step is Step.GO:
            return Opened()
        if step is Step.REFUSED:
            return GaveUp(Stage.AUTH, authentication.refused(reply))
        if reply.code != 334:  # RFC 4954 section 4
            raise ReplyViolation(ViolationReason.OUT_OF_PLACE, f"{reply} to AUTH")
        try:
            return Say(Phase.AUTH, authentication.answer(reply), Awaited.AUTH)
        except Unanswerable as reason:
            return GaveUp(Stage.AUTH, None, Fault(FaultKind.PROTOCOL, str(reason)))

    def _secure(self, encrypted: bool) -> Move:
        security = self._security
        if encrypted or security == "none":
            return self._authenticate(encrypted)
        if self.extensions.starttls:
            return Say(Phase.STARTTLS, command("STARTTLS"), Awaited.STARTTLS)
        if security == "starttls_required":
            return _no_tls("the host does not offer STARTTLS")
        if security == "starttls" and self._had_tls:
            return _no_tls(
                "the host does not offer STARTTLS, as it did before: somebody may stand in between"
            )
        return self._authenticate(encrypted)

    def _authenticate(self, encrypted: bool) -> Move:
        credentials = self._credentials
        if credentials is None:
            return Opened()
        if not encrypted and not credentials.in_clear:
            fault = Fault(
                FaultKind.TLS, "the connection is in clear text, and the credentials may not go over it"
            )
            return GaveUp(Stage.AUTH, None, fault)
        offered = self.extensions.auth
        mechanism = credentials.choose(offered)
        if mechanism is None:
            allowed = ", ".join(credentials.mechanisms)
            what = f"offers AUTH {' '.join(offered)}" if offered else "offers no AUTH"
            return GaveUp(
                Stage.AUTH, None, Fault(FaultKind.AUTHENTICATION, f"the host {what}; allowed: {allowed}")
            )
        self._authentication = Authentication(credentials, mechanism)
        return Say(Phase.AUTH, self._authentication.first_line(), Awaited.AUTH)


def _no_tls(why: str) -> GaveUp:
    return GaveUp(Stage.STARTTLS, None, Fault(FaultKind.TLS, why))
