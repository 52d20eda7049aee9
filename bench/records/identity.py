"""What makes two starts the same run: settings by content, and a machine whose timings may be put together.

Settings name the run's folder. The machine does not, so that a run is found wherever it was measured, but a
start on another machine is refused: one run holds the timings of one machine.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.errors import UserError

log = logging.getLogger(__name__)

MACHINE = {
    "device": "device",
    "cpu.model": "CPU",
    "dtype": "precision",
    "versions.torch": "torch",
    "versions.cuda": "CUDA",
}
"""Facts of an environment block that make another machine when they differ, and what to call them.

``device`` is the GPU's model, or the CPU's with torch's thread count; the CPU counts on a GPU as well, since
it launches the kernels. Two machines alike in all of these are one: host names are not recorded.
"""


def run_id(method: str, task: str, model: str, identity: Mapping[str, Any]) -> str:
    """``<method>-<task>-<model>-<8 hex>``: a prefix for people, a hash of the identity for truth.

    Raises:
        UserError: If a name cannot be part of a folder name.
        ValueError: If the identity holds something that is not plain JSON.
    """
    for name in (method, task, model):
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
            raise UserError(
                f"name {name!r} cannot be part of a folder name",
                "use letters, digits, '.', '_' and '-' in names",
            )
    digest = hashlib.sha256(canonical(identity).encode()).hexdigest()
    return f"{method}-{task}-{model}-{digest[:8]}"


def canonical(identity: Mapping[str, Any]) -> str:
    """The one JSON text of an identity, whatever the order of its keys.

    Raises:
        ValueError: If it holds something that is not plain JSON.
    """
    try:
        return json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except TypeError as error:
        raise ValueError(f"the identity of a run must be plain JSON: {error}") from error


def check_settings(stored: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    """Refuse to continue a run under another identity.

    Raises:
        UserError: Naming every difference.
    """
    if canonical(stored) != canonical(new):
        raise UserError(
            f"{folder} belongs to a run with other settings: {_differences(stored, new)}",
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


def _differences(stored: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    new = json.loads(canonical(new))  # tuples become lists, as they did in the stored one
    keys = sorted(key for key in {*stored, *new} if stored.get(key) != new.get(key))
    return ", ".join(f"{key} is {stored.get(key)!r}, not {new.get(key)!r}" for key in keys)
