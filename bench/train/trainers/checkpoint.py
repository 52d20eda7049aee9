"""Checkpoints of a training run, and starting a run from the weights of earlier runs."""

import logging
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import UserError
from bench.records.files import replacing
from bench.runtime.modules import require_fit
from bench.runtime.stored_tensors import read_file
from bench.train.same_settings import require_same_settings

STATE_FILE = "state.pt"
_DAMAGES = (
    *(OSError, EOFError, LookupError, RuntimeError, TypeError, ValueError, AttributeError, AssertionError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error),
)
"""What `torch.load` and `load_state_dict` raise on a file that is cut short or of another program."""
log = logging.getLogger(__name__)


def make_folder(folder: Path) -> None:
    """Create the folder of a training.

    Raises:
        UserError: If it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be made: {error.strerror}", "give a folder that can be written as out=..."
        ) from error


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state atomically: a kill at any moment leaves the old file or the new one."""
    make_folder(folder)
    with replacing(folder / STATE_FILE) as fresh:
        torch.save(dict(state), fresh)
    log.info("checkpoint at step %s in %s", state["step"], folder)


def load_state(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The saved state, or None if there is none.

    Args:
        folder: Folder of the run.
        settings: Everything the run's result depends on; a saved run must have the same.

    Raises:
        UserError: If the folder holds a run with other settings, or the file is damaged.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    with intact(folder):
        _check_sums(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved = state.get("settings", {})  # missing in checkpoints of older versions, which are refused
    require_same_settings(
        folder, saved, settings, "give another output folder, or restore the settings to resume that run"
    )
    return state


def _check_sums(path: Path) -> None:
    """Compare the checksums of a saved state, which `torch.load` does not.

    Raises:
        ValueError: If one differs.
    """
    with zipfile.ZipFile(path) as archive:
        if (changed := archive.testzip()) is not None:
            raise ValueError(f"the content of {changed} was changed")


@contextmanager
def intact(folder: Path) -> Iterator[None]:
    """Inside, errors of reading the saved state, or of restoring what it holds, say that it is damaged.

    Raises:
        UserError: Instead of such an error.
    """
    try:
        yield
    except _DAMAGES as error:
        raise UserError(
            f"{folder / STATE_FILE} is damaged, or of another program ({type(error).__name__})",
            "delete it; the training then begins again from its first step",
        ) from error


def load_start(module: nn.Module, files: Sequence[Path]) -> None:
    """Load the weights of an earlier run, or the mean of several runs' weights; the optimiser starts anew.

    The mean of models tuned from the same weights on different data is often better than each of them
    (model soups, arXiv 2203.05482), so runs on several machines or cores can be combined into one.

    Args:
        module: The module to train; its weights are replaced.
        files: Weights of this module as `bench.train` wrote them, of one run or several.

    Raises:
        UserError: If there is no such file, it is damaged, or it holds another module's weights.
    """
    means = {name: torch.zeros_like(tensor) for name, tensor in trained_state(module).items()}
    for file in files:
        for name, tensor in _weights(file, means).items():
            means[name] += tensor.to(means[name]) / len(files)
    load_trained(module, means)


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module's state that are trained; frozen weights are left out."""
    frozen = {name for name, weight in module.named_parameters() if not weight.requires_grad}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}


def load_trained(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what `trained_state` gave.

    Raises:
        KeyError: If tensors are missing or left over.
        RuntimeError: If one has another shape.
    """
    if state.keys() != trained_state(module).keys():
        raise KeyError("the state is not that of this module")
    module.load_state_dict(state, strict=False)


def _weights(file: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    fix = "set start to a folder that bench.train wrote for this method and model"
    if not file.is_file():
        raise UserError(f"{file.parent} holds no {file.name} to start from", fix)
    tensors = read_file(file)
    require_fit(tensors, {name: tuple(tensor.shape) for name, tensor in like.items()}, str(file), fix)
    return tensors
