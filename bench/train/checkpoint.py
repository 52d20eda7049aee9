"""The state of an interrupted training run: one file, written whole or not at all."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.errors import UserError

STATE_FILE = "state.pt"
log = logging.getLogger(__name__)


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state atomically: a kill at any moment leaves the old file or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{STATE_FILE}.partial"
    torch.save(dict(state), partial)
    os.replace(partial, folder / STATE_FILE)  # noqa: PTH105 - the atomic rename is the point
    log.info("checkpoint at step %s in %s", state["step"], folder)


def load_state(folder: Path, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    """The saved state, or None where there is none.

    Args:
        folder: Folder of the run.
        recipe: Settings of the run; a saved run with other settings is refused.

    Raises:
        UserError: If the folder holds a run with other settings.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    saved = state["recipe"]
    if changed := sorted(key for key in recipe.keys() | saved.keys() if recipe.get(key) != saved.get(key)):
        raise UserError(
            f"{folder} holds a run with other settings ({', '.join(changed)})",
            "Give another output folder, or restore the settings to resume that run.",
        )
    return state
