"""``python -m bench.train.mixture text=[FILE,FILE] recipe.minutes=80``: the embedded mixture of experts.

It is trained from nothing, on the embedded model's dialogues mixed with the given text, for a given time.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from bench.cli import run_composed
from bench.compose.components import require_complete, require_known, resolve_path
from bench.errors import UserError
from bench.show.waiting import announce
from bench.train.mixture.recipe import MixtureRecipe

log = logging.getLogger(__name__)


@dataclass
class MixtureConfig:
    """Settings of the training.

    Args:
        text: Files of real text: a line is a dialogue (``messages``) or a question (``turns``).
        tokenizer: Folder of the tokenizer.
        recipe: See `bench.train.mixture.recipe.MixtureRecipe`.
        out: Folder of the result, in the layout of Hugging Face.
    """

    text: Any = field(default_factory=list)
    tokenizer: str = "package:bench/assets/tiny"
    recipe: MixtureRecipe = field(default_factory=MixtureRecipe)
    out: str = "results/train/tiny_moe"


def main() -> None:
    """Entry point of ``python -m bench.train.mixture``."""
    ConfigStore.instance().store(name="mixture_schema", node=MixtureConfig)
    run_composed(_job, "mixture", "the last checkpoint is kept in the folder of the result")


def _job(composed: DictConfig) -> None:
    require_known(composed)
    require_complete(composed)
    settings: MixtureConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]  # the schema's type
    files = [Path(file) for file in ([settings.text] if isinstance(settings.text, str) else settings.text)]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(f"text names {missing[0]}, which is no file", "give files, or text=[] for none")
    announce("loading torch and the texts; training comes next")

    import torch
    from transformers import PreTrainedTokenizerFast

    from bench.train.mixture.loop import train

    torch.set_num_threads(1)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(resolve_path(settings.tokenizer))
    figures = train(settings.recipe, tokenizer, files, Path(settings.out))
    shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    log.info("%s; use it with model=local model.path=%s", shown, settings.out)
