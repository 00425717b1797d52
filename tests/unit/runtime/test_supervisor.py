"""The life of the processes: real ones, waited for through their own reports."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from dispatch.runtime.locks import LOCK_NAME, held_by
from dispatch.runtime.process import ChildPace, ChildProcess, ChildSpec


def kill(pid: str | int, number: signal.Signals) -> None:
    os.kill(int(pid), number)


def test_all_roles_become_ready_and_the_ready_callback_is_called_once(launch) -> None:
    relay = launch()
    relay.expect("ready")
    relay.expect("banner")
    assert [role for _, role in relay.names("child_started")] == ["delivery", "intake", "control"]
    kill(relay.popen.pid, signal.SIGTERM)
    assert relay.end() == 0
    assert len(relay.names("banner")) == 1


def test_a_killed_child_is_started_again_and_the_others_are_left_alone(launch) -> None:
    relay = launch()
    relay.expect("ready")
    pid = pid_of(relay, "delivery")
    kill(pid, signal.SIGKILL)
    assert relay.expect("child_died")["how"] == "SIGKILL"
    again = relay.expect("child_ready", role="delivery")
    assert int(again["pid"]) != pid
    kill(relay.popen.pid, signal.SIGTERM)
    assert relay.end() == 0
    assert len(relay.names("child_started")) == 4


def test_sigterm_drains_intake_then_delivery_then_control(launch) -> None:
    relay = launch()
    relay.expect("ready")
    kill(relay.popen.pid, signal.SIGTERM)
    assert relay.end() == 0
    steps = relay.names("drain", "close", "child_ended")
    assert steps == [
        (step, role)
        for role in ("intake", "delivery", "control")
        for step in ("drain", "close", "child_ended")
    ]


def test_a_sigterm_for_the_whole_group_still_ends_in_order_and_cleanly(launch) -> None:
    relay = launch()
    relay.expect("ready")
    os.killpg(relay.popen.pid, signal.SIGTERM)
    assert relay.end() == 0
    assert sorted(relay.names("drained")) == [("drained", r) for r in ("control", "delivery", "intake")]
    assert relay.names("child_restarts", "child_fatal") == []


def test_ctrl_c_is_left_to_the_supervisor(launch) -> None:
    relay = launch()
    relay.expect("ready")
    os.killpg(relay.popen.pid, signal.SIGINT)
    assert relay.end() == 0
    assert [role for _, role in relay.names("drained")] == ["intake", "delivery", "control"]


def test_sigterm_before_the_children_stand_ends_cleanly(launch) -> None:
    relay = launch(intake=["starts_for_ever"])
    relay.expect("child_started", role="control")
    kill(relay.popen.pid, signal.SIGTERM)
    assert relay.end() == 0
    assert [e["how"] for e in relay.events if e["event"] == "child_ended"] == ["exit 0"] * 3


def test_a_second_sigterm_ends_a_long_drain_at_once(launch) -> None:
    relay = launch(delivery=["drains_for_ever"], repeat_after_s=0.0, drain_s=1000.0)
    relay.expect("ready")
    kill(relay.popen.pid, signal.SIGTERM)
    relay.expect("drain", who="delivery")
    kill(relay.popen.pid, signal.SIGTERM)
    assert relay.end() == 0
    assert ("close", "delivery") in relay.names("close")
    assert ("drained", "delivery") not in relay.names("drained")


def test_a_signal_to_a_child_that_just_died_does_not_swallow_its_end(tmp_path: Path) -> None:
    lifeline, other_end = os.pipe()
    spec = ChildSpec("intake", (sys.executable, "-c", "raise SystemExit(3)"))
    child = ChildProcess(spec, tmp_path, ChildPace(), lifeline, 0.0)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    child.send(signal.SIGTERM)
    dead = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    assert dead is not None and dead.si_pid == child.pid
    assert child.ended() == 3
    child.close()
    os.close(lifeline)
    os.close(other_end)


def test_a_storm_of_signals_is_one_wish(launch) -> None:
    relay = launch(intake=["drains_when_allowed"])
    relay.expect("ready")
    for _ in range(200):
        kill(relay.popen.pid, signal.SIGHUP)
    relay.expect("child_reloaded", role="control")
    kill(relay.popen.pid, signal.SIGTERM)
    relay.expect("drain", who="intake")
    for _ in range(200):
        kill(relay.popen.pid, signal.SIGTERM)
        kill(relay.popen.pid, signal.SIGHUP)
    relay.expect("reload_forwarded")
    kill(pid_of(relay, "intake"), signal.SIGUSR1)
    assert relay.end() == 0
    assert [role for _, role in relay.names("drained")] == ["intake", "delivery", "control"]
    assert relay.names("hurried", "child_died") == []


def test_a_child_that_hangs_in_its_drain_is_killed_and_the_rest_drains(launch) -> None:
    relay = launch(intake=["hangs_in_drain"], drain_s=0.1, drain_margin_s=0.2)
    relay.expect("ready")
    kill(relay.popen.pid, signal.SIGTERM)
    assert relay.end() == os.EX_SOFTWARE
    assert relay.names("child_killed") == [("child_killed", "intake")]
    assert [role for _, role in relay.names("drained")] == ["delivery", "control"]


def test_sighup_reloads_the_role_named_for_it(launch) -> None:
    relay = launch(control=["refuses_settings"])
    relay.expect("ready")
    kill(relay.popen.pid, signal.SIGHUP)
    relay.expect("reload", who="control")
    relay.expect("reload_failed", role="control")
    kill(relay.popen.pid, signal.SIGTERM)
    assert relay.end() == 0
    assert relay.names("reload") == [("reload", "control")]


def test_what_escapes_from_a_callback_ends_the_child_and_it_is_started_again(launch) -> None:
    relay = launch(control=["throws"])
    relay.expect("ready")
    kill(relay.popen.pid, signal.SIGHUP)
    assert "escaped from a callback" in relay.expect("child_fatal", role="control")["why"]
    assert relay.expect("child_died", role="control")["how"] == f"exit {os.EX_SOFTWARE}"
    relay.expect("child_ready", role="control")


def test_a_child_whose_loop_hangs_is_aborted_and_started_again(launch) -> None:
    relay = launch(control=["hangs"], silence_s=1.5)
    relay.expect("ready")
    kill(relay.popen.pid, signal.SIGHUP)
    relay.expect("child_silent", role="control")
    assert relay.expect("child_died", role="control")["how"] == "SIGABRT"
    relay.expect("child_ready", role="control")


def test_a_machine_that_slept_has_no_silent_children(launch) -> None:
    relay = launch(silence_s=1.0, late_s=0.2)
    relay.expect("ready")
    os.killpg(relay.popen.pid, signal.SIGSTOP)
    time.sleep(2.5)  # no signal tells that time has passed
    os.killpg(relay.popen.pid, signal.SIGCONT)
    kill(relay.popen.pid, signal.SIGHUP)
    relay.expect("child_reloaded", role="control")
    kill(relay.popen.pid, signal.SIGTERM)
    assert relay.end() == 0
    assert relay.names("child_silent", "child_died") == []


def test_systemd_is_told_and_fed_and_the_children_keep_out_of_it(launch, tmp_path, monkeypatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        relay = launch()
        heard = {systemd.recv(200)}
        while f"READY=1\nMAINPID={relay.popen.pid}".encode() not in heard:
            heard.add(systemd.recv(200))
        kill(relay.popen.pid, signal.SIGTERM)
        while b"STOPPING=1" not in heard:
            heard.add(systemd.recv(200))
        assert b"WATCHDOG=1" in heard
        assert len(heard) == 3
        assert relay.end() == 0
        assert {e["systemd"] for e in relay.events if e["event"] == "environment"} == {"[]"}


def test_a_bad_configuration_stops_everything_with_78(launch) -> None:
    relay = launch(intake=["exits:78"])
    assert relay.end() == os.EX_CONFIG
    assert relay.names("child_started", "gave_up").count(("child_started", "intake")) == 1
    assert ("gave_up", "intake") in relay.names("gave_up")


def test_a_role_that_never_comes_up_stops_everything_with_its_code(launch) -> None:
    relay = launch(control=["exits:70"])
    assert relay.end() == os.EX_SOFTWARE
    assert relay.names("child_started").count(("child_started", "control")) == 3


def test_a_role_whose_lock_stays_held_stops_everything_with_75(launch) -> None:
    relay = launch(control=["exits:75"], lock_wait_s=0.3)
    assert relay.end() == os.EX_TEMPFAIL


def test_a_second_supervisor_on_the_same_data_exits_75_and_changes_nothing(launch) -> None:
    first = launch()
    first.expect("ready")
    second = launch()
    assert second.end() == os.EX_TEMPFAIL
    assert second.events[0]["event"] == "lock_held"
    assert second.events[0]["pid"] == str(first.popen.pid)
    assert first.popen.poll() is None


def test_kill_9_of_the_supervisor_ends_its_children_and_a_new_set_starts_at_once(
    launch, tmp_path: Path
) -> None:
    port = free_port()
    first = launch(ports=[port])
    first.expect("ready")
    kill(first.popen.pid, signal.SIGKILL)
    second = launch(ports=[port])
    second.expect("ready")
    # Its end needs the end of every process of the first set, for they share its output.
    assert first.end() == -signal.SIGKILL
    assert sorted(first.names("drained")) == [("drained", r) for r in ("control", "delivery", "intake")]
    assert second.names("port_refused") == []
    assert greeting(port) == b"220\r\n"
    kill(second.popen.pid, signal.SIGTERM)
    assert second.end() == 0
    assert [held_by(tmp_path / "data" / role / LOCK_NAME) for role in ("intake", "delivery", "control")] == [
        None
    ] * 3


def test_an_orphan_that_hangs_in_its_drain_ends_by_the_kernels_alarm(launch) -> None:
    relay = launch(delivery=["hangs_in_drain"], drain_s=1000.0)
    relay.expect("ready")
    began_s = time.monotonic()
    kill(relay.popen.pid, signal.SIGKILL)
    relay.end()
    assert time.monotonic() - began_s < 15, "a new supervisor would have given up waiting"


def test_a_set_that_does_not_end_keeps_the_next_one_out(launch) -> None:
    first = launch(delivery=["hangs_in_drain"])
    first.expect("ready")
    kill(first.popen.pid, signal.SIGKILL)
    second = launch(older_set_s=0.3)
    assert second.end() == os.EX_TEMPFAIL
    assert second.names("child_started") == []


def test_clients_outlive_a_crash_of_intake_and_are_refused_from_the_drain_on(launch) -> None:
    port = free_port()
    relay = launch(ports=[port], intake=["drains_when_allowed"])
    relay.expect("ready")
    assert greeting(port) == b"220\r\n"
    kill(pid_of(relay, "intake"), signal.SIGKILL)
    # Connected while nobody accepts: served by the successor.
    assert greeting(port) == b"220\r\n"
    relay.expect("child_ready", role="intake")
    kill(relay.popen.pid, signal.SIGTERM)
    relay.expect("drain", who="intake")
    with pytest.raises(ConnectionRefusedError):
        greeting(port)
    kill(pid_of(relay, "intake"), signal.SIGUSR1)
    assert relay.end() == 0


def pid_of(relay, role: str) -> int:
    """Of the process that has the role now."""
    return int([e["pid"] for e in relay.events if e["event"] == "child_started" and e["role"] == role][-1])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def greeting(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        return client.recv(100)
