"""A whole benchmark in miniature: a random model with a real tokenizer, prompts, composed settings."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from transformers import LlamaConfig, LlamaForCausalLM

from bench.compose.settings import Settings, register_schema, settings_from
from bench.train.data.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
TEXTS = [
    "What is the capital of France? Paris is the capital.",
    "Tell me a story about a fox and a hen.",
] * 20


def save_random_model(folder: Path, layers: int = 4, context: int = 256) -> Path:
    """A checkpoint with random weights and a tokenizer that chats."""
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def save_prompts(path: Path, *prompts: list[str]) -> Path:
    """A JSONL file with one conversation per argument."""
    path.write_text("\n".join(json.dumps({"turns": turns}) for turns in prompts) + "\n")
    return path


@contextmanager
def undrawn() -> Iterator[None]:
    """Inside, figures are saved empty: drawing them takes most of a report's time."""

    def save(figure: Figure, file: io.IOBase, *, format: str, **options: object) -> None:
        file.write("<svg></svg>" if format == "svg" else b"")

    with patch.object(Figure, "savefig", save):
        yield


METHODS = {"layerskip": ["method.exit_layer=2"], "autoregressive": [], "synthetic": []}


def composed_settings(*overrides: str) -> Settings:
    """Settings as the command line would make them; of tiny where these overrides name no model."""
    is_named = any(override.startswith(("model=", "experiment=")) for override in overrides)
    return settings_from(*composed_tree(*overrides, *([] if is_named else ["model=tiny"])))


def composed_tree(*overrides: str) -> tuple[DictConfig, dict[str, str | None]]:
    """What Hydra makes of these overrides: the tree, and the chosen option of every config group."""
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("bench", list(overrides), return_hydra_config=True)
    choices = dict(composed.hydra.runtime.choices)
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    return composed, choices


def settings_for(
    model: Path, prompts: Path, results: Path, *overrides: str, method: str = "layerskip"
) -> Settings:
    """Settings of one run on that model and those prompts."""
    chosen = [
        "model=local",
        f"model.path={model}",
        f"method={method}",
        *METHODS[method],
        "task=jsonl",
        f"task.path={prompts}",
        "max_new_tokens=8",
        f"results_dir={results}",
        "measure.resamples=200",
        "measure.warmup.max_rounds=1",  # times are not looked at, and on a busy machine never agree
        *overrides,
    ]
    return composed_settings(*chosen)
