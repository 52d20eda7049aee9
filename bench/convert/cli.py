"""``python -m bench.convert kind=medusa model=vicuna_7b source=...``: converts published weights.

Settings and error messages work as in the benchmark itself; see `bench.cli`. Only the model's config is read,
and downloaded if necessary, except with ``kind=checkpoint``, which converts the model itself.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf

from bench.cli import run_composed
from bench.compose.components import require_choice, require_complete, require_known
from bench.compose.schema import ModelConfig
from bench.errors import UserError
from bench.show.waiting import announce

log = logging.getLogger(__name__)

CHECKPOINT, INT8, MERGED = "checkpoint", "int8", "merged"
KINDS = ("medusa", "kangaroo", "eagle3", "hamburger", CHECKPOINT, INT8, MERGED)


@dataclass
class ConvertConfig:
    """Settings of a conversion.

    Args:
        kind: Kind of the published weights, one of `KINDS`; ``int8`` stores a folder of ours in 8 bits,
            ``merged`` adds the low-rank changes in one to the model.
        model: The model they belong to.
        source: The published file, its folder or its Hub id; not for ``checkpoint``; a folder for ``int8``
            and ``merged``.
        revision: Branch, tag or commit of a Hub id.
        exit_layer: Only for ``kangaroo``: the number of target layers that run before the adapter.
        out: Folder of the result; None stands for ``results/convert/<model>/<kind>``.
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
        """Folder of the result."""
        model = self.model.name or Path(self.model.path).name
        return Path(self.out or f"results/convert/{model}/{self.kind}")


def main() -> None:
    """Entry point of ``python -m bench.convert``."""
    ConfigStore.instance().store(name="convert_schema", node=ConvertConfig)
    run_composed(_job, "convert", "an unfinished result cannot be loaded; run the command again")


def _job(composed: DictConfig) -> None:
    require_known(composed)
    if OmegaConf.is_missing(composed.model, "path"):
        raise UserError(
            "the model must be given: weights are checked against it",
            "add model=NAME, one of those that --help lists, or model.path=FOLDER",
        )
    require_complete(composed)
    config: ConvertConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]  # the schema's type
    announce("loading torch, then the source")
    model = [override for override in HydraConfig.get().overrides.task if override.startswith("model")]
    if config.kind == INT8:
        from bench.convert.int8 import convert_int8

        assert config.source is not None
        result = convert_int8(Path(config.source), config.folder)
        command = ["method=NAME", *model, f"method.weights={config.folder}"]
    elif config.kind == MERGED:
        from bench.convert.merged import convert_merged
        from bench.runtime.checkpoint_files import resolve

        assert config.source is not None
        base = resolve(config.model.path, config.model.revision)
        result = convert_merged(Path(config.source), base, config.folder)
        command = ["method=layerskip", "model=local", f"model.path={config.folder}"]
    elif config.kind == CHECKPOINT:
        result = f"{len(convert_model(config))} weight files"
        others = [override for override in model if not override.startswith("model.path=")]
        command = [*others, f"model.path={config.folder}"]
    else:
        result = convert_module(config)
        command = [f"method={config.kind}", *model, f"method.weights={config.folder}"]
    text = f"{result} in {config.folder}; use them with\npython -m bench {' '.join(command)}"
    print(text, flush=True)  # noqa: T201 - the command's result


def convert_model(config: ConvertConfig) -> list[Path]:
    """Convert the model itself; returns the weight files."""
    from bench.convert.checkpoint import WEIGHTS, convert_checkpoint
    from bench.runtime.checkpoint_files import COMPANIONS, fetch

    folder = fetch(config.model.path, config.model.revision, [WEIGHTS, *COMPANIONS])
    return convert_checkpoint(folder, config.folder)


def convert_module(config: ConvertConfig) -> str:
    """Convert a method's modules; returns a description of them.

    Raises:
        UserError: If the published file is missing, damaged or does not fit the model.
    """
    from bench.convert.published import locate, read_file
    from bench.runtime.checkpoint_files import fetch
    from bench.runtime.loading import load_config
    from bench.runtime.model_config import decoder_config

    base = fetch(config.model.path, config.model.revision, ["config.json"])
    shape = decoder_config(load_config(base))
    assert config.source is not None
    origin = locate(config.source, config.revision, _names(config.kind))
    published = read_file(origin.file)
    facts = {"model": config.model.name or Path(config.model.path).name, "converted": origin.facts()}
    if config.kind == "hamburger":
        return _hamburger(config, published, base, shape, origin.file, facts)
    return _module(config, published, shape, origin.file, facts)


def _names(kind: str) -> tuple[str, ...]:
    from bench.convert import eagle3, hamburger, kangaroo, medusa

    files = {"medusa": medusa.FILES, "kangaroo": kangaroo.FILES}
    return (files | {"eagle3": eagle3.FILES, "hamburger": hamburger.FILES})[kind]


def _module(config: ConvertConfig, published: Any, shape: Any, file: Path, facts: dict[str, Any]) -> str:  # noqa: ANN401 - --help must not import torch
    """Heads, an adapter or a drafter, to a folder of ``module.safetensors`` and ``module.json``."""
    from bench.convert.eagle3 import convert_eagle3
    from bench.convert.kangaroo import convert_kangaroo
    from bench.convert.medusa import convert_medusa
    from bench.convert.published import only_tensors
    from bench.runtime.modules import save_module

    tensors = only_tensors(published, file)
    if config.kind == "medusa":
        tensors, own = convert_medusa(tensors, shape, file)
        what = f"{own['heads']} heads"
    elif config.kind == "eagle3":
        tensors, own = convert_eagle3(tensors, shape, file)
        what = f"drafter on the rows of layers {', '.join(map(str, own['taps']))}"
    else:
        tensors, own = convert_kangaroo(tensors, shape, file, config.exit_layer)
        what = f"adapter of exit layer {own['exit_layer']}"
    save_module(config.folder, tensors, {**facts, **own})
    return what


def _hamburger(
    config: ConvertConfig,
    published: Any,  # noqa: ANN401 - as above
    base: Path,
    shape: Any,  # noqa: ANN401 - as above
    file: Path,
    facts: dict[str, Any],
) -> str:
    """A whole tuned model, to a folder of ``model.safetensors`` and a ``config.json`` with an extra block."""
    from bench.convert.hamburger import convert_hamburger
    from bench.runtime.checkpoint_files import read_json
    from bench.runtime.modules import save_model
    from methods.hamburger.checkpoint import BLOCK

    tensors, parts = convert_hamburger(published, shape, file)
    plain = read_json(base / "config.json")
    save_model(config.folder, tensors, {**plain, BLOCK: {**parts.plain(), **facts}})
    return f"a tuned model with groups of up to {parts.max_group} tokens"
