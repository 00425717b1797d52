"""Direct delivery: the hosts of the recipients' own domains, each domain for itself."""

from __future__ import annotations

import pytest
from tests.unit.relays.direct_site import ENVELOPE, A, B, C, DirectSite
from tests.unit.relays.memory_upstream import PIPELINING
from tests.unit.relays.test_smtp_relay import on_a_loop
from tests.unit.smtp.client_talk import CONTENT

from dispatch.mail.report import FaultKind, Stage
from dispatch.ports import NameFault
from dispatch.relays.direct import KEPT_MAX, KEPT_S, REST_S, REST_S_MAX
from dispatch.relays.direct_domain import ADDRESSES_MAX, Ourselves

REFUSED = ConnectionRefusedError(111, "refused")
TLS = (*PIPELINING, "STARTTLS")


# Where mail goes


@on_a_loop
async def test_mail_goes_to_the_hosts_of_its_domain() -> None:
    at = DirectSite()
    at.mail("one", "x@a.example")
    at.mail("two", "x@b.example")
    for number, domain in enumerate((b"a", b"b")):
        up = await at.connection(number)
        assert up.heard() == ENVELOPE % (len(CONTENT), b"x@%s.example" % domain)
        up.take()
    assert at.network.dialled == [A, B]
    assert (at.codes("one"), at.codes("two")) == ([250], [250])


@on_a_loop
async def test_the_second_host_is_tried_where_the_preferred_one_is_down() -> None:
    at = DirectSite()
    at.network.down[A] = REFUSED
    await at.delivered("one", "x@whole.example", at=0)
    assert at.network.dialled == [A, B]


@on_a_loop
async def test_a_domain_without_mx_records_is_its_own_host() -> None:
    at = DirectSite()
    await at.delivered("one", "x@own.example", at=0)
    assert at.network.dialled == [C]


@pytest.mark.parametrize(
    ("recipient", "address"), [("x@[192.0.2.3]", C), ("x@[IPv6:2001:DB8::3]", "2001:db8::3")]
)
def test_an_address_literal_names_its_host(recipient: str, address: str) -> None:
    @on_a_loop
    async def run() -> None:
        at = DirectSite()
        await at.delivered("one", recipient, at=0)
        assert at.network.dialled == [address]
        assert at.names is not None
        assert at.names.asked == []

    run()


@on_a_loop
async def test_names_are_asked_for_as_they_are() -> None:
    """A search domain of this machine must not catch the mail of others."""
    at = DirectSite()
    await at.delivered("one", "x@a.example", at=0)
    assert at.names is not None
    assert at.names.asked == ["a.example.", "mx.a.example."]


@on_a_loop
async def test_an_international_domain_is_asked_for_with_a_labels() -> None:
    at = DirectSite()
    assert at.names is not None
    at.names.hosts["xn--bcher-kva.example."] = (C,)
    at.mail("one", "x@Bücher.example")
    (await at.connection(0, *PIPELINING, "SMTPUTF8")).take()
    assert at.codes("one") == [250]


@on_a_loop
async def test_of_a_thousand_addresses_a_few_are_tried() -> None:
    at = DirectSite()
    assert at.names is not None
    many = tuple(f"192.0.{high}.{low}" for high in range(4) for low in range(250))
    at.names.hosts["mx.a.example."] = many
    at.network.down = dict.fromkeys(many, REFUSED)
    assert await at.refused("one", "x@a.example") == (Stage.CONNECT, FaultKind.REFUSED)
    assert len(at.network.dialled) == ADDRESSES_MAX


# What cannot be delivered


@on_a_loop
async def test_a_null_mx_is_never_connected_to() -> None:
    at = DirectSite()
    assert at.names is not None
    at.names.exchangers["null.example."] = ((0, ""),)
    assert await at.refused("one", "x@null.example") == (Stage.CONNECT, FaultKind.NULL_MX)
    assert at.network.dialled == []


