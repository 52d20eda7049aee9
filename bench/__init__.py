"""Honest benchmarks of self-speculative decoding: one runtime, one timer, one acceptance rule.

Importing the package sets how idle OpenMP threads wait, which must happen before anything loads torch. Idle
threads that spin take the core that the working thread needs and make a decode step many times slower on a
small machine. A few microseconds of spinning between two products save a third of a step on two cores and
cost almost nothing where other work needs the core.

Start with `bench.cli`: the command line. `bench.compose` turns settings into objects, `bench.measure`
measures, `bench.records` keeps what was measured, `bench.report` shows it.
"""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

PACKAGE_ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds this package, `methods`, `conf` and the shipped weights."""
PACKAGE_PREFIX = "package:"
"""Begins a path relative to that folder, such as that of shipped weights."""
