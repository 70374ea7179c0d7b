"""How arrays are best read where a store lies, and by whom: through maps, or by plain reads.

A page that is mapped counts as memory of the process, and a dask worker over its limit is killed for it; a map of a
file that a server lost or cut kills the process, where a read raises. Otherwise maps are quicker: nothing is copied.
"""

from __future__ import annotations

import os
import sys
from typing import Literal, get_args

from mmdask.errors import OptionError

__all__ = ["IO", "check_io", "file_system", "in_cluster", "in_worker", "way_to_read"]

IO = Literal["auto", "mmap", "pread"]

MOUNTS = "/proc/self/mountinfo"
#: file systems of a server, by the names that Linux has for them
NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "9p", "ceph", "lustre", "gpfs", "beegfs"),
        *("panfs", "pvfs2", "orangefs", "wekafs", "glusterfs", "dvs", "fhgfs"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.eosxd", "fuse.eos", "fuse.s3fs"),
        *("fuse.gcsfuse", "fuse.goofys", "fuse.mount-s3", "fuse.rclone", "fuse.juicefs", "fuse.moosefs", "fuse.mfs"),
        *("fuse.lizardfs", "fuse.seaweedfs", "fuse.davfs", "fuse.curlftpfs", "fuse.smbnetfs", "fuse.xrootdfs"),
    }
)
#: what distributed calls a worker that may be given work, or still has some
_RUNNING = ("init", "starting", "running", "paused", "closing_gracefully")


def check_io(io: object) -> IO:
    """Return a way to read that a user names.

    Raises
    ------
    OptionError
        When it is not "auto", "mmap" or "pread".
    """
    for known in get_args(IO):
        if io == known:
            return known  # type: ignore[no-any-return]
    raise OptionError(f"io= is 'auto', 'mmap' or 'pread', got {io!r}")


def way_to_read(folder: str) -> Literal["mmap", "pread"]:
    """What "auto" means here: "pread" in a process with a dask worker and on file systems of a server, else "mmap"."""
    return "pread" if in_worker() or file_system(folder) in NETWORK else "mmap"


def in_worker() -> bool:
    """Whether a dask.distributed worker runs in this process; imports nothing.

    A client imports the same modules, so that only a worker that is there tells one.
    """
    return _runs("worker", "Worker")


def in_cluster() -> bool:
    """Whether this process is one of a dask.distributed cluster, and not that of its user; imports nothing."""
    return in_worker() or (_runs("scheduler", "Scheduler") and not _runs("client", "Client"))


def _runs(module: str, kind: str) -> bool:
    found = getattr(getattr(sys.modules.get(f"distributed.{module}"), kind, None), "_instances", ())  # not public
    statuses = [getattr(one, "status", "") for one in list(found)]
    return any(getattr(status, "name", status) in _RUNNING for status in statuses)


def file_system(folder: str) -> str:
    """The type of the file system that a folder lies on, as Linux names it; "" where that cannot be found out."""
    try:
        device = os.stat(folder).st_dev
        with open(MOUNTS, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    wanted = f"{os.major(device)}:{os.minor(device)}".encode()
    for line in lines:
        # number, parent, device, root, mount point, options, any number of others, "-", type, source, options
        mount, _, kind = line.partition(b" - ")
        if mount.split()[2:3] == [wanted] and kind:
            return kind.split()[0].decode(errors="replace")
    return ""