@pytest.mark.parametrize("recipient", ["x@gone.example", "postmaster", "x@[192.0.2.300]", "x@[x:y]"])
def test_where_there_is_no_domain_it_is_said(recipient: str) -> None:
    @on_a_loop
    async def run() -> None:
        at = DirectSite()
        assert await at.refused("one", recipient) == (Stage.CONNECT, FaultKind.NO_DOMAIN)

    run()


@on_a_loop
async def test_a_host_without_an_address_is_no_missing_domain() -> None:
    """Somebody mistyped his MX record, and may mend it."""
    at = DirectSite()
    assert at.names is not None
    at.names.exchangers["typo.example."] = ((10, "gone.example"),)
    assert await at.refused("one", "x@typo.example") == (Stage.CONNECT, FaultKind.UNRESOLVED)


@on_a_loop
async def test_while_nobody_answers_for_dns_mail_waits() -> None:
    at = DirectSite()
    assert at.names is not None
    at.names.fault = NameFault("nobody answers", confirmed=False)
    assert await at.refused("one", "x@a.example") == (Stage.CONNECT, FaultKind.UNRESOLVED)


@on_a_loop
async def test_a_domain_that_is_there_for_the_other_family_only_is_not_missing() -> None:
    at = DirectSite(source_address="2001:db8::9")
    assert await at.refused("one", "x@own.example") == (Stage.CONNECT, FaultKind.UNRESOLVED)


# Loops

OURSELVES = Ourselves(frozenset({"mx.a.example", "own.example"}), on_loopback=True)


@on_a_loop
async def test_a_domain_whose_best_host_we_are_is_a_loop() -> None:
    at = DirectSite(OURSELVES)
    for key, domain in (("one", "a.example"), ("two", "whole.example"), ("three", "own.example")):
        assert await at.refused(key, f"x@{domain}") == (Stage.CONNECT, FaultKind.LOOP)
    assert at.network.dialled == []


@on_a_loop
async def test_hosts_that_are_preferred_to_us_are_tried_and_no_others() -> None:
    at = DirectSite(Ourselves(frozenset({"mx.b.example"})))
    at.network.down[A] = REFUSED
    assert await at.refused("one", "x@whole.example") == (Stage.CONNECT, FaultKind.REFUSED)
    assert at.network.dialled == [A]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"])
def test_our_own_listener_is_a_loop_by_whatever_name(address: str) -> None:
    @on_a_loop
    async def run() -> None:
        at = DirectSite(OURSELVES)
        assert at.names is not None
        at.names.hosts["mx.b.example."] = (address,)
        assert await at.refused("one", "x@b.example") == (Stage.CONNECT, FaultKind.LOOP)
        literal = f"[IPv6:{address}]" if ":" in address else f"[{address}]"
        assert await at.refused("two", f"x@{literal}") == (Stage.CONNECT, FaultKind.LOOP)
        assert at.network.dialled == []

    run()


@on_a_loop
async def test_this_machine_is_no_loop_where_our_listener_has_another_port() -> None:
    at = DirectSite()
    await at.delivered("one", "x@[127.0.0.1]", at=0)


@on_a_loop
async def test_a_host_that_only_failed_is_better_news_than_a_loop() -> None:
    """The other one may be well again tomorrow: it must not bounce today."""
    at = DirectSite(Ourselves(on_loopback=True))
    assert at.names is not None
    at.names.hosts["mx.b.example."] = ("127.0.0.1",)
    at.network.down[A] = REFUSED
    assert await at.refused("one", "x@whole.example") == (Stage.CONNECT, FaultKind.REFUSED)


# TLS where there is some


@on_a_loop
async def test_tls_is_used_where_it_is_offered_and_clear_text_where_not() -> None:
    at = DirectSite()
    at.mail("one", "x@a.example")
    up = await at.connection(0, *TLS)
    assert up.heard() == b"STARTTLS\r\n"
    up.say(b"220 go\r\n")
    await at.settle()
    assert up.heard() == b"EHLO client.example\r\n"
    await at.delivered("two", "x@b.example", at=1)


