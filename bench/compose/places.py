"""Where a run's model and trained modules must lie; what is missing is refused before anything is loaded.

The default folder of ``bench.train`` is the one that ``method.weights`` looks into.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bench import PACKAGE_PREFIX, PACKAGE_ROOT
from bench.compose.components import Component, resolve_path
from bench.compose.schema import ModelConfig
from bench.compose.settings import Settings, modules_of
from bench.errors import UserError
from bench.records.files import expanded
from bench.runtime.package_index import PREFIX as FETCH_PREFIX

GGUF_SUFFIX = ".gguf"
"""As in `bench.runtime.checkpoint_files`, which imports the Hub's client."""
_CONF = PACKAGE_ROOT / "conf"
_FILES = ("module.safetensors", "module.json", "config.json")
"""One of them is in every folder of trained modules, or of a whole model of a method's own."""
_WHOLE_MODEL = ("hamburger",)
_SEARCHED = ("draft_verify",)
"""Methods that are fitted by ``bench.train.skip_set``, not trained."""


def require_places(settings: Settings) -> None:
    """Refuse a model, then modules, that are looked for in a folder that is not there.

    Raises:
        UserError: Naming the folder, and the command that makes what is missing.
    """
    require_model_place(settings.model)
    if not settings.plan:  # a plan lists what is missing
        for method in settings.methods.values():
            _require_modules(method, settings.model)


def require_model_place(model: ModelConfig) -> None:
    """Refuse a ``model.path`` that can only be a folder or a file, and is none; a Hub id is left to the Hub.

    Raises:
        UserError: If it is.
    """
    reference = model.path
    if reference.startswith((PACKAGE_PREFIX, FETCH_PREFIX)):
        return
    folder = expanded(reference)
    if folder.is_dir() or is_gguf(folder):
        return
    is_path = folder.is_absolute() or reference.startswith((".", "~")) or folder.suffix == GGUF_SUFFIX
    if is_path or reference.count("/") != 1:
        raise UserError(
            f"model.path={reference}: there is no such folder or GGUF file",
            "set model.path to an existing folder, a GGUF file or a Hub id such as org/name",
        )


def _require_modules(method: Component, model: ModelConfig) -> None:
    weights = method.params.get("weights")
    if not isinstance(weights, str) or not method.target.startswith("methods."):
        return
    folder = Path(resolve_path(weights)).expanduser()
    if is_gguf(folder) or any((folder / name).is_file() for name in _FILES):
        return
    what = "holds no module.safetensors" if folder.is_dir() else "there is no such folder"
    raise UserError(
        f"method.weights={weights}: {what}, so method={method.name} has no modules for model={model.name}",
        f"train them: {training_command(method.name, model, weights)}; or set method.weights to their folder",
    )


def training_command(method: str, model: ModelConfig, weights: str | None = None) -> str:
    """The command that makes a method's modules for a model.

    Args:
        method: Name of its yaml.
        model: The model.
        weights: Where a run looks for them; None is the default.
    """
    name, default = trained_name(method), default_out(method, str(model.name), model)
    arguments = [f"method={name}", *model_arguments(model)]
    if name in _SEARCHED:
        arguments += [] if model.name == "tiny" else ["prompts=FILE"]
    arguments += ["recipe=joint"] if name in _WHOLE_MODEL else []
    arguments += [] if weights is None or Path(weights) == default else [f"out={weights}"]
    module = "bench.train.skip_set" if name in _SEARCHED else "bench.train"
    return f"python -m {module} {shlex.join(arguments)}"


def default_out(method: str, choice: str, model: ModelConfig) -> Path:
    """Folder that training writes to: where ``method.weights`` looks, unless that is part of the package.

    Args:
        method: Name of its yaml.
        choice: Name of the model's yaml.
        model: The model.
    """
    modules = modules_of(model.modules, choice)
    if modules.startswith(PACKAGE_PREFIX) or is_gguf(expanded(model.path)):
        modules = modules_of(None, choice)
    return Path(modules) / trained_name(method)


def is_gguf(path: Path) -> bool:
    """Whether a path is a checkpoint in one GGUF file."""
    return path.suffix == GGUF_SUFFIX and path.is_file()


@cache
def trained_name(method: str) -> str:
    """The method whose training makes these modules: ``kangaroo`` for ``kangaroo_tree``."""
    file = _CONF / "method" / f"{method}.yaml"
    if not file.is_file():
        return method
    raw: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    weights = raw.get("weights") if isinstance(raw, Mapping) else None
    return str(weights).rpartition("/")[2] if isinstance(weights, str) else method


def model_arguments(model: ModelConfig) -> list[str]:
    """What names this model on a command line."""
    file = _CONF / "model" / f"{model.name}.yaml"
    if file.is_file() and OmegaConf.select(OmegaConf.load(file), "path") == model.path:
        return [f"model={model.name}"]
    return ["model=local", f"model.path={model.path}"]
