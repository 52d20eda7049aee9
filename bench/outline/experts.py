"""How many experts the model of a stored run has, without loading it."""

from __future__ import annotations

from pathlib import Path

from bench import PACKAGE_PREFIX
from bench.compose.components import resolve_path
from bench.records.model import Run
from bench.runtime.checkpoint_files import CONFIG_FILE, read_json


def experts_in_all(counted: int | None, run: Run) -> int | None:
    """Experts of the model, of all layers together.

    Args:
        counted: As the run's samples count them; None in records that are older than this count. Then the
            files of a model that is shipped with this package say.
        run: The run.

    Returns:
        The number; None if neither says.
    """
    path = str(run.config.get("model", {}).get("path", ""))
    if counted is not None or not path.startswith(PACKAGE_PREFIX):
        return counted
    shape = read_json(Path(resolve_path(path)) / CONFIG_FILE)
    return int(shape["num_experts"]) * int(shape["num_hidden_layers"])
