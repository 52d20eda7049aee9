"""A command line inside the test's own process: a start of its own would import torch for some seconds."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch


@dataclass(frozen=True)
class Done:
    """How a command ended, by the names of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def run_command(main: Callable[[], None], *arguments: str) -> Done:
    """Call an entry point with these arguments, and put logging back as it was."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with patch.object(sys, "argv", ["bench", *arguments]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        finally:
            for handler in set(root.handlers) - set(handlers):
                handler.close()
            root.handlers[:] = handlers
            root.setLevel(level)
    return Done(status, out.getvalue(), err.getvalue())


def mistake_lines(stderr: str) -> list[str]:
    """The lines on stderr, without the one in which a command says what it loads."""
    return [line for line in stderr.strip().splitlines() if not line.startswith("loading ")]
