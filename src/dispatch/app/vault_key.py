"""The vault's key at a start, and its rotation. Only for who holds the supervisor's lock.

Where values were sealed and the key is gone, nothing is made in its place: a new key would open none of them,
and would hide that the old one is missing.
"""

from __future__ import annotations

from collections.abc import Mapping

from dispatch.app.folders import Folders
from dispatch.observe import Reporter
from dispatch.security.key_file import KeyFile, NoKey, begin_rotation, commit_rotation, load_key, make_key
from dispatch.security.vault import Vault, key_id_of
from dispatch.store.settings import SettingsStore, holds_sealed


def open_key(folders: Folders, environ: Mapping[str, str], report: Reporter) -> KeyFile:
    """The key; made at the first start, and a rotation that was cut short is finished.

    Raises `KeyFault`, `StoreFault`, `VaultFault` and `OSError`.
    """
    try:
        found = load_key(folders.data, environ)
    except NoKey as missing:
        if holds_sealed(folders.settings_db):
            raise NoKey(
                f"{missing}, and {folders.settings_db} holds secrets that only this key opens: put the key "
                f"file back, or move {folders.settings_db.name} away and enter the secrets again; nothing "
                "was changed"
            ) from None
        found = make_key(folders.data, environ)
        report("key_made", path=found.path, id=key_id_of(found.key))
    for remark in found.remarks:
        report("key_remark", what=remark)
    return finish_rotation(folders, found, report) if found.unfinished else found


def rotate_key(folders: Folders, environ: Mapping[str, str], report: Reporter) -> KeyFile:
    """A new key for everything. Snapshots are published anew by who calls. Raises as `open_key`."""
    return finish_rotation(folders, begin_rotation(open_key(folders, environ, report)), report)


def finish_rotation(folders: Folders, rotating: KeyFile, report: Reporter) -> KeyFile:
    """Seal all values with the new key, durably; only then does it take the old one's place."""
    assert rotating.new_key is not None
    old = Vault(rotating.key)
    store = SettingsStore.open(folders.settings_db, Vault(rotating.new_key))
    try:
        count = store.reseal(old)
    finally:
        store.close()
    rotated = commit_rotation(rotating)
    report("key_rotated", path=rotated.path, old=old.key_id, new=key_id_of(rotated.key), values=count)
    return rotated
