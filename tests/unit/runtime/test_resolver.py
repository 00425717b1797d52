"""What the system's resolver makes of name servers that answer, refuse, and are silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
import uvloop
from dns.asyncresolver import Resolver as DnsResolver
from dns.resolver import Answer

from dispatch.policy.dane import Tlsa
from dispatch.ports import DnssecFrom, NameFault
from dispatch.runtime import resolver
from dispatch.runtime.resolver import SystemResolver

RECORDS = {
    ("up.example.", "A"): ["192.0.2.1", "192.0.2.2"],
    ("up.example.", "AAAA"): ["2001:db8::1"],
    ("four.example.", "A"): ["192.0.2.4"],
    ("short.search.example.", "A"): ["192.0.2.5"],
    ("example.org.", "MX"): ["10 a.example.", "20 b.example."],
    ("null.example.", "MX"): ["0 ."],
    ("_25._tcp.a.example.", "TLSA"): ["3 1 1 " + "ab" * 32, "2 0 0 0102"],
    ("_mta-sts.example.org.", "TXT"): ['"v=STSv1; " "id=1;"', '"caf\\195\\169"'],
}
NAMES = {name for name, _ in RECORDS}


class NameServer(asyncio.DatagramProtocol):
    """Answers from the table; `rcode` stands for every answer while there is one, and `silent` for none."""

    def __init__(self) -> None:
        self.silent = False
        self.rcode: dns.rcode.Rcode | None = None
        self.vouches = True
        """For every answer, to those who ask whether it does."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self.silent:
            return
        query = dns.message.from_wire(data)
        (question,) = query.question
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        if self.rcode is not None:
            answer.set_rcode(self.rcode)
        elif name not in NAMES:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif records := RECORDS.get((name, kind)):
            if self.vouches and query.flags & dns.flags.AD:
                answer.flags |= dns.flags.AD
            answer.answer.append(dns.rrset.from_text(question.name, 120, "IN", kind, *records))
        self.transport.sendto(answer.to_wire(), addr)


Asking = Callable[[SystemResolver, NameServer], Coroutine[object, object, None]]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def ask(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Asking], None]:
    configuration, hosts = tmp_path / "resolv.conf", tmp_path / "hosts"
    configuration.write_text("nameserver 127.0.0.1\nsearch search.example\n")
    hosts.write_text("127.0.0.1 localhost  # ours\n::1 localhost\n192.0.2.9 Pinned.Example. alias\nbad\n")

    async def run(asking: Asking) -> None:
        loop = asyncio.get_running_loop()
        transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
        try:
            port = transport.get_extra_info("sockname")[1]
            await asking(SystemResolver(hosts, configuration, port), server)
        finally:
            transport.close()

    def on_a_loop(asking: Asking) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(run(asking))

    return on_a_loop


Ask = Callable[[Asking], None]


def test_a_host_has_addresses_of_both_families(ask: Ask) -> None:
    async def asking(system: SystemResolver, server: NameServer) -> None:
        values, ttl_s, _ = await system.addresses("up.example")
        assert (sorted(values), ttl_s) == (["192.0.2.1", "192.0.2.2", "2001:db8::1"], 120.0)
        assert (await system.addresses("four.example.")).values == ("192.0.2.4",)

    ask(asking)


def test_addresses_and_names_of_the_hosts_file_need_no_server(ask: Ask) -> None:
    async def asking(system: SystemResolver, server: NameServer) -> None:
        server.silent = True
        assert (await system.addresses("192.0.2.7")).values == ("192.0.2.7",)
        assert (await system.addresses("localhost")).values == ("127.0.0.1", "::1")
        assert (await system.addresses("pinned.EXAMPLE")).values == ("192.0.2.9",)

    ask(asking)


def test_a_short_name_is_searched_for(ask: Ask) -> None:
    async def asking(system: SystemResolver, server: NameServer) -> None:
        assert (await system.addresses("short")).values == ("192.0.2.5",)

    ask(asking)


def test_servers_of_the_settings_are_asked_in_place_of_the_machines(ask: Ask, tmp_path: Path) -> None:
    async def asking(_: SystemResolver, server: NameServer) -> None:
        port = server.transport.get_extra_info("sockname")[1]
        own = SystemResolver(tmp_path / "hosts", tmp_path / "none", servers=[f"127.0.0.1:{port}"])
        assert (await own.addresses("four.example")).values == ("192.0.2.4",)
        assert (await own.addresses("alias")).values == ("192.0.2.9",), "the file of hosts counts"
        with pytest.raises(NameFault, match="no name short"):
            await own.addresses("short")

    ask(asking)


