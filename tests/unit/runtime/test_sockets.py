from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator

import pytest

from dispatch.runtime import sockets
from dispatch.runtime.sockets import Listening, Wanted, bind_listeners


class Reports(list[tuple[str, dict[str, object]]]):
    def __call__(self, event: str, /, **fields: object) -> None:
        self.append((event, fields))

    def names(self) -> list[str]:
        return [event for event, _ in self]


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of 127.0.0.1 on which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.fixture
def spare() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def bind(reports: Reports):
    made: list[Listening] = []

    def bind(*wanted: Wanted, **options: int) -> Listening:
        listening = bind_listeners(wanted, reports, patience_s=0, **options)
        made.append(listening)
        return listening

    yield bind
    for listening in made:
        listening.close()


LOCAL = ("127.0.0.1",)


def test_a_port_in_use_is_skipped_with_a_warning_and_the_others_are_bound(
    bind, taken, spare, reports
) -> None:
    listening = bind(Wanted("smtp", taken, LOCAL), Wanted("smtp", spare, LOCAL))
    assert listening.listening_ports() == [spare]
    assert reports.names() == ["port_refused"]
    assert reports[0][1]["port"] == taken and "another program" in str(reports[0][1]["hint"])


def test_where_port_25_is_taken_the_fallback_is_added(bind, taken, spare, reports) -> None:
    listening = bind(
        Wanted("smtp", taken, LOCAL), Wanted("smtps", 0, LOCAL), smtp_port=taken, fallback_port=spare
    )
    assert listening.listening_ports("smtp") == [spare]
    assert reports.names() == ["port_refused", "port_fallback"]


def test_the_fallback_is_added_only_at_the_address_where_25_was_refused(bind, taken, spare) -> None:
    want = Wanted("smtp", taken, ("127.0.0.1", "127.0.0.2"))
    listening = bind(want, smtp_port=taken, fallback_port=spare)
    bound = sorted(listener.socket.getsockname() for listener in listening.listeners)
    assert bound == sorted([("127.0.0.1", spare), ("127.0.0.2", taken)])


def test_where_no_smtp_port_can_be_had_the_fallback_is_added_and_the_dashboard_runs(
    bind, taken, spare
) -> None:
    listening = bind(Wanted("smtp", taken, LOCAL), Wanted("dashboard", 0, LOCAL), fallback_port=spare)
    assert listening.listening_ports("smtp") == [spare]
    assert len(listening.listening_ports("dashboard")) == 1


def test_without_smtp_nothing_falls_back(bind, taken, reports) -> None:
    assert bind(Wanted("dashboard", taken, LOCAL)).listeners == ()
    assert reports.names() == ["port_refused"]


def test_a_port_without_privilege_falls_back_and_says_what_is_missing(
    bind, spare, reports, monkeypatch
) -> None:
    real = sockets._listening_socket

    def refusing(address: str, port: int) -> socket.socket:
        if port == 25:
            raise PermissionError(errno.EACCES, "refused by the kernel")
        return real(address, port)

    monkeypatch.setattr(sockets, "_listening_socket", refusing)
    assert bind(Wanted("smtp", 25, LOCAL), fallback_port=spare).listening_ports() == [spare]
    assert "CAP_NET_BIND_SERVICE" in str(reports[0][1]["hint"])


def test_all_interfaces_are_one_port_on_both_families(bind) -> None:
    listening = bind(Wanted("smtp", 0))
    families = {listener.socket.family for listener in listening.listeners}
    assert socket.AF_INET in families
    assert len(listening.listening_ports()) == 1
    if socket.has_ipv6:
        assert families == {socket.AF_INET, socket.AF_INET6}


def test_a_machine_without_ipv6_is_no_reason_for_a_warning_or_a_fallback(bind, reports, monkeypatch) -> None:
    real = sockets._listening_socket

    def without_ipv6(address: str, port: int) -> socket.socket:
        if ":" in address:
            raise OSError(errno.EAFNOSUPPORT, "no such family")
        return real(address, port)

    monkeypatch.setattr(sockets, "_listening_socket", without_ipv6)
    listening = bind(Wanted("smtp", 0), smtp_port=0)
    assert len(listening.listeners) == 1
    assert reports.names() == ["address_family_absent"]


def test_an_address_that_is_not_ours_is_refused_without_opening_another(bind, reports) -> None:
    listening = bind(Wanted("smtp", 0, ("192.0.2.1",)), fallback_port=0)
    assert listening.listeners == ()
    assert reports[0][1]["address"] == "192.0.2.1"


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_for_want_of_descriptors_or_memory_no_port_is_given_up(
    reports, spare, taken, monkeypatch, error: int
) -> None:
    real = sockets._listening_socket
    made: list[socket.socket] = []

    def short(address: str, port: int) -> socket.socket:
        if made:
            raise OSError(error, "short of it")
        made.append(real(address, port))
        return made[0]

    monkeypatch.setattr(sockets, "_listening_socket", short)
    want = [Wanted("smtp", spare, LOCAL), Wanted("smtp", taken, LOCAL)]
    with pytest.raises(OSError, match=f"port {taken} at 127.0.0.1") as fault:
        bind_listeners(want, reports, patience_s=0, smtp_port=taken, fallback_port=0)
    assert fault.value.errno == error
    assert reports == [], "neither refused nor replaced"
    assert made[0].fileno() == -1, "what was bound is free for the next try"


def test_a_port_that_a_dying_set_still_holds_is_waited_for(reports) -> None:
    other = socket.create_server(("127.0.0.1", 0))
    port = other.getsockname()[1]
    want = [Wanted("smtp", port, LOCAL)]
    listening = bind_listeners(want, reports, patience_s=20, pause=lambda pause_s: other.close())
    assert listening.listening_ports() == [port]
    listening.close()


@pytest.mark.parametrize("inherited", [False, True])
def test_accepted_connections_have_nagle_off(bind, inherited: bool) -> None:
    listening = bind(Wanted("smtp", 0, LOCAL))

    async def accepted_option() -> int:
        option: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        class Greeter(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                inner = transport.get_extra_info("socket")
                option.set_result(inner.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                transport.close()

        loop = asyncio.get_running_loop()
        bound = listening.listeners[0].socket
        if inherited:  # as a child sees it: made from a bare descriptor
            bound = socket.socket(fileno=bound.dup().detach())
        server = await loop.create_server(Greeter, sock=bound)
        _, writer = await asyncio.open_connection(*bound.getsockname())
        value = await asyncio.wait_for(option, 20)
        writer.close()
        server.close()
        return value

    assert asyncio.run(accepted_option()) == 1
