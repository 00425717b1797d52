"""What comes, or ends, in the very turn in which a TLS handshake with an upstream is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from dispatch.ports import Worker
from dispatch.relays.smart_host import SmartHost, Trust
from dispatch.relays.smtp_connection import SmtpConnection, Terms
from dispatch.relays.smtp_tls import ClientTls
from dispatch.runtime.machine import SystemClock
from dispatch.smtp.client_exchange import Closed

HOST = SmartHost(hosts=("host.test",), tls="starttls", trust=Trust(verify=False), helo_name="me.test")
OPENING = b"220 host.test\r\n", b"250-host.test\r\n250 STARTTLS\r\n", b"220 go ahead\r\n"


class HandTransport:
    """What was written, in clear or under TLS."""

    def __init__(self) -> None:
        self.written = b""
        self.aborted = False

    def writelines(self, buffers: list[bytes]) -> None:
        self.written += b"".join(buffers)

    def get_extra_info(self, name: str) -> None:
        return None

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        """It is the test that reads."""

    def abort(self) -> None:
        self.aborted = True


class Owner:
    def __init__(self) -> None:
        self.closed_for: Closed | None = None

    def closed(self, connection: SmtpConnection, closed: Closed) -> None:
        self.closed_for = closed

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *given: None


class Story:
    """A connection whose handshake does what the test says, in the turn in which it ends."""

    def __init__(self, implicit: bool, at_the_end: Callable[[SmtpConnection], None]) -> None:
        self.clear, self.secured = HandTransport(), HandTransport()
        self.owner = Owner()
        self.faults: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.faults.append(context))

        async def secure(transport: object, protocol: object, name: str) -> tuple[HandTransport, str]:
            await asyncio.sleep(0)
            at_the_end(self.connection)
            return self.secured, "TLSv1.3 TEST"

        tls = cast("ClientTls", type("Tls", (), {"secure": staticmethod(secure)}))
        terms = Terms(tls, "host.test", implicit, "none" if implicit else "starttls_required", False, None)
        self.connection = SmtpConnection(
            cast("Any", self.owner),
            HOST,
            SystemClock(loop),
            cast("Worker", None),
            cast("Any", None),
            terms,
            pipelining=True,
        )
        self.connection.connection_made(cast("asyncio.BaseTransport", self.clear))
        if not implicit:
            for data in OPENING:
                self.connection.data_received(data)

    async def ends(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        assert self.faults == []


def test_a_greeting_that_comes_with_the_end_of_the_handshake_is_answered_under_tls() -> None:
    async def story() -> None:
        one = Story(True, lambda connection: connection.data_received(OPENING[0]))
        await one.ends()
        assert one.clear.written == b"" and one.secured.written == b"EHLO me.test\r\n"

    asyncio.run(story())


def test_a_host_that_greets_a_second_time_behind_starttls_is_left_and_nothing_dies() -> None:
    async def story() -> None:
        one = Story(False, lambda connection: connection.data_received(OPENING[0]))
        await one.ends()
        assert one.owner.closed_for is not None and one.secured.aborted

    asyncio.run(story())


@pytest.mark.parametrize("implicit", [False, True])
def test_a_connection_that_is_given_up_as_the_handshake_ends_is_closed_once(implicit: bool) -> None:
    async def story() -> None:
        one = Story(implicit, lambda connection: connection.abort("cut"))
        await one.ends()
        assert one.owner.closed_for is not None and one.secured.written == b""

    asyncio.run(story())


@pytest.mark.parametrize("implicit", [False, True])
def test_a_host_that_hangs_up_as_the_handshake_ends_is_heard(implicit: bool) -> None:
    async def story() -> None:
        one = Story(implicit, lambda connection: connection.connection_lost(None))
        await one.ends()
        assert one.owner.closed_for is not None

    asyncio.run(story())
