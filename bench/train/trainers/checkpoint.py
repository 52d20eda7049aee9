"""Checkpoints of a training run, and starting a run from the weights of earlier runs."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.errors import UserError
from bench.records.files import replacing
from bench.runtime.modules import require_fit

STATE_FILE = "state.pt"
log = logging.getLogger(__name__)


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state atomically: a kill at any moment leaves the old file or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / STATE_FILE) as fresh:
        torch.save(dict(state), fresh)
    log.info("checkpoint at step %s in %s", state["step"], folder)


def load_state(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The saved state, or None if there is none.

    Args:
        folder: Folder of the run.
        settings: Everything the run's result depends on; a saved run must have the same.

    Raises:
        UserError: If the folder holds a run with other settings.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    saved = state.get("settings", {})  # missing in checkpoints of older versions, which are refused
    if changed := sorted(
        key for key in settings.keys() | saved.keys() if settings.get(key) != saved.get(key)
    ):
        raise UserError(
            f"{folder} holds a run with other settings ({', '.join(changed)})",
            "Give another output folder, or restore the settings to resume that run.",
        )
    return state


def load_start(module: nn.Module, files: Sequence[Path]) -> None:
    """Load the weights of an earlier run, or the mean of several runs' weights; the optimiser starts anew.

    The mean of models tuned from the same weights on different data is often better than each of them
    (model soups, arXiv 2203.05482), so runs on several machines or cores can be combined into one.

    Args:
        module: The module to train; its weights are replaced.
        files: Weights of this module as `bench.train` wrote them, of one run or several.

    Raises:
        UserError: If there is no such file, or it holds another module's weights.
    """
    means = {name: torch.zeros_like(tensor) for name, tensor in module.state_dict().items()}
    for file in files:
        for name, tensor in _weights(file, means).items():
            means[name] += tensor.to(means[name]) / len(files)
    module.load_state_dict(means)


def _weights(file: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    fix = "set start to a folder that bench.train wrote for this method and model"
    if not file.is_file():
        raise UserError(f"{file.parent} holds no {file.name} to start from", fix)
    tensors = load_file(file)
    require_fit(tensors, {name: tuple(tensor.shape) for name, tensor in like.items()}, str(file), fix)
    return tensors
