"""Counts the files on the two journeys that a newcomer follows. Run: ``python tests/journeys.py``.

- From the command ``python -m bench method=kangaroo task=mt_bench`` to the first decoded token.
- From stored records to the first row of the ranking on the board.

A file of ours is on a journey if one of its functions is called there. What runs while a module is imported
does not count.
"""

from __future__ import annotations

import inspect
import json
import os
import runpy
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PREFIXES = (f"{ROOT / 'bench'}{os.sep}", f"{ROOT / 'methods'}{os.sep}")
SLOW_IMPORTS = ("torch", "transformers", "pandas", "matplotlib.figure", "hydra", "bench.measure.runner")
RECORD = ROOT / "results" / "published" / "runs" / "kangaroo-mt_bench-tiny-a5d10ca0"
MOST = {"token": 49, "row": 18}


class Arrived(BaseException):
    """The journey is over; not an `Exception`, so that nothing on the way takes it for a failure."""


def travelled(command: list[str], last: str, event: str) -> list[str]:
    """Files whose functions are called by a command until it arrives, in the order of their first call.

    Args:
        command: A module and its arguments, as after ``python -m``.
        last: Name of the function where the journey ends.
        event: Whether it ends with the function's ``call`` or its ``return``.
    """
    files: dict[str, None] = {}

    def watch(frame: FrameType, seen: str, _: Any) -> Any:
        file, is_last = frame.f_code.co_filename, frame.f_code.co_name == last
        is_new = seen == "call" and file not in files and file.startswith(PREFIXES)
        if is_new and frame.f_code.co_flags & inspect.CO_OPTIMIZED and not _is_importing(frame):
            files[file] = None
        if is_last and seen == event:
            sys.settrace(None)
            raise Arrived
        return watch if is_last else None  # only there is a return of interest

    sys.argv = command
    sys.settrace(watch)
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except (Arrived, SystemExit):
        pass
    finally:
        sys.settrace(None)
    return [os.path.relpath(file, ROOT) for file in files]


def to_first_token(results: Path) -> list[str]:
    """From the command to the first token that any arm decodes."""
    settings = ["model=tiny", "method=kangaroo", "task=mt_bench", "task.limit=1", "max_new_tokens=8"]
    command = ["bench", *settings, f"results_dir={results}"]
    return travelled(command, "first_token", "call")


def to_first_row(results: Path) -> list[str]:
    """From the records in `results` to the first rendered row of the ranking."""
    return travelled(["bench.report", str(results)], "ranking_row", "return")


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def journeys() -> dict[str, list[str]]:
    """The files of both journeys, which run in this process."""
    for name in SLOW_IMPORTS:  # watching them would take most of the time
        import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "stored"
        shutil.copytree(RECORD, stored / "runs" / RECORD.name)
        return {"row": to_first_row(stored), "token": to_first_token(Path(folder))}


def main() -> int:
    """Print the files of both journeys as JSON; 1 if one is longer than its bound."""
    sys.path.insert(0, str(ROOT))
    found = journeys()
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return int(any(len(files) > MOST[name] for name, files in found.items()))


if __name__ == "__main__":
    sys.exit(main())
