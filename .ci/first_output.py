"""How long until each command of the README and of docs/commands.md says something: a table of seconds.

    python .ci/first_output.py [PAGE ...] [tries=3] [limit_s=20]

Every command is started, timed to its first byte on stdout or stderr, and ended. Nothing is asserted: the
seconds are the machine's. Records go to a scratch folder. Run it on an idle machine.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "commands.md"]
_COMMAND = re.compile(r"^(?:[A-Z_]+=\S+ )*python -m bench\S*(?: .*)?$")
_PLACEHOLDER = re.compile(r"\b(?:FILE|FOLDER\d?|RUN\w*|PROMPT_ID|BASELINE|NAME)\b|\.\.\.|my\.jsonl|\./")


def main() -> None:
    """Time the commands and print the table."""
    settings = dict(text.split("=", 1) for text in sys.argv[1:] if "=" in text)
    pages = [Path(text).resolve() for text in sys.argv[1:] if "=" not in text] or PAGES
    tries, limit_s = int(settings.get("tries", 3)), float(settings.get("limit_s", 20))
    sys.stdout.write(f"{'first output':>12}  command\n")
    for command in dict.fromkeys(command for page in pages for command in commands(page)):
        seconds = [first_output_s(command, limit_s) for _ in range(tries)]
        shown = [value for value in seconds if value is not None]
        text = f"{median(shown):.2f} s" if len(shown) == len(seconds) else f"none in {limit_s:g} s"
        sys.stdout.write(f"{text:>12}  {command}\n")
        sys.stdout.flush()


def commands(page: Path) -> Iterator[str]:
    """Commands of a page that can be run as they stand: in shell blocks and first columns of tables."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    for line in lines:
        command = re.sub(r"\s{2,}#.*$", "", line).strip()
        if _COMMAND.match(command) and not _PLACEHOLDER.search(command):
            yield command


def first_output_s(command: str, limit_s: float) -> float | None:
    """Seconds until the first byte; None if there is none in time."""
    words = shlex.split(command, comments=True)
    given = [word for word in words if re.fullmatch(r"[A-Z_]+=\S*", word)]
    words = [sys.executable, *words[len(given) + 1 :]]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **dict(word.split("=", 1) for word in given)}
    with tempfile.TemporaryDirectory() as scratch:
        begin = time.perf_counter()
        process = subprocess.Popen(
            words,
            cwd=scratch,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], limit_s)
            elapsed = time.perf_counter() - begin
            return elapsed if ready and os.read(process.stdout.fileno(), 1) else None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.stdout.close()
            process.wait()


if __name__ == "__main__":
    main()
