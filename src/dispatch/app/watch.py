"""Notices that control has published other settings than those in force."""

from __future__ import annotations

from pathlib import Path

from dispatch.settings import Role, Settings
from dispatch.settings.snapshot import NoSnapshot, load


class SettingsWatch:
    """One role's view of the settings folder. Looking costs one `stat`."""

    def __init__(self, folder: Path, role: Role) -> None:
        """Raises `NoSnapshot` where settings were never published."""
        self._folder = folder
        self._role = role
        self._path = folder / f"{role}.json"
        self._seen = self._stamp()
        self.number, self.settings = load(folder, role)

    def _stamp(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0)
        return (status.st_mtime_ns, status.st_ino)

    def changed(self) -> bool:
        return self._stamp() != self._seen

    def take(self) -> tuple[Settings, Settings] | None:
        """The old and the new settings, or None where the new ones cannot be read or are the same."""
        self._seen = self._stamp()
        try:
            number, settings = load(self._folder, self._role)
        except NoSnapshot:
            return None
        if number == self.number:
            return None
        old, self.number, self.settings = self.settings, number, settings
        return old, settings
