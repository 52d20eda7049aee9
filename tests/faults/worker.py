"""The process that is harmed: the harm is installed, then the real program runs.

The fork server of multiprocessing imports this module and `tests.faults.preloaded`: a start costs a fork and
not an import of torch.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import bench.measure.runner
from bench.cli import main
from bench.compose.settings import Settings
from tests.faults.harms import Harm


def run_command(arguments: Sequence[str], harm: Harm | None, said: Path) -> None:
    """``python -m bench ARGUMENTS``; what it prints goes to the file `said`."""
    _prepare(harm, said)
    sys.argv = ["bench", *arguments]
    main()


def run_settings(settings: Settings, harm: Harm | None, said: Path) -> None:
    """The same run without Hydra, for the storms of kills."""
    _prepare(harm, said)
    bench.measure.runner.execute(settings)  # by this name: a harm may have replaced it


def _prepare(harm: Harm | None, said: Path) -> None:
    from tests.faults.preloaded import SOURCE

    bench.measure.runner.source_hash = lambda target, tier: SOURCE  # in this process alone
    signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest may run in a shell's background
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    if harm is not None:
        harm()
