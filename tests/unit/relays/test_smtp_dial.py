"""Which hosts and addresses a session is sought at, and what ends the search."""

from __future__ import annotations

from tests.unit.relays.memory_upstream import GROUP, MemoryNames, Site
from tests.unit.relays.test_smtp_relay import on_a_loop
from tests.unit.smtp.client_talk import CONTENT

from dispatch.mail.report import FaultKind, Stage
from dispatch.ports import NameFault
from dispatch.relays.addresses import AVOID_S
from dispatch.relays.race import HEAD_START_S
from dispatch.relays.smtp_dial import CLEAR_S
from dispatch.smtp.client_auth import Credentials

ENVELOPE = GROUP % len(CONTENT)
A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"
REFUSED = ConnectionRefusedError(111, "refused")


def site(*hosts: str, **settings: object) -> Site:
    made = Site(hosts=hosts, names=MemoryNames(), **settings)
    assert made.names is not None
    made.names.hosts = {"up.example": (A, B), "a.example": (A,), "b.example": (B,)}
    return made


def fault_of(made: Site, key: str) -> tuple[Stage, FaultKind | None]:
    report = made.reports[key]
    return report.stage, None if report.fault is None else report.fault.kind


@on_a_loop
async def test_the_next_host_is_tried_when_the_first_cannot_be_connected_to() -> None:
    at = site("a.example", "b.example")
    at.network.down[A] = REFUSED
    at.start("one")
    (await at.connection()).take()
    assert at.codes("one") == [250]
    assert at.network.dialled == [A, B]


@on_a_loop
async def test_a_host_that_failed_comes_last_for_a_while() -> None:
    at = site("a.example", "b.example", messages_per_connection_max=1)
    at.network.down[A] = REFUSED
    for number, key in enumerate(("one", "two")):
        at.start(key)
        (await at.connection(number)).take()
        await at.settle()
    assert at.network.dialled == [A, B, B]
    await at.advance(AVOID_S)
    del at.network.down[A]
    at.start("three")
    await at.settle()
    assert at.network.dialled == [A, B, B, A]


@on_a_loop
async def test_the_next_host_is_tried_when_the_greeting_refuses() -> None:
    for refusal in (b"554 no\r\n", b"421 busy\r\n"):
        at = site("a.example", "b.example")
        at.start("one")
        await at.settle()
        at.network.connections[0].say(refusal)
        (await at.connection(1)).take()
        assert at.codes("one") == [250]


@on_a_loop
async def test_the_next_host_is_tried_when_ehlo_fails_or_the_connection_drops() -> None:
    at = site("a.example", "b.example", "192.0.2.3")
    at.start("one")
    await at.settle()
    at.network.connections[0].say(b"220 hello\r\n")
    at.network.connections[0].say(b"451 not now\r\n")
    await at.settle()
    at.network.connections[1].drop()
    (await at.connection(2)).take()
    assert at.codes("one") == [250]
    assert at.network.dialled == [A, B, C]


@on_a_loop
async def test_what_the_last_host_said_is_the_answer_when_all_fail() -> None:
    at = site("a.example", "b.example")
    at.network.down[A] = REFUSED
    at.start("one")
    await at.settle()
    at.network.connections[0].say(b"554 5.3.2 not here\r\n")
    assert at.codes("one") == [554]
    assert at.reports["one"].stage is Stage.GREETING


@on_a_loop
async def test_where_nothing_can_be_reached_the_report_names_the_address() -> None:
    at = site("a.example")
    at.network.down[A] = REFUSED
    at.start("one")
    await at.settle()
    assert fault_of(at, "one") == (Stage.CONNECT, FaultKind.REFUSED)
    assert at.reports["one"].peer == f"{A}:25"


@on_a_loop
async def test_a_name_that_is_not_there_leads_to_the_next_host_or_is_reported() -> None:
    at = site("gone.example", "b.example")
    at.start("one")
    (await at.connection()).take()
    assert at.codes("one") == [250]
    at = site("gone.example")
    at.start("one")
    await at.settle()
    assert fault_of(at, "one") == (Stage.CONNECT, FaultKind.UNRESOLVED)


@on_a_loop
async def test_refused_credentials_are_not_shown_around() -> None:
    at = site(
        "a.example",
        "b.example",
        tls="none",
        credentials=Credentials("me", "secret", ("PLAIN",), in_clear=True),
    )
    at.start("one")
    await at.settle()
    up = at.network.connections[0]
    up.open("AUTH PLAIN")
    assert up.heard().startswith(b"AUTH PLAIN ")
    up.say(b"535 5.7.8 no\r\n")
    await at.settle()
    assert at.codes("one") == [535]
    assert at.reports["one"].stage is Stage.AUTH
    assert at.network.dialled == [A]