@on_a_loop
async def test_clear_text_is_used_where_the_handshake_fails() -> None:
    at = DirectSite()
    at.network.handshakes.append(OSError("no common cipher"))
    at.mail("one", "x@a.example")
    up = await at.connection(0, *TLS)
    up.say(b"220 go\r\n")
    await at.settle()
    (await at.connection(1, *TLS)).take()
    assert at.codes("one") == [250]
    assert at.network.dialled == [A, A]


@on_a_loop
async def test_where_tls_is_required_there_is_no_clear_text() -> None:
    at = DirectSite(tls="starttls_required")
    at.mail("one", "x@a.example")
    await at.connection(0)
    await at.settle()
    assert at.fault_of("one") == (Stage.STARTTLS, FaultKind.TLS)


# Domains beside each other


@on_a_loop
async def test_a_silent_domain_keeps_no_other_waiting() -> None:
    at = DirectSite()
    at.network.silent.add(A)
    for key in ("one", "two"):
        at.mail(key, "x@a.example")
    await at.settle()
    await at.delivered("three", "x@b.example", at=0)
    assert sorted(at.reports) == ["three"]


@on_a_loop
async def test_a_domain_that_failed_rests_and_what_comes_meanwhile_hears_why() -> None:
    at = DirectSite()
    at.network.down[A] = REFUSED
    await at.refused("one", "x@a.example")
    report = at.reports["one"]
    assert await at.refused("two", "y@a.example", "z@a.example") == (Stage.CONNECT, FaultKind.RESTS)
    again = at.reports["two"]
    assert again.replies == (None, None)
    assert again.peer == report.peer == f"{A}:25"
    assert again.fault is not None
    assert again.fault.detail == "connection refused: [Errno 111] refused"
    assert again.fault.retry_after_s == REST_S
    assert at.network.dialled == [A]
    await at.delivered("three", "x@b.example", at=0)
    del at.network.down[A]
    await at.advance(REST_S)
    await at.delivered("four", "x@a.example", at=1)


@on_a_loop
async def test_each_rest_is_twice_as_long_until_a_session_opens() -> None:
    at = DirectSite()
    at.network.down[A] = REFUSED
    rests = []
    for number in range(6):
        assert await at.refused(f"tried {number}", "x@a.example") == (Stage.CONNECT, FaultKind.REFUSED)
        await at.refused(f"told {number}", "x@a.example")
        fault = at.reports[f"told {number}"].fault
        assert fault is not None
        assert fault.retry_after_s is not None
        rests.append(fault.retry_after_s)
        await at.advance(fault.retry_after_s)
    assert rests == [REST_S, 2 * REST_S, 4 * REST_S, *[REST_S_MAX] * 3]
    del at.network.down[A]
    await at.delivered("well", "x@a.example", at=0)
    at.network.down[A] = REFUSED
    at.network.connections[0].drop()
    await at.refused("down again", "x@a.example")
    await at.refused("told again", "x@a.example")
    fault = at.reports["told again"].fault
    assert fault is not None
    assert fault.retry_after_s == REST_S


@on_a_loop
async def test_a_person_ends_a_rest() -> None:
    at = DirectSite()
    at.network.down[A] = REFUSED
    await at.refused("one", "x@a.example")
    del at.network.down[A]
    at.direct.try_again()
    await at.delivered("two", "x@a.example", at=0)


@on_a_loop
async def test_a_refusal_of_the_session_is_told_to_those_that_come_meanwhile() -> None:
    at = DirectSite()
    at.mail("one", "x@a.example")
    await at.settle()
    at.network.connections[0].say(b"554 5.7.1 no\r\n")
    await at.settle()
    assert await at.refused("two", "x@a.example") == (Stage.GREETING, FaultKind.RESTS)
    fault = at.reports["two"].fault
    assert fault is not None
    assert fault.detail == "554 5.7.1 no"


