"""A run in a process of its own, so that nothing of one run reaches the next.

The process is forked before torch is imported: it has its own torch, CUDA context, memory pools and compiled
kernels, which end with it. Unlike a job of submitit's local launcher it sees the GPUs of its parent, writes
to the same terminal, and may die without ending the sweep.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

_POLLS, _POLL_S = 10, 0.1


def run_isolated(job: Callable[[], int]) -> int:
    """Run `job` in a child process and wait for it.

    Whatever ends the wait, such as Ctrl-C or SIGTERM, also ends the child, whose samples are on disk. So does
    a SIGKILL of this process: a child that lived on would disturb the measurements of the next start.

    Returns:
        The job's exit status; minus the signal's number where the child was killed by one.

    Raises:
        RuntimeError: If torch is loaded already, because the child would share its state.
    """
    if "torch" in sys.modules:
        raise RuntimeError("an isolated run must be started by a process that has not imported torch")
    sys.stdout.flush()
    sys.stderr.flush()
    child_end, parent_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(parent_end)
        _end_with_parent(child_end)
        _run_and_exit(job)
    os.close(child_end)
    handler = signal.signal(signal.SIGTERM, _stop)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException:
        _end(child)
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)
        os.close(parent_end)


def end_with_parent() -> None:
    """End this process, which `multiprocessing` started, when its parent ends, even by SIGKILL.

    Workers that went on alone would disturb the next measurement.
    """
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _stop(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _end(child: int) -> None:
    """Wait for the child, then stop it: a terminal's Ctrl-C reaches it as well, so it may be ending already.

    With SIGTERM, because a process that a shell started in the background ignores SIGINT.
    """
    for _ in range(_POLLS):
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(_POLL_S)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)


def _end_with_parent(child_end: int) -> None:
    """End this process when the parent's end of the pipe closes, which the kernel does however it ends."""

    def wait() -> None:
        os.read(child_end, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _run_and_exit(job: Callable[[], int]) -> NoReturn:
    """Run the job and end the process without the clean-up that belongs to the parent."""
    status = 1
    try:
        status = job()
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    finally:
        with suppress(OSError, ValueError):  # a closed terminal
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