@on_a_loop
async def test_a_host_that_offers_no_way_to_log_in_is_reported_as_that() -> None:
    at = site("a.example", credentials=Credentials("me", "secret", ("PLAIN",), in_clear=True))
    at.start("one")
    await at.connection(0, "AUTH CRAM-MD5")
    assert fault_of(at, "one") == (Stage.AUTH, FaultKind.AUTHENTICATION)


@on_a_loop
async def test_a_host_that_wants_no_more_sessions_is_no_reason_to_go_to_the_next_one() -> None:
    at = site("a.example", "b.example", max_concurrency=2)
    at.start("one")
    up = await at.connection()
    at.start("two")
    await at.settle()
    at.network.connections[1].say(b"421 4.7.0 too many\r\n")
    await at.settle()
    assert at.network.dialled == [A, A]
    up.take(2)
    assert (at.codes("one"), at.codes("two")) == ([250], [250])


@on_a_loop
async def test_addresses_of_a_host_race_and_the_first_to_stand_is_taken() -> None:
    at = site("up.example")
    at.network.silent.add(A)
    at.start("one")
    await at.settle()
    assert at.network.dialled == [A]
    await at.advance(HEAD_START_S)
    assert at.network.dialled == [A, B]
    (await at.connection()).take()
    assert at.codes("one") == [250]
    assert len(at.network.connections) == 1


@on_a_loop
async def test_an_address_that_fails_does_not_use_up_its_head_start() -> None:
    at = site("up.example")
    at.network.down[A] = REFUSED
    at.start("one")
    (await at.connection()).take()
    assert at.codes("one") == [250]
    assert at.network.dialled == [A, B]


@on_a_loop
async def test_when_every_address_fails_all_are_named() -> None:
    at = site("up.example")
    at.network.down.update({A: REFUSED, B: OSError(113, "no route")})
    at.start("one")
    await at.settle()
    assert fault_of(at, "one") == (Stage.CONNECT, FaultKind.REFUSED)
    fault = at.reports["one"].fault
    assert fault is not None
    assert A in fault.detail
    assert B in fault.detail


@on_a_loop
async def test_the_other_address_is_tried_when_the_session_does_not_open() -> None:
    at = site("up.example")
    at.start("one")
    await at.settle()
    at.network.connections[0].say(b"554 go away\r\n")
    (await at.connection(1)).take()
    assert at.codes("one") == [250]
    assert at.network.dialled == [A, B]


@on_a_loop
async def test_a_relay_that_closes_ends_a_race() -> None:
    at = site("up.example")
    at.network.silent.update((A, B))
    at.start("one")
    await at.advance(HEAD_START_S)
    await at.relay.close(0)
    await at.settle()
    assert fault_of(at, "one") == (Stage.CONNECT, FaultKind.DROPPED)


@on_a_loop
async def test_mail_exchangers_are_tried_by_preference() -> None:
    at = site("example.org", lookup="mx")
    assert at.names is not None
    at.names.exchangers["example.org"] = ((20, "b.example"), (10, "a.example"))
    at.network.down[A] = REFUSED
    at.start("one")
    (await at.connection()).take()
    assert at.network.dialled == [A, B]
    assert at.codes("one") == [250]


@on_a_loop
async def test_a_domain_that_takes_no_mail_is_never_connected_to() -> None:
    at = site("example.org", lookup="mx")
    assert at.names is not None
    at.names.exchangers["example.org"] = ((0, ""),)
    at.start("one")
    await at.settle()
    assert fault_of(at, "one") == (Stage.CONNECT, FaultKind.NULL_MX)
    assert at.network.dialled == []


@on_a_loop
async def test_a_null_mx_is_not_the_answer_while_another_host_only_failed() -> None:
    at = site("example.net", "example.org", lookup="mx")
    assert at.names is not None
    at.names.exchangers = {"example.net": ((0, "a.example"),), "example.org": ((0, ""),)}
    at.network.down[A] = REFUSED
    at.start("one")
    await at.settle()
    assert fault_of(at, "one") == (Stage.CONNECT, FaultKind.REFUSED)


@on_a_loop
async def test_connections_come_from_the_source_address() -> None:
    at = site("a.example", source_address="192.0.2.99")
    at.start("one")
    await at.settle()
    assert at.network.sources == ["192.0.2.99"]


@on_a_loop
async def test_dns_that_fails_does_not_stop_a_relay_that_has_run() -> None:
    at = site("a.example", messages_per_connection_max=1)
    at.start("one")
    (await at.connection()).take()
    await at.advance(7200)
    assert at.names is not None
    at.names.fault = NameFault("nobody answers", confirmed=False)
    at.start("two")
    (await at.connection(1)).take()
    assert at.codes("two") == [250]


# TLS


