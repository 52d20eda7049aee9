"""Honest benchmarks of self-speculative decoding: one runtime, one timer, one acceptance rule.

Importing the package settles how OpenMP threads wait, which must happen before anything loads torch: spinning
idle threads take the core that the working thread needs and make a decode step many times slower on a small
machine. A few microseconds of spinning, from one product to the next, save a third of a step on two cores and
cost next to nothing where other work wants the core.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
