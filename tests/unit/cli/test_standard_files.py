"""Programs that start us may have closed what every program is given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("closed", ["0<&-", "0<&- 1>&- 2>&-", "1>&-"])
def test_a_command_works_without_them(tmp_path: Path, closed: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "dispatch.toml").touch()
    command = (
        f'"{sys.executable}" -m dispatch.cli rule add held recipient=held.example.org action=hold'
        f" --config dispatch.toml --data data {closed}"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert not (tmp_path / "data" / "settings.db").read_bytes().startswith(b"rule held"), (
        "nothing was printed into it"
    )
