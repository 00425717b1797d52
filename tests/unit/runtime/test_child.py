"""The shell around a service, and that it is only a shell."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from dispatch.runtime.child import ChildContext
from dispatch.runtime.inheritance import (
    VARIABLE,
    Inheritance,
    InheritedSocket,
    Listener,
    NotAChild,
    take_inheritance,
)


def test_services_share_one_loop_without_any_process(tmp_path: Path) -> None:
    ready: list[str] = []

    class Service:
        def __init__(self, context: ChildContext) -> None:
            self.context = context

        async def drain(self, grace_s: float) -> None: ...

        async def reload(self) -> None: ...

        async def close(self) -> None: ...

    async def start(context: ChildContext) -> Service:
        context.ready()
        context.ready()
        return Service(context)

    async def main() -> None:
        for role in ("intake", "delivery"):
            await start(ChildContext(role, tmp_path, on_ready=lambda role=role: ready.append(role)))

    asyncio.run(main())
    assert ready == ["intake", "delivery"]


def test_an_inheritance_is_taken_once_and_not_left_for_grandchildren() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        name = listening.getsockname()
        fd = listening.dup().detach()
        os.set_inheritable(fd, True)
        inheritance = Inheritance("intake", "/data", fd, fd, (InheritedSocket("smtp", fd),), 30.0, 5.0, 1.0)
        environment = {"PATH": "/bin"} | inheritance.to_environment()
        taken = take_inheritance(environment)
        assert environment == {"PATH": "/bin"}
        assert taken == inheritance
        assert not os.get_inheritable(fd)
        (listener,) = taken.listeners()
        assert listener == Listener("smtp", listener.socket)
        assert listener.socket.getsockname() == name
        listener.socket.close()


@pytest.mark.parametrize("value", [None, "", "{}", "[1]"])
def test_a_process_started_by_hand_is_told_so(value: str | None) -> None:
    with pytest.raises(NotAChild):
        take_inheritance({} if value is None else {VARIABLE: value})
