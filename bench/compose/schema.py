"""The schema of the configuration: every key that a run's yaml files and command line can set, and its rules.

Hydra merges yaml files and the command line into the schema `Config`, so that a misspelt key or a wrong type
fails before anything runs. The schema is not frozen, because OmegaConf would then refuse every override.
"""

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from bench.compose import components as rules
from bench.errors import UserError
from bench.plan.devices import GPUS
from bench.records.model import canonical

SCHEMA_NAME = "bench_schema"
PROMPT_SOURCES = ("auto", "builtin", "natural", "official")
TEMPLATES = ("auto", "vicuna", "raw")
WEIGHTS = ("stored", "random")
DEVICES = ("auto", "cpu", "cuda")
TIERS = ("auto", "eager", "static", "compiled", "graph")
DTYPES = ("float32", "bfloat16", "float16")
HISTORIES = ("free", "frozen")
NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
"""What method, task and model may be called."""


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
        modules: Folder with one subfolder of trained modules per method; None is ``results/train/NAME``.
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
        rules.require_choice("model.weights", self.weights, WEIGHTS)
        rules.require_choice("model.prompts", self.prompts, PROMPT_SOURCES)
        rules.require_choice("model.template", self.template, TEMPLATES)
        rules.require_choice("model.dtype", self.dtype or DTYPES[0], DTYPES)
        rules.require_least("model.context", self.context, 1)
        rules.require_least("model.questions", self.questions, 1)
        for token in self.stop_ids:
            rules.require_least("model.stop_ids", token, 0)


@dataclass
class ChatConfig:
    """What the chat template is given beside a question.

    Args:
        system: System message of questions that have none of their own; None leaves it to the template.
        template_args: Arguments of the tokenizer's chat template by name, such as ``enable_thinking``; None
            gives none. Of no declared type, or Hydra would refuse names that it does not know.
    """

    system: str | None = None
    template_args: Any = None

    def __post_init__(self) -> None:
        if self.system is not None and not self.system.strip():
            what = f"chat.system must hold text, got {self.system!r}"
            raise UserError(what, "use chat.system=null to leave it to the chat template")
        args = {} if self.template_args is None else self.template_args
        if not isinstance(args, Mapping) or not all(isinstance(name, str) for name in args):
            what = f"chat.template_args must map names to values, got {args!r}"
            raise UserError(what, "write 'chat.template_args={enable_thinking: false}'")

    @property
    def given(self) -> dict[str, Any]:
        """What is set, for records: empty where nothing is."""
        system = {} if self.system is None else {"system": self.system}
        return {**system, **({"template_args": dict(self.template_args)} if self.template_args else {})}

    @property
    def facts(self) -> dict[str, Any]:
        """The entry ``chat`` of a record, only where something is set."""
        return {"chat": self.given} if self.given else {}


@dataclass
class SamplingConfig:
    """How tokens are chosen: temperature 0 is greedy, `top_k` 0 and `top_p` 1 keep every token."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        rules.require_temperature(self.temperature)
        rules.require_least("sampling.top_k", self.top_k, 0)
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
        devices: GPUs that the layers are spread over, for a model that one cannot hold.
        attention: Of recorded chains: ``masked``, by ``lengths``, or ``auto``: lengths if they agree.
        draft_head: Weights of the head that drafts: as ``stored``, or rounded to ``int8`` (tier compiled).
    """

    device: str = "auto"
    dtype: str | None = None
    threads: int | None = None
    max_length: int = 8192
    tier: str = "auto"
    devices: int = 1
    attention: str = "auto"
    draft_head: str = "stored"

    def __post_init__(self) -> None:
        rules.require_least("runtime.devices", self.devices, 1)
        rules.require_choice("runtime.device", self.device, DEVICES)
        rules.require_choice("runtime.dtype", self.dtype or DTYPES[0], DTYPES)
        rules.require_choice("runtime.tier", self.tier, TIERS)
        rules.require_choice("runtime.attention", self.attention, ("auto", "masked", "lengths"))
        rules.require_choice("runtime.draft_head", self.draft_head, ("stored", "int8"))
        rules.require_least("runtime.threads", self.threads, 1, 4096)
        rules.require_least("runtime.max_length", self.max_length, 2)


