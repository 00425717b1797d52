from __future__ import annotations

import errno
import os
import pwd
import tempfile
from pathlib import Path

import pytest

from dispatch.runtime import users
from dispatch.runtime.users import unprivileged_user

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to give up")


class Reports(list[tuple[str, dict[str, object]]]):
    def __call__(self, event: str, /, **fields: object) -> None:
        self.append((event, fields))


@pytest.fixture
def anybodys_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that needs no clone readable by everybody."""
    monkeypatch.setattr(users, "_TRIAL", users._TRIAL.replace("import dispatch\n", ""))
    monkeypatch.setattr("sys.executable", "/usr/bin/python3")


@pytest.mark.skipif(
    not Path("/usr/bin/python3").exists(), reason="needs an interpreter that everybody may run"
)
def test_a_user_that_can_use_the_folders_is_taken(anybodys_program: None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o700)
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        run_as = unprivileged_user("intake", ("no-such-user", "nobody"), [], [Path(folder)], Reports())
    assert run_as is not None and run_as.uid == nobody.pw_uid


def test_a_user_that_cannot_reach_the_data_is_not_taken_and_that_is_said(tmp_path: Path) -> None:
    reports = Reports()
    (tmp_path / "data").mkdir(mode=0o700)
    assert unprivileged_user("intake", ("root", "nobody"), [], [tmp_path / "data"], reports) is None
    assert [event for event, _ in reports] == ["user_kept"]
    assert "root is root by another name" in str(reports[0][1]["why"]).replace(": ", " ")
    assert "nobody: " in str(reports[0][1]["why"])


def test_root_is_not_kept_because_nobody_could_be_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_process(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(users.subprocess, "run", no_process)
    reports = Reports()
    with pytest.raises(BlockingIOError):
        unprivileged_user("intake", ("nobody",), [], [tmp_path], reports)
    assert reports == []
