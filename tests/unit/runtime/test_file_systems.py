"""Where mail should not lie, and that it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from dispatch.runtime.file_systems import remark_on

MOUNTS = r"""22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
23 22 0:21 / /run rw - tmpfs tmpfs rw,size=10%
24 23 254:2 / /run/kept rw - xfs /dev/vdb rw
25 22 0:30 / /srv/with\040space rw master:2 propagate_from:1 - nfs4 host:/export rw
26 22 0:31 / /covered rw - tmpfs tmpfs rw
27 26 254:3 / /covered rw - ext4 /dev/vdc rw
28 22 0:32 / /image rw - overlay overlay rw,lowerdir=/a
a line that nobody understands
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib/dispatch", None),
        ("/run", "tmpfs: it is in memory"),
        ("/run/dispatch", "tmpfs: it is in memory"),
        ("/run/kept/dispatch", None),
        ("/runner", None),
        ("/srv/with space/dispatch", "nfs4: it is on a network"),
        ("/covered/dispatch", None),
        ("/image/data", "overlay: it is the container's own layer"),
    ],
)
def test_the_nearest_mount_says_what_becomes_of_the_data(
    tmp_path: Path, folder: str, kind: str | None
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    remark = remark_on(Path(folder), mounts)
    assert remark is None if kind is None else remark is not None and remark.startswith(kind)


def test_where_there_is_no_such_table_nothing_is_said(tmp_path: Path) -> None:
    assert remark_on(tmp_path, tmp_path / "absent") is None


def test_memory_of_this_machine_is_recognised() -> None:
    if "tmpfs /dev/shm" not in Path("/proc/self/mounts").read_text():
        pytest.skip("this machine has no tmpfs there")
    assert (remark_on(Path("/dev/shm/dispatch")) or "").startswith("tmpfs")
