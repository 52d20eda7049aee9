"""``python -m bench.convert kind=medusa model=vicuna_7b source=...``: published weights become ours.

Composes like the benchmark itself and shares its error contract; see `bench.cli`. Of the model only the
config is read, and downloaded if it must be, except for ``kind=checkpoint``, which converts the model itself.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf

from bench.cli import run_composed
from bench.compose.components import require_choice, require_complete, require_known
from bench.compose.settings import ModelConfig
from bench.errors import UserError

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint"
KINDS = ("medusa", "kangaroo", "hamburger", CHECKPOINT)


@dataclass
class ConvertConfig:
    """What a conversion can be told.

    Args:
        kind: What the published weights are, one of `KINDS`.
        model: The model they belong to.
        source: The published file, its folder or its Hub id; not for ``checkpoint``.
        revision: Branch, tag or commit of a Hub id.
        exit_layer: Of ``kangaroo``: layers whose output the adapter reads.
        out: Folder of the result; None is ``results/convert/<model>/<kind>``.
    """

    kind: str = MISSING
    model: ModelConfig = MISSING
    source: str | None = None
    revision: str | None = None
    exit_layer: int | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, KINDS)
        if (self.source is None) != (self.kind == CHECKPOINT):
            raise UserError(
                f"kind={self.kind} needs source, the published weights"
                if self.source is None
                else f"kind={self.kind} converts the model itself, got source={self.source}",
                "add source=FILE, FOLDER or HUB_ID" if self.source is None else "name it by model.path",
            )
        if self.exit_layer is not None and self.kind != "kangaroo":
            raise UserError(f"kind={self.kind} has no exit_layer, got {self.exit_layer}", "leave it out")

    @property
    def folder(self) -> Path:
        """Where the result goes."""
        model = self.model.name or Path(self.model.path).name
        return Path(self.out or f"results/convert/{model}/{self.kind}")


def main() -> None:
    """Entry point of ``python -m bench.convert``."""
    ConfigStore.instance().store(name="convert_schema", node=ConvertConfig)
    run_composed(_job, "convert", "what was not finished is not loadable; run the command again")


def _job(composed: DictConfig) -> None:
    require_known(composed)
    if OmegaConf.is_missing(composed.model, "path"):
        raise UserError(
            "the model must be given: weights are checked against it",
            "add model=NAME, one of those that --help lists, or model.path=FOLDER",
        )
    require_complete(composed)
    config: ConvertConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]  # the schema's type
    model = [one for one in HydraConfig.get().overrides.task if one.startswith("model")]
    if config.kind == CHECKPOINT:
        made = f"{len(convert_model(config))} files of weights"
        named = [one for one in model if not one.startswith("model.path=")]
        command = [*named, f"model.path={config.folder}"]
    else:
        made = convert_module(config)
        command = [f"method={config.kind}", *model, f"method.weights={config.folder}"]
    _say(f"{made} in {config.folder}; use them with\npython -m bench {' '.join(command)}")


def convert_model(config: ConvertConfig) -> list[Path]:
    """Convert the model itself; the files of weights."""
    from bench.convert.checkpoint import WEIGHTS, convert_checkpoint
    from bench.runtime.hub import COMPANIONS, fetch

    folder = fetch(config.model.path, config.model.revision, [WEIGHTS, *COMPANIONS])
    return convert_checkpoint(folder, config.folder)


def convert_module(config: ConvertConfig) -> str:
    """Convert a method's modules; what they are, in words.

    Raises:
        UserError: If the published file is not there, damaged or does not fit the model.
    """
    from bench.convert.published import locate, read_file
    from bench.runtime.families import decoder_config
    from bench.runtime.hub import fetch
    from bench.runtime.loading import load_config

    base = fetch(config.model.path, config.model.revision, ["config.json"])
    shape = decoder_config(load_config(base))
    assert config.source is not None
    origin = locate(config.source, config.revision, _names(config.kind))
    found = read_file(origin.file)
    facts = {"model": config.model.name or Path(config.model.path).name, "converted": origin.facts()}
    if config.kind == "hamburger":
        return _hamburger(config, found, base, shape, origin.file, facts)
    return _module(config, found, shape, origin.file, facts)


def _names(kind: str) -> tuple[str, ...]:
    from bench.convert import hamburger, kangaroo, medusa

    return {"medusa": medusa.FILES, "kangaroo": kangaroo.FILES, "hamburger": hamburger.FILES}[kind]


def _module(config: ConvertConfig, found: Any, shape: Any, file: Path, facts: dict[str, Any]) -> str:  # noqa: ANN401 - torch stays out of --help
    """Medusa's heads or Kangaroo's adapter, to a folder of ``module.safetensors`` and ``module.json``."""
    from bench.convert.kangaroo import convert_kangaroo
    from bench.convert.medusa import convert_medusa
    from bench.convert.published import only_tensors
    from bench.runtime.modules import save_module

    tensors = only_tensors(found, file)
    if config.kind == "medusa":
        tensors, own = convert_medusa(tensors, shape, file)
        what = f"{own['heads']} heads"
    else:
        tensors, own = convert_kangaroo(tensors, shape, file, config.exit_layer)
        what = f"adapter of exit layer {own['exit_layer']}"
    save_module(config.folder, tensors, {**facts, **own})
    return what


def _hamburger(
    config: ConvertConfig,
    found: Any,  # noqa: ANN401 - as above
    base: Path,
    shape: Any,  # noqa: ANN401 - as above
    file: Path,
    facts: dict[str, Any],
) -> str:
    """A whole tuned model, to a folder of ``model.safetensors`` and a ``config.json`` with its own block."""
    from bench.convert.hamburger import convert_hamburger
    from bench.runtime.modules import save_model
    from methods.hamburger.checkpoint import BLOCK

    tensors, parts = convert_hamburger(found, shape, file)
    plain = json.loads((base / "config.json").read_text())
    save_model(config.folder, tensors, {**plain, BLOCK: {**parts.plain(), **facts}})
    return f"a tuned model with groups of up to {parts.max_group} tokens"


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the command's result
