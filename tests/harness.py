"""A whole benchmark in miniature: a random model with a real tokenizer, prompts, composed settings."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from transformers import AutoModelForCausalLM, LlamaConfig, OlmoeConfig

from bench.compose.arena import arena_settings
from bench.compose.schema import register_schema
from bench.compose.settings import Settings, settings_from
from bench.report.drawing import Drawn
from bench.train.data.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
TEXTS = [
    "What is the capital of France? Paris is the capital.",
    "Tell me a story about a fox and a hen.",
] * 20


def published_arena() -> Path:
    """The published run with most answers, whose table README shows."""
    packed = (ROOT / "results" / "published" / "runs").glob("*/samples.jsonl.gz")
    return max(packed, key=lambda file: file.stat().st_size).parent


def save_random_model(
    folder: Path, layers: int = 4, context: int = 256, kind: type[LlamaConfig | OlmoeConfig] = LlamaConfig
) -> Path:
    """A checkpoint with random weights and a tokenizer that chats."""
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = kind(
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
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def save_prompts(path: Path, *prompts: list[str]) -> Path:
    """A JSONL file with one conversation per argument."""
    path.write_text("\n".join(json.dumps({"turns": turns}) for turns in prompts) + "\n")
    return path


@contextmanager
def undrawn() -> Iterator[None]:
    """Inside, a dot stands for each figure of a report: drawing them takes most of its time."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, format="PNG")
    dot = Drawn("<svg></svg>", file.getvalue())

    with patch("bench.report.build.draw_all", lambda orders: [dot] * len(orders)):
        yield


METHODS = {"layerskip": ["method.exit_layer=2"]}
"""What methods need on the random model."""


def composed_settings(*overrides: str) -> Settings:
    """Settings as the command line would make them; of tiny where these overrides name no model."""
    is_named = any(override.startswith(("model=", "experiment=")) for override in overrides)
    return settings_from(*composed_tree(*overrides, *([] if is_named else ["model=tiny"])))


