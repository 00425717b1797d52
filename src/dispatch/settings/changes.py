"""Settings as a flat list of paths and values, and the difference between two of them."""

from __future__ import annotations

from dispatch.settings.keys import WITHHELD
from dispatch.settings.model import KEYS, PLAIN_KEYS, REPEATED, Settings, find_key


def values_of(settings: Settings) -> dict[str, object]:
    """The value of every key by its path, `relays.NAME.port` for each configured relay.

    What is withheld from this process is not among them.
    """
    values: dict[str, object] = {
        path: getattr(getattr(settings, entry.section), entry.name) for path, entry in PLAIN_KEYS.items()
    }
    for section in REPEATED:
        tables = getattr(settings, section)
        for table in () if tables is WITHHELD else tables:
            for name in KEYS[section]:
                values[f"{section}.{table.name}.{name}"] = getattr(table, name)
    return {path: value for path, value in values.items() if value is not WITHHELD}


def changes(old: Settings, new: Settings) -> tuple[list[str], list[str]]:
    """The paths whose values differ: those that take effect at once, and those that need a restart.

    A relay or rule that came or went differs in all its keys.
    """
    before, after = values_of(old), values_of(new)
    # None is a value, unlimited: it must differ from a key that is not there.
    absent = object()
    differing = [path for path in {**before, **after} if before.get(path, absent) != after.get(path, absent)]
    return [path for path in differing if _live(path)], [path for path in differing if not _live(path)]


def _live(path: str) -> bool:
    entry = find_key(path)
    assert entry is not None, path
    return entry.key.live
