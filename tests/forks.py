"""Processes forked from one that has imported torch and transformers, which takes seconds.

That one, the fork server of multiprocessing, is started once: `tests.conftest` hands all files that import
this module to one worker of the test run.
"""

from __future__ import annotations

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.faults.worker", "tests.faults.preloaded"])
