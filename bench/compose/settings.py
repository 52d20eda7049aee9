"""The settings of a run: the schema of the configuration, and the step from Hydra's tree to dataclasses.

Hydra merges yaml files and the command line into the schema `Config`, so that a misspelt key or a wrong type
fails before anything runs. `settings_from` turns the tree into `Settings`; nothing below knows of Hydra. A
method and a task are a `Component`: a constructor and its parameters. The schema is not frozen, because
OmegaConf would then refuse every override.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from bench import PACKAGE_PREFIX
from bench.compose.components import (
    Component,
    by,
    require_choice,
    require_complete,
    require_known,
    require_least,
    require_modules,
    require_temperature,
)
from bench.errors import UserError
from bench.plan.devices import GPUS
from bench.records.model import plain_name

SCHEMA_NAME = "bench_schema"
PROMPT_SOURCES = ("auto", "builtin", "natural", "official")
_PROMPTS_OF_OTHERS = {"auto": "official", "builtin": "natural"}
TEMPLATES = ("auto", "vicuna", "raw")
WEIGHTS = ("stored", "random")
DEVICES = ("auto", "cpu", "cuda")
TIERS = ("auto", "eager", "static", "compiled", "graph")
DTYPES = ("float32", "bfloat16", "float16")
HISTORIES = ("free", "frozen")


@dataclass
class ModelConfig:
    """The target model.

    Args:
        path: Folder, GGUF file, Hugging Face id, ``package:`` path of shipped weights, or ``fetch:`` and a
            model of `bench.fetch`.
        name: Short name in tables and run ids; where empty, `settings_from` takes the last part of `path`.
        revision: Branch, tag or commit of a Hugging Face repository.
        prompts: Source of the questions, see `bench.tasks.task.SourceName`. If `path` is ``package:``,
            ``auto`` becomes ``builtin``; else ``auto`` becomes ``official`` and ``builtin`` ``natural``.
        template: How turns become a prompt: ``auto`` is the tokenizer's own chat template.
        modules: Folder with one subfolder of trained modules per method; None when there is none.
        frequent_tokens: File of its tokens by frequency, for ``method.draft_vocab``, or None.
        draft_vocab: How many of these tokens a method drafts if ``method.draft_vocab`` is not given; None is
            the whole vocabulary.
        context: Longest sequence, in tokens; None is the checkpoint's own limit.
        questions: Most shipped questions of a subtask if ``task.limit`` is not given; None is all.
        weights: ``stored``, or ``random`` in the shape of ``config.json``; then only times mean anything.
        tokenizer: Folder or Hugging Face id of the tokenizer; None is that of `path`.
        dtype: Precision on CUDA if ``runtime.dtype`` is not given: that of the published weights.
        stop_ids: Token ids that end an answer beside those that the checkpoint declares.
    """

    path: str = MISSING
    name: str = ""
    revision: str | None = None
    prompts: str = "auto"
    template: str = "auto"
    modules: str | None = None
    frequent_tokens: str | None = None
    draft_vocab: int | None = None
    context: int | None = None
    questions: int | None = None
    weights: str = "stored"
    tokenizer: str | None = None
    dtype: str | None = None
    stop_ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_choice("model.weights", self.weights, WEIGHTS)
        require_choice("model.prompts", self.prompts, PROMPT_SOURCES)
        require_choice("model.template", self.template, TEMPLATES)
        require_choice("model.dtype", self.dtype or DTYPES[0], DTYPES)
        require_least("model.context", self.context, 1)
        require_least("model.questions", self.questions, 1)
        for token in self.stop_ids:
            require_least("model.stop_ids", token, 0)


@dataclass
class SamplingConfig:
    """How tokens are chosen: temperature 0 is greedy, `top_k` 0 and `top_p` 1 keep every token."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        require_temperature(self.temperature)
        require_least("sampling.top_k", self.top_k, 0)
        if not 0 < self.top_p <= 1:
            what = f"sampling.top_p must lie in (0, 1], got {self.top_p}"
            raise UserError(what, "use 1.0 to keep every token")


@dataclass
class RuntimeConfig:
    """Where and how the decoder runs.

    Args:
        device: ``auto`` takes CUDA where there is a GPU.
        dtype: None is float32 on CPU; on CUDA ``model.dtype``, or bfloat16.
        threads: CPU threads; None takes one for a small model, torch's own choice for others.
        max_length: Cap on prompt plus output, in tokens; the model's context bounds it further.
        tier: How passes run: ``eager`` as in a textbook, ``static`` fused and kernel by kernel, ``compiled``
            in one call (float32 on a CPU; needs a C compiler), ``graph`` by replaying CUDA graphs; ``auto``
            takes the fastest there is.
    """

    device: str = "auto"
    dtype: str | None = None
    threads: int | None = None
    max_length: int = 8192
    tier: str = "auto"

    def __post_init__(self) -> None:
        require_choice("runtime.device", self.device, DEVICES)
        require_choice("runtime.dtype", self.dtype or DTYPES[0], DTYPES)
        require_choice("runtime.tier", self.tier, TIERS)
        require_least("runtime.threads", self.threads, 1, 4096)
        require_least("runtime.max_length", self.max_length, 2)