@dataclass
class WarmupConfig:
    """Warm up until two timings in a row agree within the share `tolerance`, `max_rounds` times at most."""

    max_rounds: int = 10
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        rules.require_least("measure.warmup.max_rounds", self.max_rounds, 1)
        rules.require_least("measure.warmup.tolerance", self.tolerance, 0)


@dataclass
class MeasureConfig:
    """How often to measure, and how sure to be.

    Args:
        repeats: Measured decodes of every prompt by every arm, in every session.
        sessions: Starts over so many times in fresh processes; a later one may be added days after.
        control: Decode the baseline twice, as two arms whose difference shows the noise; None does so in runs
            of several methods.
        warmup: When decoding counts as warm.
        level: Confidence level of the intervals.
        history: Later turns follow the arm's own answers (``free``) or the baseline's (``frozen``).
        eager: Also decode with a textbook loop (tier ``eager``), which papers report their speedups over. In
            the first repeat only, interleaved with the other arms: the loop is slow, and its ratio needs less
            precision than the headline. Switched on for a measured run, it adds samples later than those
            they are compared with. No effect if ``runtime.tier`` is ``eager`` already.
    """

    repeats: int = 2
    sessions: int = 1
    control: bool | None = None
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    level: float = 0.95
    history: str = "free"
    eager: bool = False

    def __post_init__(self) -> None:
        rules.require_least("measure.repeats", self.repeats, 1, 10_000)
        rules.require_least("measure.sessions", self.sessions, 1, 1000)
        rules.require_choice("measure.history", self.history, HISTORIES)
        if not 0 < self.level < 1:
            what = f"measure.level must lie in (0, 1), got {self.level}"
            raise UserError(what, "use 0.95 for a 95 % interval")


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
            rules.require_choice("bench.device", self.device, tuple(GPUS))


@dataclass
class Config:
    """Everything that the command line can set; `method` and `task` are checked by their constructors.

    Args:
        method: The method that is measured.
        methods: Of a run of several, in place of `method`: see `bench.compose.arena`.
        tuned: Folder of settings that `bench.tune` found, which replace those of the methods' yaml files.
        task: The questions.
        model: The target model.
        sampling: How tokens are chosen.
        runtime: Where and how the decoder runs.
        measure: How often to measure, and how sure to be.
        bench: What the command does with the runs.
        seed: Of all random numbers.
        max_new_tokens: Budget of an answer, the end token included.
        results_dir: Where records go.
    """

    method: Any = MISSING
    methods: Any = None
    tuned: str | None = None
    task: Any = MISSING
    model: ModelConfig = MISSING  # an instance would settle its name before its path is known
    chat: ChatConfig = field(default_factory=ChatConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)
    seed: int = 0
    max_new_tokens: int = 128
    results_dir: str = "results"

    def __post_init__(self) -> None:
        rules.require_least("seed", self.seed, 0)
        rules.require_least("max_new_tokens", self.max_new_tokens, 1)


def register_schema() -> None:
    """Store the schema where Hydra finds it; ``conf/bench.yaml`` names it first in its defaults."""
    ConfigStore.instance().store(name=SCHEMA_NAME, node=Config)
    OmegaConf.register_new_resolver("by", rules.by, replace=True)


def plain_name(text: str) -> str:
    """A text as a name: letters without accents, and a hyphen for everything that no name may hold."""
    letters = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"^[.-]+|[^A-Za-z0-9._-]+", "-", letters).strip("-") or "model"


def run_id(method: str, task: str, model: str, identity: Mapping[str, Any]) -> str:
    """``<method>-<task>-<model>-<8 hex>``: names for people, and a hash of the whole identity.

    Raises:
        UserError: If a name cannot be part of a folder name.
        ValueError: If the identity holds something that is not plain JSON.
    """
    for kind, name in (("method", method), ("task", task), ("model", model)):
        if not re.fullmatch(NAME, name):
            cure = f", as in model.name={plain_name(name)}" if kind == "model" else ""
            fix = f"use letters, digits, '.', '_' and '-' in names{cure}"
            raise UserError(f"{kind} name {name!r} cannot be part of a folder name", fix)
    digest = hashlib.sha256(canonical(identity).encode()).hexdigest()
    return f"{method}-{task}-{model}-{digest[:8]}"