def test_the_strings_of_a_text_are_one(ask: Ask) -> None:
    async def asking(system: SystemResolver, server: NameServer) -> None:
        texts, ttl_s, _ = await system.txt("_mta-sts.example.org")
        assert (sorted(texts), ttl_s) == (["caf\ufffd\ufffd", "v=STSv1; id=1;"], 120.0)
        with pytest.raises(NameFault) as fault:
            await system.txt("up.example")
        assert fault.value.confirmed

    ask(asking)


def test_tlsa_records(ask: Ask) -> None:
    async def asking(system: SystemResolver, server: NameServer) -> None:
        found = await system.tlsa("_25._tcp.a.example")
        assert set(found.records) == {Tlsa(3, 1, 1, b"\xab" * 32), Tlsa(2, 0, 0, b"\1\2")}
        assert (found.ttl_s, found.secure) == (120.0, False)
        with pytest.raises(NameFault) as fault:
            await system.tlsa("_25._tcp.b.example")
        assert fault.value.confirmed

    ask(asking)


async def secure(system: SystemResolver) -> set[bool]:
    return {
        (await system.addresses("up.example")).secure,
        (await system.mx("example.org")).secure,
        (await system.txt("_mta-sts.example.org")).secure,
        (await system.tlsa("_25._tcp.a.example")).secure,
    }


@pytest.mark.parametrize("whose", ["loopback", "all", "none"])
def test_the_word_of_a_server_on_this_machine_is_taken_unless_nobodys_is(
    ask: Ask, tmp_path: Path, whose: DnssecFrom
) -> None:
    async def asking(_: SystemResolver, server: NameServer) -> None:
        place = "127.0.0.1:{}".format(server.transport.get_extra_info("sockname")[1])
        system = SystemResolver(tmp_path / "hosts", servers=[place], dnssec_from=whose)
        assert await secure(system) == {whose != "none"}
        server.vouches = False
        assert await secure(system) == {False}

    ask(asking)


@pytest.mark.parametrize("whose", ["loopback", "all"])
def test_the_word_of_a_server_elsewhere_is_taken_only_where_all_are_trusted(
    monkeypatch: pytest.MonkeyPatch, whose: DnssecFrom
) -> None:
    async def answer(*_: object, **__: object) -> Answer:
        name = dns.name.from_text("example.org")
        query = dns.message.make_query(name, "MX")
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AD
        response.answer.append(dns.rrset.from_text(name, 120, "IN", "MX", "10 a.example."))
        return Answer(
            name,
            dns.rdatatype.MX,
            dns.rdataclass.IN,
            response,
            "192.0.2.53",  # type: ignore[arg-type]
        )

    monkeypatch.setattr(DnsResolver, "resolve", answer)
    system = SystemResolver(servers=["192.0.2.53"], dnssec_from=whose)
    assert asyncio.run(system.mx("example.org")).secure is (whose == "all")


def test_mail_exchangers_and_the_null_mx(ask: Ask) -> None:
    async def asking(system: SystemResolver, server: NameServer) -> None:
        hosts, ttl_s, _ = await system.mx("example.org")
        assert (sorted(hosts), ttl_s) == ([(10, "a.example"), (20, "b.example")], 120.0)
        assert (await system.mx("null.example")).hosts == ((0, ""),)

    ask(asking)


def test_what_dns_denies_is_confirmed(ask: Ask) -> None:
    async def asking(system: SystemResolver, server: NameServer) -> None:
        for question in (
            system.addresses("nobody.example"),
            system.addresses("null.example"),
            system.mx("up.example"),
            system.mx("nobody.example"),
            system.addresses("a..b"),
            system.addresses("x" * 64 + ".example"),
        ):
            with pytest.raises(NameFault) as fault:
                await question
            assert fault.value.confirmed

    ask(asking)


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, None])
def test_a_server_that_fails_confirms_nothing(
    ask: Ask, rcode: dns.rcode.Rcode | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "ANSWER_S", 0.3)

    async def asking(system: SystemResolver, server: NameServer) -> None:
        server.rcode, server.silent = rcode, rcode is None
        for question in (system.addresses("up.example"), system.mx("example.org")):
            with pytest.raises(NameFault) as fault:
                await question
            assert not fault.value.confirmed

    ask(asking)


def test_without_a_configuration_nothing_is_confirmed(tmp_path: Path) -> None:
    system = SystemResolver(tmp_path / "none", tmp_path / "none either")
    with pytest.raises(NameFault) as fault:
        asyncio.run(system.addresses("up.example"))
    assert not fault.value.confirmed