@on_a_loop
async def test_starttls_leads_to_a_session_whose_report_says_so() -> None:
    at = site("a.example", tls="starttls_required")
    at.start("one")
    up = await at.connection(0, "STARTTLS")
    assert up.heard() == b"STARTTLS\r\n"
    up.say(b"220 go\r\n")
    await at.settle()
    assert at.network.server_names == ["a.example"]
    assert up.reading
    assert up.heard() == b"EHLO client.example\r\n"
    up.say(b"250-hello\r\n250-PIPELINING\r\n250 DSN\r\n")
    up.take()
    report = at.reports["one"]
    assert (at.codes("one"), report.tls, report.dsn) == ([250], "TLS", True)


@on_a_loop
async def test_implicit_tls_comes_before_the_greeting() -> None:
    at = site("a.example", tls="implicit")
    at.start("one")
    up = await at.connection(0)
    assert at.network.server_names == ["a.example"]
    up.take()
    assert at.reports["one"].tls == "TLS"
    assert not at.reports["one"].dsn


@on_a_loop
async def test_a_failed_handshake_leads_to_the_next_host_or_is_reported_at_its_stage() -> None:
    for mode, stage in (("implicit", Stage.CONNECT), ("starttls", Stage.STARTTLS)):
        at = site("a.example", "b.example", tls=mode)
        at.network.handshakes.extend([OSError("reset"), OSError("reset")])
        at.start("one")
        for number in range(2):
            await at.settle()
            if mode == "starttls":
                up = await at.connection(number, "STARTTLS")
                up.say(b"220 go\r\n")
        await at.settle()
        assert fault_of(at, "one") == (stage, FaultKind.TLS)
        assert at.network.server_names == ["a.example", "b.example"]


@on_a_loop
async def test_auto_goes_on_in_clear_text_where_tls_fails_and_remembers_it_for_a_while() -> None:
    at = site("a.example", tls="auto", messages_per_connection_max=1)
    at.network.handshakes.append(OSError("reset"))
    at.start("one")
    (await at.connection(0, "STARTTLS")).say(b"220 go\r\n")
    await at.settle()
    (await at.connection(1, "STARTTLS", "PIPELINING")).take()
    assert at.codes("one") == [250]
    assert at.reports["one"].tls is None
    at.start("two")
    (await at.connection(2, "STARTTLS", "PIPELINING")).take()
    assert at.codes("two") == [250]
    await at.advance(CLEAR_S)
    at.start("three")
    up = await at.connection(3, "STARTTLS", "PIPELINING")
    assert up.heard() == b"STARTTLS\r\n"


@on_a_loop
async def test_auto_with_credentials_does_not_fall_back_to_clear_text() -> None:
    at = site("a.example", tls="auto", credentials=Credentials("me", "secret"))
    at.network.handshakes.append(OSError("reset"))
    at.start("one")
    (await at.connection(0, "STARTTLS")).say(b"220 go\r\n")
    await at.settle()
    assert fault_of(at, "one") == (Stage.STARTTLS, FaultKind.TLS)


@on_a_loop
async def test_an_offer_of_tls_that_vanishes_is_a_downgrade() -> None:
    at = site("a.example", tls="starttls", messages_per_connection_max=1)
    at.start("one")
    up = await at.connection(0, "STARTTLS")
    up.say(b"220 go\r\n")
    await at.settle()
    up.heard()
    up.say(b"250-hello\r\n250 PIPELINING\r\n")
    up.take()
    up.say(b"221 bye\r\n")
    at.start("two")
    await at.connection(1)
    assert fault_of(at, "two") == (Stage.STARTTLS, FaultKind.TLS)


# Tokens


class Tokens:
    def __init__(self, *answers: Credentials | OSError) -> None:
        self.answers = list(answers)
        self.refused: list[Credentials | None] = []

    async def __call__(self, refused: Credentials | None) -> Credentials:
        self.refused.append(refused)
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


@on_a_loop
async def test_a_source_of_tokens_is_asked_before_each_session_and_told_what_was_refused() -> None:
    old, new = (Credentials("me", token, ("XOAUTH2",), in_clear=True) for token in ("old", "new"))
    tokens = Tokens(old, new)
    at = site("a.example", credentials=tokens)
    at.start("one")
    up = await at.connection(0, "AUTH XOAUTH2")
    up.say(b"535 5.7.8 expired\r\n")
    assert at.codes("one") == [535]
    at.start("two")
    up = await at.connection(1, "AUTH XOAUTH2", "PIPELINING")
    up.say(b"235 welcome\r\n")
    up.take()
    assert at.codes("two") == [250]
    assert tokens.refused == [None, old]


@on_a_loop
async def test_tokens_that_cannot_be_had_keep_the_mail() -> None:
    for error, kind in (
        (PermissionError("revoked"), FaultKind.AUTHENTICATION),
        (TimeoutError("no answer"), FaultKind.CREDENTIALS_ABSENT),
    ):
        at = site("a.example", credentials=Tokens(error))
        at.start("one")
        await at.settle()
        assert fault_of(at, "one") == (Stage.AUTH, kind)
        assert at.network.dialled == []
