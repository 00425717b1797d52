"""Notices that control has published other settings than those in force."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from dispatch.observe import Reporter
from dispatch.policy.suppression import SuppressionList
from dispatch.ports import Mark
from dispatch.security.vault import Vault
from dispatch.settings import Role, Settings
from dispatch.settings.snapshot import NoSnapshot, load
from dispatch.settings.suppressed import SUPPRESSED, SuppressedDamaged, load_suppressed


class Watch(Protocol):
    """One role's view of the settings."""

    settings: Settings
    suppressed: SuppressionList
    """Addresses that must not be tried; another one only after `take` had something new."""

    def changed(self) -> bool:
        """Cheap enough to be asked each second."""
        ...

    def take(self) -> Settings | None:
        """The new settings, in force from here on; None where they are the same, or cannot be read."""
        ...


class SettingsWatch:
    """One role's view of the settings folder. Looking costs one `stat`."""

    def __init__(
        self,
        folder: Path,
        role: Role,
        report: Reporter,
        seal: Vault | None = None,
        applied: Callable[[], Mark] | None = None,
    ) -> None:
        """`seal` opens the role's secrets, which are withheld without it. `applied` makes the mark that says
        by which number we work, so that who publishes can tell when it was taken.

        Raises `NoSnapshot` where settings were never published, and `OSError`.
        """
        self._seal = seal
        self._report = report
        self._folder = folder
        self._role = role
        self._path = folder / f"{role}.json"
        self._unreadable = False
        self._seen = _stamp(self._path)
        self.number, self.settings = load(folder, role, seal)
        self.suppressed = SuppressionList()
        self._list_seen: tuple[int, int] | None = None
        self._take_list()
        self._applied = applied and applied()
        self._confirm()

    def _confirm(self) -> None:
        if self._applied is not None:
            self._applied.store(self.number)

    def _take_list(self) -> None:
        """The suppression list as it is published now; while it cannot be read, ours stays."""
        path = self._folder / SUPPRESSED
        stamp = _stamp(path)
        if stamp == self._list_seen:
            return
        try:
            _, self.suppressed = load_suppressed(self._folder)
        except (SuppressedDamaged, OSError) as error:
            self._report("suppressions_unreadable", why=str(error), suppressed=len(self.suppressed))
        else:
            self._list_seen = stamp

    def changed(self) -> bool:
        return _stamp(self._path) != self._seen

    def take(self) -> Settings | None:
        stamp = _stamp(self._path)
        try:
            number, settings = load(self._folder, self._role, self._seal)
        except NoSnapshot as error:
            # What is in force stays in force; the next publication is looked at again.
            self._seen = stamp
            self._report("settings_unreadable", why=str(error))
            return None
        except OSError as error:
            # Not seen yet: this one is looked at again.
            if not self._unreadable:
                self._report("settings_unreadable", why=str(error))
            self._unreadable = True
            return None
        self._seen = stamp
        self._unreadable = False
        if number == self.number:
            return None
        self.number, self.settings = number, settings
        self._take_list()
        # Whoever takes them puts them in force in the same turn of the loop.
        self._confirm()
        self._report("settings_applied", number=number)
        return settings


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_ino)
