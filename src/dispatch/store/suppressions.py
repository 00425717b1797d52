"""The suppression list with its reasons, as it stands in `settings.db`.

Like everything there it cannot be made good from elsewhere but a backup, and only control writes it, or who
holds the supervisor's lock. What the other processes have is made from it (`settings.suppressed`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import apsw

from dispatch.policy.suppression import digest, suppression_key
from dispatch.settings.requests import Suppressed
from dispatch.store.sqlite import faults, statements

_SQL = statements("settings")


class SuppressionTable:
    """Of a `SettingsStore`; one thread at a time."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def add(self, addresses: Iterable[str], reason: str, origin: str, now_ms: int) -> int:
        """How many were not there yet; of those that were, the first reason stays. Within a transaction."""
        added = 0
        for address in addresses:
            row = (suppression_key(address), address, reason, origin, now_ms)
            added += self._connection.execute(_SQL["suppress"], row).get is not None
        self._changed(added)
        return added

    def remove(self, addresses: Iterable[str]) -> int:
        """How many were there. Within a transaction."""
        removed = 0
        for address in addresses:
            key = suppression_key(address)
            removed += self._connection.execute(_SQL["unsuppress"], (key,)).get is not None
        self._changed(removed)
        return removed

    def listed(self, part: str, after: str, limit: int) -> list[Suppressed]:
        """In the order of the addresses, those behind `after` that contain `part`. Raises `StoreFault`."""
        key = suppression_key(after) if after else ""
        with faults("suppressions: read"):
            rows = self._connection.execute(_SQL["suppressions"], (key, part.lower(), limit)).fetchall()
        return [
            Suppressed(str(written), str(reason), str(origin), cast(int, since_ms))
            for _, written, reason, origin, since_ms in rows
        ]

    def count(self) -> int:
        with faults("suppressions: read"):
            return cast(int, self._connection.execute(_SQL["suppressed_count"]).get)

    @property
    def number(self) -> int:
        """Another one with each change. Raises `StoreFault`."""
        with faults("suppressions: read"):
            return cast(int, self._connection.execute(_SQL["suppression_number"]).get)

    def digests(self) -> list[int]:
        """Of all addresses, ascending. Raises `StoreFault`."""
        with faults("suppressions: read"):
            rows = self._connection.execute(_SQL["suppressed_addresses"])
            return sorted({digest(str(address)) for (address,) in rows})

    def _changed(self, count: int) -> None:
        if count:
            self._connection.execute(_SQL["next_suppression_number"])
