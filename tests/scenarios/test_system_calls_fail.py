"""Every system call on a message's way fails: once with each errno that it can have, and for a while.

The client is refused for now, or notices nothing; nothing acknowledged is lost, nothing refused is delivered,
and all goes on without a restart.

`faults` finds the calls; `docs/develop/faults.md` says what follows from each.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.scenarios.fault_rig import Rig, Seen
from tests.scenarios.fault_table import NAMING, PAGE
from tests.scenarios.faults import (
    ERRORS,
    FRESH,
    GROUPS,
    KEPT,
    LARGE,
    OF_THEIR_OWN,
    PARKED,
    PARKED_PILE,
    ROLL,
    SMALL,
    SOCKET_ERRORS,
    Group,
    Journey,
    Point,
    Site,
    kinds_with,
)
from tests.scenarios.relay import ROLES, until
from tests.shim.build import NoCompiler, built
from tests.shim.control import Kind, Rule, Where

from dispatch.app.folders import Folders

CALLS_MAX = 40
"""Of one kind about one target, for one journey: a database written page by page tells nothing new."""
TRIES = 3
"""So often a journey is sent until a call comes that is not made for every message."""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    try:
        built()
    except NoCompiler as missing:
        pytest.skip(str(missing))
    with Rig.made(tmp_path) as one:
        yield one


def points_to_fail(rig: Rig, journey: Journey) -> list[Point]:
    """The calls that are made for every such message."""
    rig.send_all(journey)  # with what is called once in a life
    again = {point.site for point in rig.points(journey)}
    points = [point for point in rig.points(journey) if point.site in again]
    page = PAGE.read_text()
    known = {target for group in GROUPS.values() for target in group.targets} | OF_THEIR_OWN
    for name in {point.site.target.name for point in points}:
        assert name in page, f"{PAGE.name} does not say what follows: {name}"
        assert name in known, f"no group lets fail what is about: {name}"
    return [point for point in points if not recycles(point.site)]


def recycles(site: Site) -> bool:
    """Every five seconds, whatever comes."""
    return (site.kind, site.target.name) in {
        ("rename", "spare of the mail log"),
        ("unlink", "segment of the mail log"),
    }


def fail_once(rig: Rig, point: Point, error: int, journey: Journey) -> bool:
    """Whether the call came, and failed."""
    for _ in range(TRIES):
        seen = rig.fault(point, error, journey)
        assert_right(point.site, error, seen)
        if seen.fired:
            return True
    return False


def assert_right(site: Site, error: int, seen: Seen) -> None:
    assert seen.answers <= site.right_answers(error), f"{site}, {errno.errorcode[error]}: {seen}"


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_a_call_fails_once(rig: Rig, group: Group) -> None:
    """Every site with every errno, and every call on a socket."""
    failed: dict[Site, bool] = {}
    for journey in group.journeys:
        for point in points_to_fail(rig, journey):
            site, first = point.site, point.site not in failed
            if site.target.name in group.targets and (first or site.target.where is Where.SOCKET):
                failed.setdefault(site, False)
                for error in site.errors if first else site.errors[:1]:
                    failed[site] |= fail_once(rig, point, error, journey)
    never = [str(site) for site, came in failed.items() if not came]
    assert failed and not never, f"these did not come again: {never}"
    rig.audit()


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_every_call_fails_with_every_errno(rig: Rig, group: Group) -> None:
    came = calls = 0
    for journey in group.journeys:
        for point in points_to_fail(rig, journey):
            if point.site.target.name not in group.targets or point.nth > CALLS_MAX:
                continue
            for error in point.site.errors:
                calls += 1
                seen = rig.fault(point, error, journey)
                assert_right(point.site, error, seen)
                came += seen.fired > 0
    # How calls are grouped is for chance: the last of a kind may not come again.
    assert came > 0.7 * calls
    rig.audit()


# ---------------------------------------------------------------- for a while

DISK = (errno.ENOSPC, errno.EROFS, errno.EIO)
TOLD: dict[str, dict[int, str]] = {
    "intake": {**dict.fromkeys(DISK, "log_fault"), errno.EMFILE: "denied"},
    "delivery": {**dict.fromkeys(DISK, "log_fault"), errno.EMFILE: "content_unreadable"},
    "control": dict.fromkeys(DISK, "history_fault"),
}
"""The event that names the trouble of each role. Control opens nothing while it serves."""


def arm_all(rig: Rig, role: str, error: int) -> list[Rule]:
    kinds = kinds_with(ERRORS, error)
    if role == "delivery":
        # Where it cannot read what there is to be delivered, nothing else of it is tried.
        kinds -= {"read", "list"}
    rules = [rig.shim.arm(role, kinds, 1, error, lasting=True)]
    if error == errno.EMFILE:
        # What accept does without descriptors only true ones tell: libuv keeps one in reserve.
        rules.append(rig.shim.arm(role, {"socket"}, 1, error, lasting=True))
    return rules


@pytest.mark.parametrize("role", ROLES)
def test_every_call_of_a_process_fails_for_a_while(rig: Rig, role: str) -> None:
    for error, event in TOLD[role].items():
        seen = rig.lasting(partial(arm_all, rig, role, error), (FRESH, LARGE, KEPT, PARKED), {event})
        assert seen.fired
        assert not seen.waited
        assert event in seen.said, f"{errno.errorcode[error]}: {seen}"
        right = {"intake": {452 if error == errno.ENOSPC else 451, 250}}.get(role, {250})
        assert seen.answers <= right, f"{errno.errorcode[error]}: {seen}"
    rig.audit()


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_every_site_fails_for_a_while(rig: Rig, group: Group) -> None:
    """Without its spares a log grows, which nobody needs to be told."""
    done: set[Site] = set()
    for journey in group.journeys:
        for site in {point.site for point in points_to_fail(rig, journey)} - done:
            if site.target.name not in group.targets or site.target.where is not Where.BELOW:
                continue
            done.add(site)
            for error in site.errors:
                arm = partial(rig.arm, Point(site, 1), error, lasting=True)
                seen = rig.lasting(partial(one, arm), (journey,) * TRIES, NAMING)
                assert_right(site, error, seen)
                told = seen.said or not seen.fired or (site.kind == "open" and "spare" in site.target.name)
                assert told, f"nobody was told of {site}, {errno.errorcode[error]}"
    rig.audit()


def one(arm: Callable[[], Rule]) -> list[Rule]:
    return [arm()]


def test_what_is_whole_in_a_file_that_cannot_be_synced_is_answered_when_that_is_over(rig: Rig) -> None:
    """It could still be found: until it is cut off for certain, it is neither accepted nor refused."""
    arm = partial(rig.shim.arm, "intake", {"sync"}, 1, errno.EIO, lasting=True, path="mail/0/")
    seen = rig.lasting(partial(one, arm), (SMALL,), {"log_fault"})
    assert seen.waited and seen.answers == {451} and "log_fault" in seen.said
    rig.audit()


def test_no_room_for_preparing_segments(rig: Rig) -> None:
    """What is recycled and written ahead is upkeep: without it mail flows all the same."""
    rules = [
        rig.shim.arm("delivery", {"statvfs"}, 1, errno.EIO, lasting=True),
        rig.shim.arm("intake", {"rename"}, 1, errno.EIO, lasting=True, path=".spare$"),
    ]
    for _ in range(6):
        assert rig.send(ROLL).accepted
    for log in ("ledger", "mail log"):
        until(partial(rig.relay.said, "log_upkeep_fault", log=log), f"the upkeep of the {log} fails")
    for rule in rules:
        rule.disarm()
    rig.goes_on()
    rig.audit()


def test_a_segment_that_cannot_be_recycled_is_recycled_later(rig: Rig) -> None:
    """And none behind it before: the log would look damaged."""
    folder = Folders(rig.relay.data).mail

    def segments() -> set[str]:
        return {path.name for path in folder.glob("*.segment")}

    rule = rig.shim.arm("intake", {"rename"}, 1, errno.EIO, path=".spare$")
    for _ in range(5):
        rig.send_all(ROLL)
    until(lambda: rule.fired, "segments are recycled")
    left = segments()
    for _ in range(2):
        rig.send_all(ROLL)
    until(lambda: not left & segments(), "all of them are recycled")
    rig.relay.cli("spool", "verify")
    rig.audit()


@pytest.mark.parametrize("kind", ["read", "open", "list"])
def test_delivery_cannot_read_the_mail_log(rig: Rig, kind: Kind) -> None:
    """Mail is accepted and waits; that is told as what it is, once."""
    since = rig.relay.mark()
    arm = partial(rig.shim.arm, "delivery", {kind}, 1, errno.EIO, lasting=True, path="mail/0")
    seen = rig.lasting(partial(one, arm), (ROLL, SMALL), {"log_fault"})
    assert seen.fired and seen.answers == {250}
    (told,) = rig.relay.said("log_fault", since=since)
    assert (told["process"], told["log"]) == ("delivery", "mail log")
    assert os.strerror(errno.EIO) in told["why"]
    until(lambda: rig.relay.said("log_well", since=since), "it is told that this is over")
    assert not rig.relay.said("connection_fault")
    rig.audit()


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for a while"])
def test_a_history_that_cannot_be_read_is_not_taken_for_a_damaged_one(rig: Rig, lasting: bool) -> None:
    """SQLite does not keep the two apart."""
    assert all(answer.accepted for answer in rig.send_all(KEPT))
    for nth in (2, 4, 6):
        assert rig.relay.stop() == 0
        rule = rig.shim.arm("control", {"read"}, nth, errno.EIO, lasting=lasting, path="history.db$")
        since = rig.relay.mark()
        rig.relay.start(wait=False)
        until(lambda rule=rule: rule.fired, "history is read")
        assert rig.send(KEPT).accepted
        if lasting:
            until(lambda since=since: {"history_fault", "child_died"} & rig.said(since), "it is told")
        rule.disarm()
        rig.goes_on()
        until(lambda: rig.settled_for(0.0), "history knows it")
    assert rig.relay.json("stats", "--days", "2")["total"]["received"] == len(rig.acknowledged)
    rig.audit()


def test_databases_cannot_be_brought_up_to_date(rig: Rig) -> None:
    """What their write-ahead logs hold does not come into the databases: the next commit tries again."""
    kinds: set[Kind] = {"write", "sync"}
    files = {"delivery": ("parked.db", (PARKED_PILE,)), "control": ("history.db", (ROLL,) * 6)}
    for role, (name, journeys) in files.items():
        rule = rig.shim.arm(role, kinds, 1, errno.EIO, lasting=True, path=f"{name}$")
        for journey in journeys:
            assert all(answer.accepted for answer in rig.send_all(journey))
        until(partial(getattr, rule, "fired"), f"{name} is brought up to date")
    rig.goes_on()
    assert not rig.relay.said("child_died")
    rig.audit()


def test_the_disk_cannot_be_asked_for_its_room(rig: Rig) -> None:
    rule = rig.shim.arm("intake", {"statvfs"}, 1, errno.EIO, lasting=True)
    settings = rig.relay.config.read_text()
    rig.relay.config.write_text(settings.replace("[spool]", "[spool]\ndisk_warn_mb = 2000"))
    rig.relay.reload()
    until(lambda: rig.relay.said("disk_level", level="suspended"), "it is noticed")
    assert rig.send(SMALL).code == 452
    rule.disarm()
    rig.relay.config.write_text(settings)
    rig.relay.reload()
    rig.goes_on()
    rig.audit()


# ---------------------------------------------------------------- once in a life


def test_calls_that_are_made_once_fail(tmp_path: Path) -> None:
    """The first socket between two processes, the first look into a log, the first captured message."""
    try:
        built()
    except NoCompiler as missing:
        pytest.skip(str(missing))
    journeys = (FRESH, KEPT)
    with Rig.made(tmp_path / "to learn") as rig:
        first = [point.site for journey in journeys for point in rig.points(journey)]
        again = {point.site for journey in journeys for point in rig.points(journey)}
    once = [site for site in dict.fromkeys(first) if site not in again]
    assert {site.kind for site in once} >= {"open", "mkdir"}
    with Rig.made(tmp_path / "to fail") as rig:
        rules = {site: rig.arm(Point(site, 1), site.errors[0]) for site in once}
        for journey in journeys:
            assert all(answer.accepted for answer in rig.send_all(journey))
        rig.goes_on()
        until(lambda: rig.settled_for(1.0), "all that could fail has failed")
        # Who looks first is for chance: not each of them comes in each life.
        assert 2 * sum(rule.fired for rule in rules.values()) > len(rules)
        rig.goes_on()
        assert not rig.relay.said("child_died")
        rig.audit()


# ---------------------------------------------------------------- descriptors, truly


def limit_descriptors(rig: Rig, role: str, more: int) -> tuple[int, int]:
    """The process may open so many more; what it was allowed before."""
    pid = rig.relay.pid_of(role)
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    numbers = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    free = (number for number in range(max(numbers) + more + 2) if number not in numbers)
    last = [next(free) for _ in range(more + 1)][-1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (last, limits[1]))
    return limits


def test_no_descriptors_are_left(rig: Rig) -> None:
    rig.points(SMALL)
    limits = limit_descriptors(rig, "intake", 3)
    here = ("127.0.0.1", rig.relay.port)
    clients = [socket.create_connection(here, timeout=10) for _ in range(10)]
    greetings = []
    for client in clients:
        try:
            greetings.append(client.recv(200))
        except ConnectionResetError:
            greetings.append(b"")
    assert 1 <= sum(greeting.startswith(b"220 ") for greeting in greetings) <= 3
    assert greetings.count(b"") >= 7, "the others are cut at once, and do not wait"
    assert len(rig.relay.said("accept_fault", process="intake")) == 1
    served = next(client for client, greeting in zip(clients, greetings, strict=True) if greeting)
    served.sendall(b"NOOP\r\n")
    assert served.recv(200).startswith(b"250 ")
    for client in clients:
        client.close()
    resource.prlimit(rig.relay.pid_of("intake"), resource.RLIMIT_NOFILE, limits)
    rig.goes_on()
    until(lambda: rig.relay.said("accept_well"), "it is told that this is over")

    since = rig.relay.mark()
    limits = limit_descriptors(rig, "delivery", 0)
    for journey in (FRESH, KEPT, LARGE):
        assert all(answer.accepted for answer in rig.send_all(journey))
    until(lambda: {"retrying", "content_unreadable"} <= rig.said(since), "delivery has none")
    resource.prlimit(rig.relay.pid_of("delivery"), resource.RLIMIT_NOFILE, limits)
    rig.goes_on()
    assert not rig.relay.said("child_died")
    rig.audit()


def test_connections_that_cannot_be_accepted_stop_nobody_else(rig: Rig) -> None:
    with rig.relay.client() as client:
        rule = rig.shim.arm("intake", {"accept"}, 1, errno.ENOBUFS, lasting=True)
        with socket.create_connection(("127.0.0.1", rig.relay.port), timeout=10) as waiting:
            until(lambda: rule.fired >= 3, "the connection cannot be accepted")
            assert client.noop()[0] == 250
            (told,) = rig.relay.said("accept_fault")
            assert told["port"] == rig.relay.port and told["why"] == os.strerror(errno.ENOBUFS)
            rule.disarm()
            assert rule.fired < 20, "it is not asked again at once"
            assert waiting.recv(200).startswith(b"220 "), "nor is it lost"
    rig.goes_on()
    until(lambda: rig.relay.said("accept_well"), "it is told that this is over")
    rig.audit()


# ---------------------------------------------------------------- at the start

START_CALLS_MAX = 25
"""Of one kind; a recovery that reads a long log makes more of the same."""
STARTING: dict[Kind, Where] = {
    **dict.fromkeys(ERRORS, Where.BELOW),
    "socket": Where.SOCKET,
    "connect": Where.SOCKET,
}


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", STARTING)
@pytest.mark.parametrize("role", [*ROLES, "serve"])
def test_every_call_fails_while_a_process_starts(rig: Rig, role: str, kind: Kind) -> None:
    """With mail in every place. A process that dies of it is started again; a supervisor that must give up
    says why, and all comes up when it is started without the fault."""
    errors = (SOCKET_ERRORS if STARTING[kind] is Where.SOCKET else ERRORS)[kind]
    for nth in range(1, START_CALLS_MAX):
        came = [start_with(rig, role, kind, nth, error) for error in errors]
        if not any(came):
            break
        if nth == 1:
            for error in errors:
                start_with(rig, role, kind, nth, error, lasting=True)
    rig.audit()


def start_with(rig: Rig, role: str, kind: Kind, nth: int, error: int, *, lasting: bool = False) -> bool:
    """Whether the call came."""
    relay = rig.relay
    rig.upstream.stop()
    rig.send(SMALL)  # will be parked
    blind = rig.shim.arm("delivery", {"read", "open", "list"}, 1, errno.EIO, lasting=True, path="mail/0")
    for journey in (SMALL, LARGE):
        rig.send(journey)  # will stay in the log
    relay.kill()
    blind.disarm()
    rig.upstream.start()
    since = relay.mark()
    rule = rig.shim.arm(role, {kind}, nth, error, lasting=lasting, where=STARTING[kind])

    def ready_or_over() -> bool:
        return bool(relay.said("ready", since=since)) or not relay.running

    relay.start(wait=False)
    until(lambda: ready_or_over() or rule.fired >= ENOUGH, "it starts")
    rule.disarm()
    until(ready_or_over, "it comes up")
    if not relay.running:
        code = relay.ended()
        # The data folder alone is made, or not, before there is anybody who would try again.
        alone = not lasting and code != os.EX_CANTCREAT
        assert not alone, f"one fault ended it all: {kind} {nth} {errno.errorcode[error]}"
        assert code != os.EX_CONFIG, "nobody has made a mistake"
        assert rig.said(since), "why it does not start is told"
        relay.start()
    assert not relay.said("port_refused", since=since), "nobody else has the port"
    rig.goes_on()
    return rule.fired > 0


ENOUGH = 4
"""A call that failed so often has failed for a while: the process has been started again meanwhile."""
