"""Hosts that are hostile or broken, beside one that is well: nothing is lost, and the trouble stays theirs.

Every case is an upstream of its own, all of a group at once, each with one message for it. While they do
their worst, mail for the host that is well flows. Then they become well, and everything arrives: once, or
twice where the relay had called it *uncertain* (RFC 1047), and nowhere else.

What the adapter itself makes of such hosts is in `tests/unit/relays/test_hostile_upstream.py`. A host that
says something in clear behind its answer to STARTTLS belongs here, as a group of its own, as soon as relays
speak TLS.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pytest
from tests.scenarios.relay import HELLO, Relay, until
from tests.scenarios.upstream import Upstream

Act = bytes | Callable[[socket.socket], None]
"""What a host says at a step, or does instead; an `OSError` ends the conversation."""
USUAL: Mapping[str, Act] = {
    "greeting": b"220 hostile.test ESMTP\r\n",
    "EHLO": b"250-hostile.test\r\n250-8BITMIME\r\n250 PIPELINING\r\n",
    "MAIL": b"250 2.1.0 Ok\r\n",
    "RCPT": b"250 2.1.5 Ok\r\n",
    "DATA": b"354 Go ahead\r\n",
    "end": b"250 2.0.0 Ok\r\n",
    "RSET": b"250 2.0.0 Ok\r\n",
    "QUIT": b"221 2.0.0 Bye\r\n",
}
STEPS = ("greeting", "EHLO", "MAIL", "RCPT", "DATA", "end")
LARGE = HELLO + (b"y" * 76 + b"\r\n") * 120_000
"""More than the kernel holds between two sockets: its end has not left while the host does not read."""
OTHERS = 10
"""Messages for the host that is well, in each phase."""
MEMORY_MORE_BYTES_MAX = 64 << 20
TRICKLE_S = 0.05
FREEZE_S_MAX = 120


@dataclass
class Hostile(Upstream):
    """Acts as told while there are `acts`; then it is an upstream like others, at the same port."""

    acts: Mapping[str, Act] | None = field(default_factory=dict)
    seen: int = 0
    """Contents that it had whole while it was hostile."""

    def recover(self) -> None:
        """Start anew, and well: conversations that are under way are cut."""
        self.stop()
        self.acts = None
        self.start()

    def _serve(self, connection: socket.socket) -> None:
        acts = self.acts
        if acts is None:
            super()._serve(connection)
            return
        try:
            with connection, connection.makefile("rb") as lines:
                self._misbehave({**USUAL, **acts}, connection, lines)
        except OSError:
            pass
        finally:
            with self._lock:
                self._open.discard(connection)

    def _misbehave(self, acts: Mapping[str, Act], connection: socket.socket, lines: BinaryIO) -> None:
        _do(acts["greeting"], connection)
        while line := lines.readline():
            verb = line.split()[0].upper().decode().replace("HELO", "EHLO")
            act = acts[verb]
            _do(act, connection)
            if verb == "DATA" and isinstance(act, bytes) and act.startswith(b"354"):
                first = line = lines.readline()
                while line != b".\r\n":
                    if not line:
                        return
                    line = lines.readline()
                self.seen += first != b".\r\n"
                _do(acts["end"], connection)
            if verb == "QUIT":
                return


def _do(act: Act, connection: socket.socket) -> None:
    if isinstance(act, bytes):
        connection.sendall(act)
    else:
        act(connection)


def closes(connection: socket.socket) -> None:
    raise ConnectionAbortedError


def resets(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionAbortedError


def stalls(connection: socket.socket) -> None:
    """Read what comes, and say nothing more."""
    while connection.recv(65_536):
        pass
    raise ConnectionAbortedError


def freezes(connection: socket.socket) -> None:
    """Not even read, until one of the two sides has closed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    closed = select.poll()
    closed.register(connection, select.POLLRDHUP | select.POLLHUP)
    closed.poll(FREEZE_S_MAX * 1000)
    raise ConnectionAbortedError


def endless(words: bytes) -> Callable[[socket.socket], None]:
    """Say this as long as the other side listens."""

    def act(connection: socket.socket) -> None:
        while True:
            connection.sendall(words)

    return act


def trickles(octet: bytes) -> Callable[[socket.socket], None]:
    """The same slowly, octet by octet."""

    def act(connection: socket.socket) -> None:
        while True:
            connection.sendall(octet)
            time.sleep(TRICKLE_S)

    return act