def composed_tree(*overrides: str, config: str = "bench") -> tuple[DictConfig, dict[str, str | None]]:
    """What Hydra makes of these overrides: the tree, and the chosen option of every config group.

    The choices of groups are composed once per process; single values are then set by Hydra's own function.

    Args:
        overrides: As on the command line.
        config: The primary yaml; the schema of another than ``bench`` must be registered.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    is_single = [_is_single_value(override) for override in parsed]
    groups = tuple(text for text, single in zip(overrides, is_single, strict=True) if not single)
    stored, choices = _composed_groups(groups, config)
    composed = deepcopy(stored)
    try:
        values = [override for override, single in zip(parsed, is_single, strict=True) if single]
        ConfigLoaderImpl._apply_overrides_to_config(values, composed)
    except OmegaConfBaseException as error:  # as Hydra does
        raise ConfigCompositionException from error
    OmegaConf.set_struct(composed, False)
    return composed, dict(choices)


def _is_single_value(override: Override) -> bool:
    """Whether an override is a plain ``key=value`` of the tree that chooses no option of a group."""
    key = override.get_key_element()
    is_plain = key.replace(".", "").isidentifier() and not override.is_sweep_override()
    return is_plain and not key.startswith("hydra.") and not (CONF / key).is_dir()


@cache
def _composed_groups(groups: tuple[str, ...], config: str) -> tuple[DictConfig, dict[str, str | None]]:
    """What Hydra makes of the choices of groups; a plain method or task is put in without Hydra."""
    chosen = [group for group in groups if config == "bench" and _file_by_itself(group) is not None]
    if chosen and not _is_in_experiment(chosen[-1], groups):
        stored, choices = _composed_groups(tuple(group for group in groups if group != chosen[-1]), config)
        composed, (name, _, option) = deepcopy(stored), chosen[-1].partition("=")
        composed[name] = OmegaConf.load(_file_by_itself(chosen[-1]))
        return composed, {**choices, name: option}
    register_schema()
    is_ready = GlobalHydra.instance().is_initialized()  # by the caller, for the same folder
    with nullcontext() if is_ready else initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose(config, list(groups), return_hydra_config=True)
    choices = dict(composed.hydra.runtime.choices)
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    OmegaConf.set_struct(composed, True)
    return composed, choices


def _file_by_itself(group: str) -> Path | None:
    """The yaml of ``method=NAME`` or ``task=NAME`` if it names no other; the schema leaves both open."""
    name, _, option = group.partition("=")
    file = CONF / name / f"{option}.yaml"
    is_plain = name in ("method", "task") and file.is_file() and "defaults" not in OmegaConf.load(file)
    return file if is_plain else None


def _is_in_experiment(chosen: str, groups: tuple[str, ...]) -> bool:
    """Whether a chosen experiment has a word to say about the group of this choice."""
    name = chosen.partition("=")[0]
    for group in groups:
        key, _, option = group.partition("=")
        file = CONF / key / f"{option}.yaml"
        if key == "experiment" and file.is_file():
            is_overridden = f"override /{name}" in file.read_text(encoding="utf-8")
            return is_overridden or name in OmegaConf.load(file)
    return False


@contextmanager
def hydra_repeats_nothing() -> Iterator[None]:
    """Inside, configuration files are parsed once, and a command is composed once."""
    with remembered_yaml(), mode_of_experiments_alone():
        yield


@contextmanager
def remembered_yaml() -> Iterator[None]:
    """Inside, Hydra parses each yaml file once and not once per composition, unless the file changes.

    Nor does it copy the store of schemas for each composition: what it loads from there is a copy anyway.
    """
    with ExitStack() as patches:
        patches.enter_context(patch.object(ConfigStore, "__deepcopy__", lambda store, _: store, create=True))
        for scheme, modified in (("file", _modified), ("pkg", lambda source, path: 0)):
            patches.enter_context(_remembered(scheme, modified))
        yield


@contextmanager
def mode_of_experiments_alone() -> Iterator[None]:
    """Inside, Hydra composes most commands once: it does so twice, first to look for ``hydra.mode``.

    Only an experiment's yaml, or an override of Hydra's own keys, sets that.
    """
    look_up = Hydra.get_mode

    def get_mode(hydra: Hydra, config_name: str | None, overrides: list[str]) -> RunMode | None:
        may_set = any(override.lstrip("+~").startswith(("experiment", "hydra")) for override in overrides)
        return look_up(hydra, config_name, overrides) if may_set else None

    with patch.object(Hydra, "get_mode", get_mode):
        yield


def _remembered(scheme: str, modified: Callable[[ConfigSource, str], int | None]) -> Any:
    """Patches the reader of Hydra's that reads paths of this scheme.

    It is asked for: as a plugin its module is loaded a second time, and the class that an import gives is not
    the one at work.

    Args:
        scheme: ``file`` or ``pkg``; the latter are Hydra's own files, which do not change.
        modified: When a file was changed, None if there is none.
    """
    Plugins.instance()  # registers the readers
    reader = SourcesRegistry.instance().resolve(scheme)
    read, results = reader.load_config, dict[tuple[str, str, str, int], ConfigResult]()

    def load(source: ConfigSource, config_path: str) -> ConfigResult:
        changed = modified(source, config_path)
        if changed is None:
            return read(source, config_path)
        key = (source.provider, source.path, config_path, changed)
        if key not in results:
            results[key] = read(source, config_path)
        return deepcopy(results[key])

    return patch.object(reader, "load_config", load)


def _modified(source: ConfigSource, config_path: str) -> int | None:
    path = Path(source.path, source._normalize_file_name(config_path))
    return path.stat().st_mtime_ns if path.is_file() else None


def settings_for(
    model: Path, prompts: Path, results: Path, *overrides: str, method: str = "layerskip"
) -> Settings:
    """Settings of one run on that model and those prompts."""
    own = [f"method={method}", *METHODS.get(method, [])]
    return composed_settings(*_small_run(model, prompts, results), *own, *overrides)


def arena_for(model: Path, prompts: Path, results: Path, methods: str, *overrides: str) -> Settings:
    """Settings of a run of several methods, which `methods` lists as on the command line."""
    return arena_of(methods, *_small_run(model, prompts, results), *overrides)


def arena_of(methods: str, *overrides: str, known: Sequence[str] = ()) -> Settings:
    """Settings of a run of several methods with these overrides alone; `known` is what ``all`` stands for."""
    composed, _ = composed_tree(f"methods={methods}", *overrides)
    return arena_settings(composed, lambda further: composed_tree(*overrides, *further), known)


def _small_run(model: Path, prompts: Path, results: Path) -> list[str]:
    return [
        "model=local",
        f"model.path={model}",
        "task=jsonl",
        f"task.path={prompts}",
        "max_new_tokens=8",
        f"results_dir={results}",
        "measure.warmup.max_rounds=1",  # times are not looked at, and on a busy machine never agree
    ]
