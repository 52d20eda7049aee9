"""``model=auto``: the model that it stands for is settled before anything of a run follows from it.

The option composes as smollm2 (``conf/model/auto.yaml``). Where that model is not in the cache and cannot be
fetched, its keys are replaced by those of tiny; where ``model.path`` names another model, by those of
``model=local``. Keys that the command line changed stay as they are. A plan fetches nothing: it says what the
run would need first.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bench.compose.schema import ModelConfig
from bench.errors import UserError
from bench.runtime.package_index import PREFIX, fetch_model

AUTOMATIC, PREFERRED, SHIPPED, OWN = "auto", "smollm2", "tiny", "local"
_MODELS = Path(__file__).resolve().parents[2] / "conf" / "model"
log = logging.getLogger(__name__)


def settle_model(
    composed: DictConfig, choices: Mapping[str, str | None]
) -> tuple[DictConfig, Mapping[str, str | None]]:
    """`composed` and the chosen options with smollm2 or tiny in the place of ``model=auto``.

    A model that has to be fetched is fetched here, before anything slow is imported or loaded.

    Args:
        composed: Hydra's tree; not changed.
        choices: Chosen option of every config group.

    Raises:
        UserError: If a model that was named cannot be fetched.
    """
    is_automatic = choices.get("model") == AUTOMATIC
    path = "" if OmegaConf.is_missing(composed.model, "path") else str(composed.model.path)
    if is_automatic and not path.startswith(PREFIX):
        return _replaced(composed, OWN), {**choices, "model": OWN}
    obstacle = None
    if path.startswith(PREFIX) and not composed.bench.plan:
        obstacle = _obstacle(path.removeprefix(PREFIX))
    if obstacle is None:
        return composed, {**choices, "model": PREFERRED} if is_automatic else choices
    if not is_automatic:
        raise obstacle
    log.warning("model=auto takes %s: %s", SHIPPED, obstacle.what)
    return _replaced(composed, SHIPPED), {**choices, "model": SHIPPED}


@cache
def _obstacle(name: str) -> UserError | None:
    """Why a model cannot be fetched; tried once for all runs of a process."""
    try:
        fetch_model(name)
    except UserError as error:
        return error
    return None


def _replaced(composed: DictConfig, name: str) -> DictConfig:
    """A copy in which the model's keys that still have the values of smollm2 have those of another model."""
    settled = copy.deepcopy(composed)
    preferred, others = _keys(PREFERRED), _keys(name)
    for key, value in _plain(settled.model).items():
        if value == preferred[key]:
            settled.model[key] = others[key]
    return settled


def _keys(name: str) -> dict[str, Any]:
    """All keys of a model as its file sets them, or by default; interpolations as written."""
    return _plain(OmegaConf.structured(ModelConfig)) | _plain(OmegaConf.load(_MODELS / f"{name}.yaml"))


def _plain(node: Any) -> dict[str, Any]:  # noqa: ANN401 - OmegaConf's own types are as wide
    plain = OmegaConf.to_container(node, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
