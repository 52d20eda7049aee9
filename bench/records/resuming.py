"""Whether this start may continue a stored run: same settings, same machine, same code of the method."""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.records.model import Key, Run, Sample, canonical

log = logging.getLogger(__name__)

MACHINE = {
    "device": "device",
    "cpu.model": "CPU",
    "dtype": "precision",
    "versions.torch": "torch",
    "versions.cuda": "CUDA",
    "attention": "attention",
}
"""Facts of an environment block that make another machine when they differ, and what to call them.

``device`` is the GPU's model, or the CPU's with torch's thread count; the CPU counts on a GPU as well, since
it launches the kernels. Two machines alike in all of these count as the same: host names are not recorded.
"""


def check_settings(stored: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    """Refuse to continue a run with another identity.

    Raises:
        UserError: Naming every difference.
    """
    if canonical(stored) == canonical(new):
        return
    new = json.loads(canonical(new))  # tuples become lists, as they did in the stored one
    keys = sorted(key for key in {*stored, *new} if stored.get(key) != new.get(key))
    differences = ", ".join(f"{key} is {stored.get(key)!r}, not {new.get(key)!r}" for key in keys)
    raise UserError(
        f"{folder} belongs to a run with other settings: {differences}",
        "choose another results folder, or move this run away",
    )


def check_machine(measured: Iterable[Mapping[str, Any]], here: Mapping[str, Any], folder: Path) -> None:
    """Refuse to add the timings of this machine to those of another; warn where only the code differs.

    Args:
        measured: Environment blocks that stored samples were measured in.
        here: This start's block.
        folder: The run's, for the message.

    Raises:
        UserError: Naming every fact of `MACHINE` that differs.
    """
    for block in measured:
        pairs = [(name, _fact(block, key), _fact(here, key)) for key, name in MACHINE.items()]
        if other := [f"{name} {there!r}, not {now!r}" for name, there, now in pairs if there != now]:
            raise UserError(
                f"{folder} holds samples of another machine ({'; '.join(other)}); timings must not mix",
                "resume on the same machine, or choose another results folder: results_dir=...",
            )
        if block.get("git") != here.get("git"):
            log.warning(
                "%s holds samples measured by other code; delete it to measure all of it anew", folder
            )


def _fact(block: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 - a value of a record
    group, _, name = key.rpartition(".")
    return ((block.get(group) or {}) if group else block).get(name)


def check_resumable(
    stored: Run, run: Run, samples: Mapping[Key, Sample], folder: Path, source: str | None
) -> None:
    """Refuse to continue a run whose settings, machine or code of the method are not those of this start.

    Samples that other code decoded are refused because their times and counts would be shown as those of the
    code as it is now.

    Args:
        stored: The run on disk.
        run: The run as it would be now, with this start's environment.
        samples: Those on disk.
        folder: The run's, for messages.
        source: Hash of the code that decodes now; None leaves the code unchecked.

    Raises:
        UserError: Naming what differs.
    """
    check_settings(stored.identity, run.identity, folder)
    numbers = {sample.attempt for sample in samples.values() if sample.error is None}  # failures: no timing
    if strange := sorted(number for number in numbers if number >= len(stored.attempts)):
        raise UserError(
            f"{folder / 'run.json'} holds {len(stored.attempts)} attempts, samples name attempt {strange[0]}",
            "restore the file, or move the run's folder away to measure it anew",
        )
    measured = [stored.attempts[number] for number in sorted(numbers)]
    check_machine(measured, run.attempts[0], folder)
    others = {block["source"] for block in measured if "source" in block} - {source}
    if source is not None and others:
        raise UserError(
            f"{folder} holds samples that other code of this method decoded "
            f"(source {', '.join(sorted(others))}, now {source})",
            "measure the code as it is now elsewhere (results_dir=...), or move this folder away",
        )
