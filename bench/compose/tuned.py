"""Settings that ``python -m bench.tune`` found for a model on a machine, in the place of the published ones.

One file per method, ``FOLDER/METHOD.json``; ``tuned=FOLDER`` applies them. What the command line sets for a
single arm of a run of several methods still counts after that.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bench.compose.components import resolve_path
from bench.errors import UserError

log = logging.getLogger(__name__)


def with_tuned(composed: DictConfig, method: str) -> DictConfig:
    """`composed` with the tuned settings of its method, if the folder that ``tuned`` names holds some.

    Raises:
        UserError: If the folder does not exist, or a file in it is damaged or of another model.
    """
    folder = Path(resolve_path(str(composed.tuned)))
    if not folder.is_dir():
        raise UserError(f"tuned={composed.tuned}: there is no such folder", "make it: python -m bench.tune")
    file = folder / f"{method.replace('/', '-')}.json"
    if not file.is_file():
        if OmegaConf.select(composed, "methods") is None:  # of several, only those that have some are named
            log.info("%s has no tuned settings in %s, its published ones are used", method, folder)
        return composed
    log.info("%s has the settings of %s", method, file)
    found = copy.deepcopy(composed)
    for key, value in read_tuned(file, str(composed.model.name or "")).items():
        OmegaConf.update(found, f"method.{key}", value, force_add=True)
    return found


def read_tuned(file: Path, model: str) -> Mapping[str, Any]:
    """The settings in a file of `bench.tune`.

    Raises:
        UserError: If it is damaged, or of another model.
    """
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        settings, owner = stored["settings"], stored["model"]
        if not isinstance(settings, dict):
            raise TypeError("its settings are no object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "restore it, or tune the method again: python -m bench.tune"
        raise UserError(f"{file} holds no tuned settings: {type(error).__name__}: {error}", fix) from error
    if model and owner != model:
        raise UserError(f"{file} was tuned for model {owner}, not {model}", "tune it for this model")
    return settings
