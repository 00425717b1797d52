"""New settings that a process cannot read just now: those in force stay, and it looks again."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.simulation.loop import SimulatedMark

from dispatch.app.watch import SettingsWatch
from dispatch.policy.suppression import digest
from dispatch.settings import Settings, load
from dispatch.settings.snapshot import publish
from dispatch.settings.suppressed import SUPPRESSED, publish_suppressed


class Reports(list[tuple[str, dict[str, object]]]):
    def __call__(self, event: str, /, **fields: object) -> None:
        self.append((event, fields))


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def watch(tmp_path: Path, reports: Reports) -> SettingsWatch:
    publish(tmp_path, Settings())
    return SettingsWatch(tmp_path, "intake", reports)


def test_what_could_not_be_read_is_read_later_without_another_publication(
    watch: SettingsWatch, reports: Reports, tmp_path: Path
) -> None:
    new = load(None, {}, ["listener.max_recipients=7"], default_file=tmp_path / "none").settings
    publish(tmp_path, new)
    published = tmp_path / "intake.json"
    aside = published.rename(tmp_path / "aside")
    published.symlink_to("/proc/self/mem")  # its first page fails with EIO
    for _ in range(3):
        assert watch.changed()
        assert watch.take() is None
    assert [event for event, _ in reports] == ["settings_unreadable"], "told once"
    assert "intake.json cannot be read: Input/output error (EIO)" in str(reports[0][1]["why"])
    aside.rename(published)
    assert watch.changed()
    taken = watch.take()
    assert taken is not None and taken.listener.max_recipients == 7
    assert not watch.changed()


def test_damaged_ones_are_told_of_once_and_wait_for_the_next_publication(
    watch: SettingsWatch, reports: Reports, tmp_path: Path
) -> None:
    (tmp_path / "intake.json").write_bytes(b"{")
    assert watch.take() is None
    assert not watch.changed()
    publish(tmp_path, Settings())
    assert watch.take() is not None
    assert [event for event, _ in reports] == ["settings_unreadable", "settings_applied"]


def test_who_publishes_can_see_which_settings_are_in_force(tmp_path: Path, reports: Reports) -> None:
    mark = SimulatedMark()
    publish(tmp_path, Settings())
    watch = SettingsWatch(tmp_path, "intake", reports, None, lambda: mark)
    assert mark.load() == 1
    publish(tmp_path, Settings())
    assert mark.load() == 1, "published is not applied"
    watch.take()
    assert mark.load() == 2


def test_the_suppression_list_is_taken_with_the_settings(
    watch: SettingsWatch, reports: Reports, tmp_path: Path
) -> None:
    assert not watch.suppressed.holds("gone@example.net")
    publish_suppressed(tmp_path, 1, [digest("gone@example.net")])
    publish(tmp_path, Settings())
    assert watch.take() is not None
    assert watch.suppressed.holds("gone@example.net")
    (tmp_path / SUPPRESSED).write_bytes(b"nonsense")
    publish(tmp_path, Settings())
    assert watch.take() is not None
    assert watch.suppressed.holds("gone@example.net"), "what cannot be read changes nothing"
    assert [event for event, _ in reports].count("suppressions_unreadable") == 1
    publish_suppressed(tmp_path, 2, [])
    publish(tmp_path, Settings())
    assert watch.take() is not None
    assert not watch.suppressed.holds("gone@example.net")


def test_a_process_starts_with_the_list_that_is_published(tmp_path: Path, reports: Reports) -> None:
    publish_suppressed(tmp_path, 1, [digest("gone@example.net")])
    publish(tmp_path, Settings())
    assert SettingsWatch(tmp_path, "intake", reports).suppressed.holds("gone@example.net")
