"""One writer per run folder, held by the kernel and not by a file that a crash leaves behind.

POSIX only (``flock``). The lock file says who holds it, for the message to whoever comes second.
"""

import fcntl
import json
import os
import socket
import time
from pathlib import Path

from bench.errors import UserError


def acquire(folder: Path) -> int:
    """Lock the folder for this process; the kernel frees the lock when the process ends, however it ends.

    Returns:
        The descriptor that holds the lock; closing it lets go.

    Raises:
        UserError: If another process holds it, naming that process and since when.
        OSError: If the folder cannot be written or its file system has no locks.
    """
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "time": time.time()}).encode()
        os.ftruncate(lock, 0)
        os.pwrite(lock, owner, 0)
    except BlockingIOError as error:
        owner = os.read(lock, 4096)
        os.close(lock)
        raise UserError(
            f"{folder} is being written by {_describe(owner)}",
            "wait for it or stop it, then run the same command again",
        ) from error
    except OSError:
        os.close(lock)
        raise
    return lock


def _describe(owner: bytes) -> str:
    try:
        found = json.loads(owner)
        return f"process {found['pid']} on {found['host']}, for {time.time() - found['time']:.0f} s"
    except (ValueError, KeyError, TypeError):  # it holds the lock but has not written its name yet
        return "another process that started this moment"
