"""Giving up root: each role gets an unprivileged user, if that user can live here.

A user that cannot read the code or reach the data would be a relay that does not start, for
instance a clone under `/root`. So the candidate is tried: a short-lived process of that user imports what the
child will import and looks at the folders. Trying answers for modes, ACLs and mounts alike.

Not done here: creating users, changing owners. That is the package's and the operator's.
"""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dispatch.observe import Reporter
from dispatch.runtime.process import RunAs
from dispatch.runtime.shortage import SHORTAGE

_TRIAL_S = 20.0
_TRIAL = """
import os, sys
import dispatch
reads, writes = sys.argv[1].split(os.pathsep), sys.argv[2].split(os.pathsep)
missing = [p for p in reads if p and not os.access(p, os.R_OK | os.X_OK)]
missing += [p for p in writes if p and not os.access(p, os.R_OK | os.W_OK | os.X_OK)]
sys.exit("cannot use " + ", ".join(missing) if missing else 0)
"""


def unprivileged_user(
    role: str, names: Sequence[str], reads: Sequence[Path], writes: Sequence[Path], report: Reporter
) -> RunAs | None:
    """The first of the named users that exists and can use the folders; None: stay who we are.

    Staying root is said loudly (`user_kept`), with what is in the way of each candidate. Raises `OSError`
    where nobody can be tried: root is not kept for want of a descriptor.
    """
    if os.geteuid() != 0:
        return None
    obstacles: list[str] = []
    for name in names:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            obstacles.append(f"{name}: no such user")
            continue
        groups = tuple(group.gr_gid for group in grp.getgrall() if name in group.gr_mem)
        run_as = RunAs(entry.pw_uid, entry.pw_gid, groups)
        obstacle = "is root by another name" if entry.pw_uid == 0 else _obstacle(run_as, reads, writes)
        if obstacle is None:
            report("user_changed", role=role, user=name, uid=run_as.uid)
            return run_as
        obstacles.append(f"{name}: {obstacle}")
    report("user_kept", role=role, user="root", why="; ".join(obstacles) or "no user was named")
    return None


def _obstacle(run_as: RunAs, reads: Sequence[Path], writes: Sequence[Path]) -> str | None:
    argv = [sys.executable, "-c", _TRIAL, os.pathsep.join(map(str, reads)), os.pathsep.join(map(str, writes))]
    try:
        trial = subprocess.run(  # noqa: S603 - our own interpreter and program
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TRIAL_S,
            cwd="/",
            user=run_as.uid,
            group=run_as.gid,
            extra_groups=list(run_as.groups),
            check=False,
        )
    except OSError as error:
        if error.errno in SHORTAGE:
            raise
        return str(error)
    except subprocess.TimeoutExpired as error:
        return str(error)
    if trial.returncode == 0:
        return None
    lines = trial.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit {trial.returncode}"
