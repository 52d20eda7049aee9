"""Files that survive crashes, full disks and other processes.

`replacing`, `write_bytes` and `write_text` write a file whole or not at all; `scratch_folder` removes what
killed processes left of it. `acquire` lets one process at a time write to a folder: the kernel holds its
lock, so the lock ends with the process and a crash leaves nothing to clean up. A note in the lock file names
the holder, for the message to the second process, and for file systems that several hosts share but whose
kernels do not see each other's locks (Lustre's ``localflock``). There, the note of another host counts as
long as it is fresh; every stored sample renews it.

POSIX only (``flock``).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.errors import UserError

STALE_S = 3600.0
"""Age at which the note of another host counts as a dead process's: far longer than the slowest sample."""
ABANDONED_S = 86400.0
"""Age from which an unlocked scratch folder is deleted; another host's lock may be invisible here."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextlib.contextmanager
def replacing(path: Path, *, is_shared: bool = False) -> Iterator[Path]:
    """A temporary path to write to in the ``with`` block; after the block it replaces `path`.

    The content is forced to disk first. If the block or the disk fails, `path` keeps its old content and the
    temporary file is removed.

    Args:
        path: The file to replace; its folder exists.
        is_shared: Several processes may write this file at the same time, so each needs its own temporary
            file. Otherwise the name is fixed, and what a killed process left is overwritten.

    Raises:
        OSError: If the file cannot be written.
    """
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp" if is_shared else f"{path.name}.tmp")
    try:
        yield fresh
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            fresh.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes, *, is_shared: bool = False) -> None:
    """Write a file whole or not at all; see `replacing`."""
    with replacing(path, is_shared=is_shared) as fresh:
        fresh.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a file as UTF-8, whole or not at all; see `replacing`."""
    write_bytes(path, text.encode())


def expanded(path: str) -> Path:
    """A path with the user's home for ``~``; one of an unknown user stays as it is, and does not exist."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for an unknown user


@contextlib.contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A temporary folder in the ``with`` block, after which it is deleted, as those of killed processes are.

    Args:
        parent: An existing folder.
        prefix: Begins the name of every such folder.

    Raises:
        OSError: If nothing can be written to `parent`.
    """
    for earlier in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # another process deletes it, or its file system has no locks
            if time.time() - earlier.stat().st_mtime > ABANDONED_S:
                os.close(_locked(earlier))
                shutil.rmtree(earlier)
    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as name, contextlib.ExitStack() as locks:
        with contextlib.suppress(OSError):  # without a lock it looks abandoned after a day
            locks.callback(os.close, _locked(Path(name)))
        yield Path(name)


def _locked(folder: Path) -> int:
    """A descriptor that holds the lock of a folder itself.

    Raises:
        OSError: If another process holds it, or there are no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def acquire(folder: Path) -> int:
    """Lock a folder for this process until `release` or the end of the process.

    Returns:
        The descriptor that holds the lock.

    Raises:
        UserError: If another process holds the lock, naming that process and since when; or if the folder's
            file system has no locks.
        OSError: If the folder cannot be written.
    """
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)  # it is truncated below
    try:
        _claim(lock, folder)
    except BaseException:
        os.close(lock)
        raise
    return lock


def is_same_file(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at this path: neither deleted, nor moved, nor replaced."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def renew(lock: int) -> None:
    """Mark the holder as alive; a file system that refuses the new time stamp is no error."""
    with contextlib.suppress(OSError):
        os.utime(lock)


def release(lock: int) -> None:
    """Let another process, on any host, take the folder."""
    with contextlib.suppress(OSError):  # a full or vanished disk: closing frees the kernel's lock anyway
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
    """Whether a note belongs to a living process on another host whose lock this kernel does not see.

    Only the distance of the two times counts: the age is negative where a clock was set back. A Slurm job
    that was moved to another host finds its own note; it never runs twice at a time.
    """
    me = _me()
    is_elsewhere = bool(note) and note.get("host") != me["host"]
    is_own_job = me["job"] is not None and note.get("job") == me["job"]
    return is_elsewhere and not is_own_job and abs(age_s) < STALE_S


def _me() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "job": os.environ.get("SLURM_JOB_ID")}


def _note(lock: int) -> dict[str, Any]:
    """What the holder wrote; empty if it has released the lock or has not written yet."""
    try:
        note = json.loads(os.pread(lock, 4096, 0))
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def _held(folder: Path, note: Mapping[str, Any], fix: str) -> UserError:
    if not note.keys() >= {"pid", "host", "time"}:
        return UserError(f"{folder} is being written by another process that started this moment", fix)
    age = f"for {max(0.0, time.time() - note['time']):.0f} s"
    return UserError(f"{folder} is being written by process {note['pid']} on {note['host']}, {age}", fix)
