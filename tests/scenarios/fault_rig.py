"""One relay under the shim, whose calls fail one after the other while it serves, and the books of both ends.

Every message has a token. To its client it was acknowledged, refused, or remained unanswered; `audit`
compares that with what arrived and with what the ledger calls uncertain.
"""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from tests.scenarios.audit import read_ledger
from tests.scenarios.faults import (
    CAPTURED_DOMAIN,
    LATER_DOMAIN,
    PATIENCE_S,
    SMALL,
    Answer,
    Journey,
    Point,
    offer,
    points_of,
)
from tests.scenarios.relay import ROLES, Relay, until
from tests.scenarios.upstream import Upstream
from tests.shim.control import Rule, Shim, Where

from dispatch.app.folders import CAPTURED, Folders
from dispatch.observe import EVENTS
from dispatch.relays.capture_store import read_captured
from dispatch.runtime.machine import SystemDisk

_TOKEN = re.compile(rb"X-Token: (\d+)\r\n")
_ID = re.compile(rb"\bid (spl_[0-9a-f]{32})")
ARRIVES_S = 60.0
SETTLED_S = 0.2
"""A call that has not come so long after everything was done does not come with this message."""
TOLD_S = 3.0
"""Whatever lasts is told of by then: logs are looked at each second."""
SHOWN = {"denied", "retrying"} | {
    name for name, event in EVENTS.items() if event.level in ("warning", "error")
}
_RULES = f'[[rules]]\nname = "keep"\nrecipient = "{CAPTURED_DOMAIN}, *.{CAPTURED_DOMAIN}"\nrelays = ["inbox"]'
_SETTINGS = {
    "listener": {"max_recipients": 10_000},
    # Small, so that the next message may need a new one; a short wait, so that what was deferred comes soon.
    "spool": {"segment_mb": 1, "retry_delays_seconds": [0.05]},
    "logging": {"log_delivered": False},
}


class Seen(NamedTuple):
    """What one fault led to."""

    fired: int
    """Calls that failed; none where the call did not come this time."""
    answers: frozenset[int]
    said: frozenset[str]
    """Log events that an operator should look at."""
    waited: bool = False
    """A client had no answer until it was over."""


