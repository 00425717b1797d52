"""The machine fails the supervisor itself: it tries again, or ends in one line; nobody is left behind."""

from __future__ import annotations

import errno
import os
import resource
import signal

import pytest

BRIEFLY = [errno.EMFILE, errno.EAGAIN, errno.EIO]
FOR_EVER = [errno.EMFILE] * 1000


def test_a_start_that_fails_for_a_moment_is_tried_again(launch) -> None:
    relay = launch(prepare_fails=BRIEFLY)
    relay.expect("ready")
    faults = [event for event in relay.events if event["event"] == "supervisor_fault"]
    assert len(faults) == len(BRIEFLY)
    assert all("as it was told" in fault["why"] and "again_in_s" in fault for fault in faults)
    os.kill(relay.popen.pid, signal.SIGTERM)
    assert relay.end() == 0


def test_a_start_that_goes_on_failing_ends_with_71(launch) -> None:
    relay = launch(prepare_fails=FOR_EVER, patience_s=0.2)
    assert relay.end() == os.EX_OSERR
    assert relay.events[-2]["event"] == "supervisor_fault"
    assert "as it was told" in relay.events[-2]["why"]
    assert relay.events[-1] == {"event": "stopped", "code": str(os.EX_OSERR)}


def test_what_waiting_does_not_help_is_not_waited_for(launch) -> None:
    relay = launch(prepare_fails=[errno.ENOTDIR])
    assert relay.end() == os.EX_OSERR
    assert [event["event"] for event in relay.events] == ["supervisor_fault", "stopped"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_start_that_waits_can_be_stopped(launch, number: signal.Signals) -> None:
    relay = launch(prepare_fails=FOR_EVER, patience_s=1000.0)
    relay.expect("supervisor_fault")
    os.kill(relay.popen.pid, number)
    assert relay.end() == 0


@pytest.mark.parametrize("call", ["FolderLock", "held_by"])
def test_a_lock_that_cannot_be_looked_at_once_is_looked_at_again(launch, call: str) -> None:
    sabotage = f"""
from dispatch.runtime import supervisor as sabotaged
real, failing = sabotaged.{call}, [{errno.ENFILE}]
def fails(path):
    if failing:
        raise OSError(failing.pop(), "as it was told", str(path))
    return real(path)
sabotaged.{call} = fails
"""
    relay = launch(sabotage=sabotage)
    assert "lock" in relay.expect("supervisor_fault")["why"]
    relay.expect("ready")
    os.kill(relay.popen.pid, signal.SIGTERM)
    assert relay.end() == 0


def test_without_a_descriptor_for_its_own_pipes_it_says_so(launch) -> None:
    sabotage = "import os\ndef pipe2(flags):\n    raise OSError(24, 'none left')\nos.pipe2 = pipe2"
    relay = launch(sabotage=sabotage)
    assert relay.end() == os.EX_OSERR
    assert "none left" in relay.events[0]["why"]


def test_a_child_that_cannot_be_forked_is_started_later(launch) -> None:
    sabotage = f"""
from dispatch.runtime import process
real, failing = process.subprocess.Popen, [{errno.EAGAIN}, {errno.ENOMEM}]
def fails(*given, **named):
    if failing:
        raise OSError(failing.pop(), "as it was told")
    return real(*given, **named)
process.subprocess.Popen = fails
"""
    relay = launch(sabotage=sabotage)
    relay.expect("ready")
    assert len([e for e in relay.events if e["event"] == "child_died" and "as it was told" in e["why"]]) == 2
    os.kill(relay.popen.pid, signal.SIGTERM)
    assert relay.end() == 0


def test_a_child_that_died_while_descriptors_are_short_comes_back_when_they_are_not(launch) -> None:
    relay = launch()
    relay.expect("ready")
    supervisor = relay.popen.pid
    limits = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    # As many as it waits for: below that, even waiting is refused.
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (4, limits[1]))
    pid = [e["pid"] for e in relay.events if e["event"] == "child_started" and e["role"] == "intake"][-1]
    os.kill(int(pid), signal.SIGKILL)
    for _ in range(10):
        # More often than a start may fail: once it has worked, nobody gives up.
        while "Too many open files" not in relay.expect("child_died", role="intake").get("why", ""):
            continue
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, limits)
    relay.expect("child_ready", role="intake")
    os.kill(supervisor, signal.SIGTERM)
    assert relay.end() == 0
    assert relay.names("gave_up", "supervisor_fault") == []


def test_a_fault_while_it_serves_is_one_line_and_leaves_no_child(launch) -> None:
    sabotage = f"""
from dispatch.runtime import notify
def fails(*given):
    raise OSError({errno.ENOMEM}, "as it was told")
def from_now_on(message):
    os.waitid = fails
notify.notify = from_now_on
"""
    relay = launch(sabotage=sabotage)
    relay.expect("ready")
    # It looks for the dead at least once a second. Its end is that of all that hold its output.
    assert relay.end() == os.EX_OSERR
    assert "as it was told" in next(e for e in relay.events if e["event"] == "supervisor_fault")["why"]
    assert sorted(relay.names("child_ended")) == [
        ("child_ended", "control"),
        ("child_ended", "delivery"),
        ("child_ended", "intake"),
    ]
    assert relay.names("child_killed") == []


def test_after_a_fault_a_child_that_hangs_is_killed(launch) -> None:
    sabotage = f"""
from dispatch.runtime import notify
def fails(message):
    if message.startswith("STOPPING"):
        raise OSError({errno.EIO}, "as it was told")
notify.notify = fails
limits = SupervisorLimits(pace=limits.pace, hurry_s=0.2, abort_s=5.0)
"""
    relay = launch(sabotage=sabotage, control=["hangs"])
    relay.expect("ready")
    os.kill(relay.popen.pid, signal.SIGHUP)
    relay.expect("reload", who="control")
    os.kill(relay.popen.pid, signal.SIGTERM)
    assert relay.end() == os.EX_OSERR
    assert ("child_killed", "control") in relay.names("child_killed")
    assert next(e for e in relay.events if e["event"] == "child_ended" and e["role"] == "control")["how"] == (
        "SIGKILL"
    )