def then(words: bytes, act: Act) -> Callable[[socket.socket], None]:
    def both(connection: socket.socket) -> None:
        connection.sendall(words)
        _do(act, connection)

    return both


class Case(NamedTuple):
    acts: Mapping[str, Act]
    uncertain: bool = False
    content: bytes = HELLO
    lasts: bool = False
    """The relay waits as long as RFC 5321 asks for; the attempt ends when the host does."""


def _each(act: Act, *, lasts: bool = False, uncertain: bool = True) -> dict[str, Case]:
    """The same at every step; what comes in place of the final reply is uncertain, or not."""
    return {
        step: Case({step: act}, uncertain and step == "end", lasts=lasts and step != "end") for step in STEPS
    }


GIGABYTES = endless(b"2" * 65_536)
GO = b"354 Go ahead\r\n"
GROUPS: dict[str, dict[str, Case]] = {
    "endless reply": {
        step: Case({step: endless(b"%d-and more\r\n" % code)}, step == "end")
        for step, code in zip(STEPS, (220, 250, 250, 250, 354, 250), strict=True)
    },
    "line without end": {
        **_each(GIGABYTES),
        "slowly": Case({"end": trickles(b"2")}, True),
        "slowly, lines": Case({"end": trickles(b"250-x\r\n")}, True),
        "at the greeting, slowly": Case({"greeting": trickles(b"2")}, lasts=True),
    },
    "replies before commands": {
        "all of them at the greeting": Case(
            {"greeting": b"220 hi\r\n250 hi\r\n250 ok\r\n250 ok\r\n354 go\r\n250 queued\r\n"}
        ),
        "one more behind EHLO": Case({"EHLO": b"250 hostile.test\r\n250 Ok\r\n"}),
        "the final one behind 354": Case({"DATA": b"354 Go ahead\r\n250 2.0.0 Ok\r\n"}, content=LARGE),
        "421 behind the greeting": Case({"greeting": b"220 hi\r\n421 4.3.2 bye\r\n"}),
    },
    "wrong codes": {
        **{f"354 to {step}": Case({step: GO}, step == "end") for step in STEPS if step != "DATA"},
        "250 to DATA": Case({"DATA": b"250 2.0.0 Ok\r\n"}),
        "220 to DATA": Case({"DATA": b"220 hi\r\n"}),
        "199 at the end": Case({"end": b"199 hm\r\n"}, True),
        "600 at the end": Case({"end": b"600 hm\r\n"}, True),
        "no code at the end": Case({"end": b"Ok, queued\r\n"}, True),
        "2500 at the end": Case({"end": b"2500 Ok\r\n"}, True),
        "two codes at the end": Case({"end": b"250-Ok\r\n550 no\r\n"}, True),
        "-25 to MAIL": Case({"MAIL": b"-25 Ok\r\n"}),
        "MAIL refused, DATA answered 354": Case({"MAIL": b"451 4.3.0 No\r\n"}),
        "all refused, DATA answered 354": Case({"RCPT": b"451 4.3.0 No\r\n"}),
        "another protocol": Case({"greeting": b"HTTP/1.1 400 Bad Request\r\n\r\n"}),
    },
    "421": {
        **_each(b"421 4.3.2 Not now\r\n", uncertain=False),
        **{
            f"{step}, and closes": case
            for step, case in _each(then(b"421 4.3.2 Not now\r\n", closes), uncertain=False).items()
        },
    },
    "closes": {
        **_each(closes),
        **{f"{step}, by a reset": case for step, case in _each(resets).items()},
        "in the middle of the content": Case({"DATA": then(GO, closes)}, content=LARGE),
        "in the middle of the content, by a reset": Case({"DATA": then(GO, resets)}, content=LARGE),
        "in the middle of the greeting": Case({"greeting": then(b"220 half a gree", closes)}),
        "in the middle of the final reply": Case({"end": then(b"25", closes)}, True),
        "before the last line of the final reply": Case({"end": then(b"250-still\r\n", closes)}, True),
    },
    "half-open": {
        **_each(stalls, lasts=True),
        "in the middle of a reply to MAIL": Case({"MAIL": then(b"250 O", stalls)}, lasts=True),
        "in the middle of the final reply": Case({"end": then(b"250-still\r\n", stalls)}, True),
        "in the middle of the content": Case({"DATA": then(GO, freezes)}, content=LARGE, lasts=True),
    },
}


