"""The journeys of a newcomer stay short: from the command to a token, and from a record to the board."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.journeys import MOST, ROOT


def test_few_files_lie_on_the_way() -> None:
    command = [sys.executable, str(ROOT / "tests" / "journeys.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    journeys = json.loads(done.stdout)
    assert {name: len(files) <= MOST[name] for name, files in journeys.items()} == dict.fromkeys(MOST, True)
    assert all(len(files) > 10 for files in journeys.values())