@dataclass
class WarmupConfig:
    """Warm up until two timings in a row agree within the share `tolerance`, `max_rounds` times at most."""

    max_rounds: int = 10
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        require_least("measure.warmup.max_rounds", self.max_rounds, 1)
        require_least("measure.warmup.tolerance", self.tolerance, 0)


@dataclass
class MeasureConfig:
    """How often to measure, and how sure to be.

    Args:
        repeats: Measured decodes of every prompt by every arm.
        warmup: When decoding counts as warm.
        level: Confidence level of the intervals.
        resamples: Bootstrap resamples.
        history: Later turns follow the arm's own answers (``free``) or the baseline's (``frozen``).
        eager: Also decode with a textbook loop (tier ``eager``), which papers report their speedups over. In
            the first repeat only, interleaved with the other arms: the loop is slow, and its ratio needs less
            precision than the headline. Switched on for a measured run, it adds samples later than those
            they are compared with. No effect if ``runtime.tier`` is ``eager`` already.
    """

    repeats: int = 2
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    level: float = 0.95
    resamples: int = 10_000
    history: str = "free"
    eager: bool = False

    def __post_init__(self) -> None:
        require_least("measure.repeats", self.repeats, 1, 10_000)
        require_least("measure.resamples", self.resamples, 1, 1_000_000)
        require_choice("measure.history", self.history, HISTORIES)
        if not 0 < self.level < 1:
            raise UserError(
                f"measure.level must lie in (0, 1), got {self.level}", "use 0.95 for a 95 % interval"
            )


@dataclass
class BenchConfig:
    """What the command does with the runs.

    Args:
        plan: Print each run's progress and what it will take, and measure nothing.
        device: GPU that the plan estimates for, one of `bench.plan.devices.GPUS`; None is this machine's.
        isolate: Give every run a process of its own.
    """

    plan: bool = False
    device: str | None = None
    isolate: bool = False

    def __post_init__(self) -> None:
        if self.device is not None:
            require_choice("bench.device", self.device, tuple(GPUS))


@dataclass
class Config:
    """Everything that the command line can set; `method` and `task` are checked by their constructors."""

    method: Any = MISSING
    task: Any = MISSING
    model: ModelConfig = MISSING  # an instance would settle its name before its path is known
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)
    seed: int = 0
    max_new_tokens: int = 128
    results_dir: str = "results"

    def __post_init__(self) -> None:
        require_least("seed", self.seed, 0)
        require_least("max_new_tokens", self.max_new_tokens, 1)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is set for one run.

    Args:
        method: The method under test; its name is that of its yaml file.
        task: The questions; its name is that of its yaml file.
        plan: Whether to print what would be done instead of doing it.
        plan_device: GPU that the plan estimates for; None is this machine's.
        config: The resolved tree as plain dicts and lists, for the record; ``package:`` paths as written.
    """

    method: Component
    task: Component
    model: ModelConfig
    sampling: SamplingConfig
    runtime: RuntimeConfig
    measure: MeasureConfig
    seed: int
    max_new_tokens: int
    results_dir: Path
    plan: bool
    plan_device: str | None
    config: Mapping[str, Any]

    @property
    def has_eager_arm(self) -> bool:
        """Whether there is an eager arm: it is switched on, and the baseline is not that loop already."""
        return self.measure.eager and self.runtime.tier != "eager"


def register_schema() -> None:
    """Store the schema where Hydra finds it; ``conf/bench.yaml`` names it first in its defaults."""
    ConfigStore.instance().store(name=SCHEMA_NAME, node=Config)
    OmegaConf.register_new_resolver("by", by, replace=True)


def settings_from(composed: DictConfig, choices: Mapping[str, str | None]) -> Settings:
    """The settings of one run, from Hydra's tree without its own ``hydra`` node.

    `choices` is the chosen option of every config group (``hydra.runtime.choices``), such as the method's.

    Raises:
        UserError: If a key is unknown, or a value is missing or breaks its rule.
    """
    require_known(composed)
    require_complete(composed)
    if not composed.bench.plan:  # a plan lists what is missing
        require_modules(composed, choices)
    settled = _settled(composed)
    tree: Config = OmegaConf.to_object(settled)  # type: ignore[assignment]  # the schema's type
    plain: dict[str, Any] = OmegaConf.to_container(settled, resolve=True)  # type: ignore[assignment]
    return Settings(
        method=Component.from_node("method", choices.get("method"), plain["method"]),
        task=Component.from_node("task", choices.get("task"), plain["task"]),
        model=tree.model,
        sampling=tree.sampling,
        runtime=tree.runtime,
        measure=tree.measure,
        seed=tree.seed,
        max_new_tokens=tree.max_new_tokens,
        results_dir=Path(tree.results_dir),
        plan=tree.bench.plan,
        plan_device=tree.bench.device,
        config=plain,
    )


def _settled(composed: DictConfig) -> DictConfig:
    """`composed` with model name and prompt source; unless they are set they follow from ``model.path``."""
    settled = copy.deepcopy(composed)
    model, path = settled.model, str(settled.model.path)
    model.name = model.name or plain_name(Path(path.removeprefix(PACKAGE_PREFIX)).resolve().name)
    followed = {"auto": "builtin"} if path.startswith(PACKAGE_PREFIX) else _PROMPTS_OF_OTHERS
    model.prompts = followed.get(model.prompts, model.prompts)
    model.questions = None if model.prompts == "official" else model.questions
    return settled