@dataclass
class Scene:
    """One relay with many upstreams: the hostile ones, and `well`, which takes all other mail."""

    relay: Relay
    well: Upstream
    hosts: dict[str, Hostile] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    _others: int = 0

    def set_up(self, acts: Mapping[str, Mapping[str, Act]], **settings: object) -> None:
        usual: dict[str, object] = {"end_of_data_timeout_seconds": 1, "retry_delays_seconds": [600]}
        tables = [self.well.table(name="well", default=True)]
        rules = ""
        for number, (name, host_acts) in enumerate(acts.items()):
            host = self.hosts[name] = Hostile(acts=host_acts)
            tables.append(host.table(name=f"hostile-{number}", **(usual | settings)))
            rules += f'[[rules]]\nname = "to-{number}"\nrecipient = "{_domain(number)}"\n'
            rules += f'relays = ["hostile-{number}"]\n'
        tables[-1] += "\n" + rules
        self.relay.configure(*tables).start()

    def send(self, contents: Mapping[str, bytes]) -> None:
        for number, (name, content) in enumerate(contents.items()):
            self.ids[name] = self.relay.send(content, to=(f"you@{_domain(number)}",))

    def others_flow(self) -> None:
        for _ in range(OTHERS):
            self.relay.send()
        self._others += OTHERS
        until(lambda: len(self.well.delivered) == self._others, "mail of the host that is well flows", 10.0)

    def told(self, name: str, *events: str) -> bool:
        return any(self.relay.said(event, id=self.ids[name]) for event in events)

    def until_told(self, names: Any, *events: str) -> None:
        for name in names:
            until(lambda name=name: self.told(name, *events), f"{name}: {events} is told")

    def memory_bytes(self) -> int:
        status = Path(f"/proc/{self.relay.pid_of('delivery')}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) << 10


def _domain(number: int) -> str:
    return f"h{number}.example"


@pytest.fixture
def scene(relay: Relay, upstream: Upstream) -> Iterator[Scene]:
    one = Scene(relay, upstream)
    yield one
    relay.kill()
    for host in one.hosts.values():
        host.close()


@pytest.mark.parametrize("pipelining", ["auto", pytest.param("off", marks=pytest.mark.long)])
@pytest.mark.parametrize("group", GROUPS)
def test_nothing_is_lost_and_others_flow(scene: Scene, group: str, pipelining: str) -> None:
    cases = GROUPS[group]
    scene.set_up({name: case.acts for name, case in cases.items()}, pipelining=pipelining)
    memory_bytes = scene.memory_bytes()
    scene.send({name: case.content for name, case in cases.items()})
    scene.others_flow()
    scene.until_told([name for name in cases if not cases[name].lasts], "retrying", "uncertain")
    for name in cases:
        until(lambda name=name: scene.hosts[name].connections, f"{name}: it was tried")
    scene.others_flow()
    assert scene.memory_bytes() - memory_bytes < MEMORY_MORE_BYTES_MAX
    assert not [name for name in cases if scene.told(name, "delivered", "failed")]

    for host in scene.hosts.values():
        host.recover()
    scene.until_told(cases, "retrying", "uncertain")
    scene.relay.cli("queue", "flush")
    scene.until_told(cases, "delivered")
    scene.others_flow()
    assert {name: len(host.received) for name, host in scene.hosts.items()} == dict.fromkeys(cases, 1)
    for name, host in scene.hosts.items():
        assert host.delivered[0].content.endswith(cases[name].content), f"{name}: it is whole"
    told = {name for name in cases if scene.told(name, "uncertain")}
    assert told == {name for name, case in cases.items() if case.uncertain}
    if group != "421":  # there the host has told that it does not keep what it has seen
        seen = {name for name in cases if scene.hosts[name].seen}
        assert seen <= told, "a second copy is one that the relay has named"


UNCERTAIN = {
    "closes": Case({"end": closes}, True),
    "stalls": Case({"end": stalls}, True),
    "half a reply": Case({"end": then(b"250-still\r\n", closes)}, True),
    "354": Case({"end": GO}, True),
    "line without end": Case({"end": GIGABYTES}, True),
}


def test_lost_final_reply_held_for_a_person(scene: Scene) -> None:
    scene.set_up({name: case.acts for name, case in UNCERTAIN.items()}, uncertain_policy="hold")
    scene.send({name: case.content for name, case in UNCERTAIN.items()})
    scene.until_told(UNCERTAIN, "uncertain")
    for host in scene.hosts.values():
        host.recover()
    until(lambda: len(scene.relay.queue("--state", "held")) == len(UNCERTAIN), "all are held")
    scene.relay.cli("queue", "flush")
    scene.others_flow()
    assert not any(host.received for host in scene.hosts.values()), "a flush is not a person's decision"
    for message_id in scene.ids.values():
        assert scene.relay.json("queue", "release", message_id)["changed"] == 1
    scene.until_told(UNCERTAIN, "delivered")
    assert [len(host.received) for host in scene.hosts.values()] == [1] * len(UNCERTAIN)


def test_lost_final_reply_given_up(scene: Scene) -> None:
    scene.set_up({name: case.acts for name, case in UNCERTAIN.items()}, uncertain_policy="give_up")
    scene.send({name: case.content for name, case in UNCERTAIN.items()})
    scene.until_told(UNCERTAIN, "uncertain")
    for host in scene.hosts.values():
        host.recover()
    until(lambda: len(scene.relay.queue("--state", "gave up")) == len(UNCERTAIN), "all are given up and kept")
    scene.relay.cli("queue", "flush")
    scene.others_flow()
    assert not any(host.received for host in scene.hosts.values()), "there is no second copy"


STORM = 50


def test_a_storm_of_421_burns_no_attempt(scene: Scene) -> None:
    """Not one retry is allowed, and still nothing fails: 421 says nothing about the mail."""
    acts = {step: {step: then(b"421 4.3.2 Too busy\r\n", closes)} for step in STEPS}
    scene.set_up(acts, max_retries=0, retry_delays_seconds=[0.2])
    ids = []
    with scene.relay.client() as client:
        for number in range(STORM):
            recipients = [f"u{number}@{_domain(host)}" for host in range(len(STEPS))]
            client.mail("me@example.org")
            for recipient in recipients:
                client.rcpt(recipient)
            code, text = client.data(HELLO)
            assert code == 250
            ids.append(text.decode().split()[-1])
    for host in scene.hosts.values():
        until(lambda host=host: host.connections > STORM, "each was tried again and again")
    scene.others_flow()
    assert not scene.relay.said("failed")
    for host in scene.hosts.values():
        host.acts = None  # and nothing is cut: that could make mail uncertain
    for host in scene.hosts.values():
        until(lambda host=host: len(host.delivered) >= STORM, "all are delivered")
        assert sorted(each.recipients[0].partition("@")[0] for each in host.delivered) == sorted(
            f"u{number}" for number in range(STORM)
        )
    assert not scene.relay.said("uncertain")


DIRT = b"\xff\xfe\xc3( \x1b[31mred\x1b[0m \x07\x08\x00\x7f \xc2\x85\xe2\x80\xae<script>=1+1\rx"
"""Invalid UTF-8, terminal escapes, NUL, a new line by another name, text from right to left, a bare CR."""


def test_words_of_a_host_are_clean_where_people_read_them(scene: Scene) -> None:
    acts: dict[str, Mapping[str, Act]] = {
        f"{code} {step}": {step: b"%d-4.3.0 %s\r\n%d %s\r\n" % (code, DIRT, code, DIRT)}
        for step in STEPS
        for code in (451, 554)
    }
    acts["250 end"] = {"end": b"250 2.0.0 " + DIRT + b"\r\n"}
    acts["no code"] = {"MAIL": DIRT + b"\r\n"}
    scene.set_up(acts)
    scene.send(dict.fromkeys(acts, HELLO))
    scene.until_told(acts, "retrying", "delivered", "failed")
    relay = scene.relay
    read = [*_strings(relay.log), relay.cli("queue", "list"), relay.cli("history")]
    for message_id in scene.ids.values():
        shown = partial(relay.cli_result, "history", "show", message_id)
        until(lambda shown=shown: shown().returncode == 0, "history knows it")
        read.append(shown().stdout.decode())
    dirty = [text for text in read if any(not c.isprintable() for c in text.replace("\n", ""))]
    assert not dirty
    assert any("<script>" in text for text in read), "the words themselves are there"


def _strings(value: object) -> Iterator[str]:
    """Every text within a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield key
            yield from _strings(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _strings(each)
