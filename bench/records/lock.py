"""One writer per run folder.

The kernel holds the lock, so it dies with its process and a crash leaves nothing to clean up. A note in the
lock file says who holds it: for the message to whoever comes second, and for file systems that several hosts
share but whose kernels do not tell each other of locks (Lustre's ``localflock``). There, the note of another
host counts as long as it shows a sign of life, which every stored sample renews.

POSIX only (``flock``).
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import UserError

STALE_S = 3600.0
"""Age from which the note of another host is that of a dead process: far beyond the slowest sample."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def acquire(folder: Path) -> int:
    """Lock the folder for this process; the kernel frees the lock when the process ends, however it ends.

    Returns:
        The descriptor that holds the lock; `release` lets go.

    Raises:
        UserError: If another process holds it, naming that process and since when; or if the folder's file
            system has no locks.
        OSError: If the folder cannot be written.
    """
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _claim(lock, folder)
    except BaseException:
        os.close(lock)
        raise
    return lock


def renew(lock: int) -> None:
    """Show a sign of life; a file system that refuses it costs no more than that."""
    with contextlib.suppress(OSError):
        os.utime(lock)


def release(lock: int) -> None:
    """Let another process, on whichever host, take the folder."""
    with contextlib.suppress(OSError):  # a full or vanished disk; the kernel's lock goes all the same
        os.ftruncate(lock, 0)
    os.close(lock)


def _claim(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _held(folder, _note(lock), "wait for it or stop it, then run the same command again") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise UserError(
            f"{folder} lies on a file system without locks ({error.strerror}), so runs there are not safe",
            "set results_dir to a local disk, NFS 4, or Lustre mounted with flock",
        ) from error
    note = _note(lock)
    if _is_alive_elsewhere(note, time.time() - os.fstat(lock).st_mtime):
        raise _held(
            folder, note, f"wait for it or stop it; if it is gone for certain, delete {folder / '.lock'}"
        )
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(_me() | {"time": time.time()}).encode(), 0)


def _is_alive_elsewhere(note: Mapping[str, Any], age_s: float) -> bool:
    """Whether a note speaks of a living process on another host, although the kernel knows of no lock.

    A clock that was set back makes an age negative; what counts is how far apart the two times are. A Slurm
    job that was moved to another host finds its own note: it never runs twice at a time.
    """
    me = _me()
    is_elsewhere = bool(note) and note.get("host") != me["host"]
    is_own_job = me["job"] is not None and note.get("job") == me["job"]
    return is_elsewhere and not is_own_job and abs(age_s) < STALE_S


def _me() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "job": os.environ.get("SLURM_JOB_ID")}


def _note(lock: int) -> dict[str, Any]:
    """What the holder wrote; empty where it let go, or has not written yet."""
    try:
        found = json.loads(os.pread(lock, 4096, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _held(folder: Path, note: Mapping[str, Any], fix: str) -> UserError:
    if not note.keys() >= {"pid", "host", "time"}:
        return UserError(f"{folder} is being written by another process that started this moment", fix)
    age = f"for {max(0.0, time.time() - note['time']):.0f} s"
    return UserError(f"{folder} is being written by process {note['pid']} on {note['host']}, {age}", fix)