class Rig:
    def __init__(self, relay: Relay, upstream: Upstream, shim: Shim) -> None:
        self.relay = relay
        self.upstream = upstream
        self.shim = shim
        self.acknowledged: dict[int, str] = {}
        """Token to id."""
        self.refused: dict[int, Answer] = {}
        self.unanswered: set[int] = set()
        self._contents: dict[int, bytes] = {}
        self._disk = SystemDisk(relay.data)
        self._collected = 0
        self._captured: set[str] = set()
        self._arrived: Counter[int] = Counter()
        self._ids: dict[int, set[str]] = defaultdict(set)
        """Token to the ids under which it arrived."""
        self._deferred: set[str] = set()
        self._restless_s = 0.0

    @classmethod
    @contextmanager
    def made(cls, folder: Path, *, started: bool = True) -> Iterator[Rig]:
        relay = Relay(folder / "relay")
        upstream = Upstream()
        with Shim.on_tmpfs(relay.data, journaling=False) as shim:
            rig = cls(relay, upstream, shim)
            upstream.script = rig._script
            inbox = f'name = "inbox"\nkind = "capture"\n{_RULES}'
            relay.configure(upstream.table(default=True), inbox, **_SETTINGS)
            relay.environment.update(shim.environment())
            try:
                if started:
                    relay.start()
                yield rig
            finally:
                relay.kill()
                upstream.close()

    def _script(self, step: str, argument: str, count: int) -> str | None:
        if step == "RCPT" and LATER_DOMAIN in argument and argument not in self._deferred:
            self._deferred.add(argument)
            return "451 4.3.0 Later"
        return None

    # ------------------------------------------------------------ mail

    def send(self, journey: Journey) -> Answer:
        """One message of it."""
        token = len(self._contents) + 1
        head = f"X-Token: {token}\r\nSubject: {journey.name}\r\n\r\n"
        content = self._contents[token] = head.encode() + journey.content
        answer = offer(self.relay.port, "me@example.org", _recipients(journey, token), content)
        if answer.accepted:
            self.acknowledged[token] = answer.text.split()[-1]
        elif answer.code:
            assert 400 <= answer.code < 500, f"{journey.name}: {answer}"
            self.refused[token] = answer
        elif answer.whole:
            self.unanswered.add(token)
        return answer

    def send_all(self, journey: Journey) -> list[Answer]:
        if journey.fresh:
            self.upstream.stop()
            self.upstream.start()
        return [self.send(journey) for _ in range(journey.messages)]

    def arrived(self) -> Counter[int]:
        """Token to how often it came to the upstream and was answered 250, or was captured."""
        received = self.upstream.received
        while self._collected < len(received) and received[self._collected].answer is not None:
            each = received[self._collected]
            self._collected += 1
            self._take(each.content)
            each.content = b""
        for file in (self.relay.data / CAPTURED).glob("*.captured"):
            if file.name not in self._captured:
                self._captured.add(file.name)
                self._take(read_captured(self._disk, CAPTURED, file.stem)[1])
        return self._arrived

    def _take(self, content: bytes) -> None:
        token, message_id = _TOKEN.search(content), _ID.search(content)
        assert token is not None and message_id is not None, content[:1000]
        number = int(token[1])
        assert content.endswith(self._contents[number]), f"message {number} was changed"
        self._arrived[number] += 1
        self._ids[number].add(message_id[1].decode())

    def missing(self) -> set[int]:
        """What was acknowledged and has not arrived."""
        return self.acknowledged.keys() - self.arrived().keys()

    def goes_on(self) -> None:
        """The next message is accepted, and delivered without a restart."""

        def accepted() -> int | None:
            return max(self.acknowledged) if self.send(SMALL).accepted else None

        token = until(accepted, "mail is accepted again", PATIENCE_S)
        until(lambda: self.arrived()[token], "the next message is delivered", PATIENCE_S)

    def settled_for(self, settled_s: float) -> bool:
        """Whether everything has arrived, and history knows it, for so long."""
        now_s = time.monotonic()
        if self.missing() or not self._followed():
            self._restless_s = now_s
        return now_s - self._restless_s > settled_s

    def _followed(self) -> bool:
        folders = Folders(self.relay.data)
        return len({mark.read_bytes()[:8] for mark in (folders.ledger_durable, folders.followed)}) == 1

    # ------------------------------------------------------------ faults

    def points(self, journey: Journey) -> list[Point]:
        """Send it while all is well, and list the calls that the processes make for it."""
        pids = {role: self.relay.pid_of(role) for role in ROLES}
        self.shim.start_recording(*pids.values())
        answers = self.send_all(journey)
        assert all(answer.accepted for answer in answers), answers
        self._restless_s = time.monotonic()
        until(lambda: self.settled_for(SETTLED_S), "everything has arrived")
        return [point for role, pid in pids.items() for point in points_of(role, self.shim.calls(pid))]

    def arm(self, point: Point, error: int, *, lasting: bool = False) -> Rule:
        site = point.site
        if site.target.where is Where.ELSEWHERE:
            # Only of processes that are recorded does the shim ask for such paths.
            self.shim.start_recording(self.relay.pid_of(site.role))
        return self.shim.arm(
            site.role,
            {site.kind},
            point.nth,
            error,
            lasting=lasting,
            where=site.target.where,
            path=site.target.part,
        )

    def fault(self, point: Point, error: int, journey: Journey) -> Seen:
        """The call fails once while the journey is sent; then all must be well again."""
        since = self.relay.mark()
        rule = self.arm(point, error)
        answers = self.send_all(journey)
        self._restless_s = time.monotonic()
        until(
            lambda: rule.fired or self.settled_for(SETTLED_S),
            f"the call has failed or does not come: {point}",
            pause_s=0.005,
        )
        return self._seen([rule], answers, since)

    def lasting(
        self, arm: Callable[[], list[Rule]], journeys: Collection[Journey], events: Collection[str]
    ) -> Seen:
        """Calls fail while mail is sent, and until the log has one of these events; then all must be well."""
        self._restless_s = time.monotonic()
        until(lambda: self._told_well() and self.settled_for(0), "all is well, and the log says so")
        since = self.relay.mark()
        rules = arm()
        answers: list[Answer] = []
        # Beside us, for who waits for an answer until it is over.
        client = Thread(target=lambda: [answers.extend(self.send_all(journey)) for journey in journeys])
        client.start()
        deadline_s = time.monotonic() + TOLD_S
        while time.monotonic() < deadline_s and (client.is_alive() or self.said(since).isdisjoint(events)):
            time.sleep(0.02)
        waited = client.is_alive()
        for rule in rules:
            rule.disarm()
        client.join(PATIENCE_S)
        assert not client.is_alive(), "the session hangs"
        return self._seen(rules, answers, since)._replace(waited=waited)

    def _seen(self, rules: list[Rule], answers: list[Answer], since: int) -> Seen:
        for rule in rules:
            rule.disarm()
        self.goes_on()
        dead = self.relay.said("child_died", since=since)
        assert not dead, f"a process died: {dead}"
        codes = frozenset(answer.code for answer in answers)
        return Seen(sum(rule.fired for rule in rules), codes, self.said(since))

    def said(self, since: int) -> frozenset[str]:
        """Events that an operator should look at, or that tell why mail waits."""
        events = {str(line["event"]) for line in self.relay.log[since:]}
        return frozenset(event for event in events if event in SHOWN or event not in EVENTS)

    def _told_well(self) -> bool:
        last = {
            (line["process"], line["log"]): line["event"]
            for line in self.relay.log
            if line["event"] in ("log_fault", "log_well")
        }
        return "log_fault" not in last.values()

    # ------------------------------------------------------------ the end

    def audit(self) -> None:
        """All that was acknowledged has arrived, nothing else has, and the logs are sound."""
        self.shim.disarm()
        until(lambda: not self.missing(), "all that was acknowledged arrives", ARRIVES_S)
        until(lambda: not self.relay.queue(), "nothing waits")
        assert self.relay.stop() == 0
        assert not list(self.relay.data.glob("*.damaged*")), "a database was taken for damaged"
        self.relay.cli("spool", "verify")
        self.relay.cli("ledger", "verify")
        arrived = self.arrived()
        assert not arrived.keys() & self.refused.keys(), "what was refused was delivered"
        assert not arrived.keys() - self.acknowledged.keys() - self.unanswered, "what was cut was delivered"
        uncertain = read_ledger(self.relay.data).uncertain
        allowed = {token: 1 + sum(uncertain[name] for name in self._ids[token]) for token in arrived}
        doubled = {token: count for token, count in arrived.items() if count > allowed[token]}
        assert not doubled, f"delivered more often than the ledger explains: {doubled}"


def _recipients(journey: Journey, token: int) -> list[str]:
    if journey.recipients == 1:
        return [f"m{token}@{journey.domain}"]
    # As long as addresses may be: it is about bytes.
    host = ".".join(["x" * 60, "y" * 60, "z" * 40, journey.domain])
    return [f"m{token}-{number:050d}@{host}" for number in range(journey.recipients)]