@on_a_loop
async def test_what_waiting_does_not_mend_is_told_as_it_is() -> None:
    at = DirectSite()
    for key in ("one", "two"):
        assert await at.refused(key, "x@gone.example") == (Stage.CONNECT, FaultKind.NO_DOMAIN)
    assert at.names is not None
    assert at.names.asked.count("gone.example.") == 2, "MX and addresses, once"
    for number in range(3):
        await at.advance(REST_S)
        await at.refused(f"again {number}", "x@gone.example")
    assert at.names.asked.count("gone.example.") == 8, "its rests do not grow"


@on_a_loop
async def test_a_session_that_opened_shows_that_the_domain_is_well() -> None:
    at = DirectSite()
    at.mail("one", "x@a.example")
    up = await at.connection()
    up.say(b"250 ok\r\n550 5.1.1 nobody\r\n554 no\r\n")
    await at.settle()
    assert at.codes("one") == [550]
    at.mail("two", "x@a.example")
    await at.settle()
    assert "two" not in at.reports
    assert len(at.network.connections) == 1, "and its connection is kept"


@on_a_loop
async def test_idle_connections_make_room_for_other_domains() -> None:
    at = DirectSite(max_concurrency=2)
    await at.delivered("one", "x@a.example", at=0)
    await at.delivered("two", "x@b.example", at=1)
    assert not at.network.connections[0].closed
    await at.delivered("three", "x@own.example", at=2)
    assert at.network.connections[0].heard().endswith(b"QUIT\r\n"), "it has been idle for longest"
    assert not at.network.connections[1].heard().endswith(b"QUIT\r\n")


@on_a_loop
async def test_idle_connections_of_a_busy_domain_make_room_too() -> None:
    at = DirectSite(max_concurrency=2)
    at.mail("one", "x@a.example")
    at.mail("two", "x@a.example")
    ups = [await at.connection(number) for number in range(2)]
    ups[0].take()
    await at.delivered("three", "x@b.example", at=2)
    assert ups[0].heard().endswith(b"QUIT\r\n")
    assert not ups[1].heard().endswith(b"QUIT\r\n"), "it is at work"


@on_a_loop
async def test_an_idle_connection_that_takes_the_mail_makes_room_for_nobody() -> None:
    at = DirectSite(max_concurrency=2)
    await at.delivered("one", "x@a.example", at=0)
    await at.delivered("two", "x@b.example", at=1)
    at.mail("three", "x@b.example")
    await at.settle()
    at.network.connections[1].take()
    assert at.codes("three") == [250]
    assert not at.network.connections[0].heard().endswith(b"QUIT\r\n")


@on_a_loop
async def test_it_says_how_many_may_start() -> None:
    at = DirectSite(max_concurrency=3)
    assert at.relay.free() == 3
    at.mail("one", "x@a.example")
    at.mail("two", "x@b.example")
    assert at.relay.free() == 1
    (await at.connection()).take()
    assert at.relay.free() == 2


@on_a_loop
async def test_domains_without_work_are_forgotten() -> None:
    at = DirectSite()
    for number in range(KEPT_MAX + 20):
        await at.refused(f"{number}", f"x@d{number}.example")
    assert at.direct.domains == KEPT_MAX
    await at.advance(KEPT_S)
    await at.refused("last", "x@last.example")
    assert at.direct.domains == 1


# Its end


@on_a_loop
async def test_closed_it_ends_what_is_under_way_and_takes_nothing_more() -> None:
    at = DirectSite()
    at.network.silent.add(A)
    at.mail("one", "x@a.example")
    await at.settle()
    await at.relay.close(0)
    assert at.relay.free() == 0
    assert await at.refused("two", "x@b.example") == (Stage.CONNECT, FaultKind.DROPPED)
    assert at.fault_of("one") == (Stage.CONNECT, FaultKind.DROPPED)
    assert at.network.dialled == [A]
