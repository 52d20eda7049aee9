"""Honest benchmarks of self-speculative decoding: one runtime, one timer, one acceptance rule.

Importing the package settles how OpenMP threads wait, which must happen before anything loads torch: spinning
idle threads take the core that the working thread needs and make a decode step many times slower on a small
machine.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
