"""Everything one run works with: the model, its chat format, the arms and the prompts.

This is the step from settings to objects, so that the runner only measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.compose.identity import checkpoint_hash, describe_run, shape_hash
from bench.compose.schema import ChatConfig, ModelConfig, RuntimeConfig
from bench.compose.settings import Settings
from bench.errors import UserError
from bench.records.model import Arm, Prompt, Run
from bench.runtime.checkpoint_files import COMPANIONS, fetch, resolve, weight_files
from bench.runtime.decoder import Decoder
from bench.runtime.hub import Keys
from bench.runtime.loading import RuntimeOptions, load_config, load_decoder
from bench.runtime.model_config import decoder_config
from bench.runtime.random_weights import random_decoder
from bench.runtime.sampling import Sampler, Sampling
from bench.runtime.tier_choice import choose_tier, require_recorded, settled, spread_over, tier_labels
from bench.show.waiting import Loading
from bench.tasks.chat import ChatFormat
from bench.tasks.spec_bench import read_builtin
from bench.tasks.task import LoadedTask
from bench.tasks.tokenizer import ends_beside_config, eos_ids, load_tokenizer
from methods.core.autoregressive import Autoregressive, EagerLoop
from methods.core.base import Exactness, Method, traits_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SMALL_MODEL = 100_000_000
_TOKENIZER = Keys("model.tokenizer", "model.revision")


@dataclass(frozen=True, slots=True)
class Workbench:
    """The objects of one run.

    Args:
        decoder: The target model, shared by all arms.
        chat: Conversation to prompt ids, and back.
        eos_ids: Tokens that end an answer.
        arms: What decodes, by label, see `PreparedRun.arms`.
        task: The prompts and where they came from.
        sampling: How tokens are chosen.
        run: The record of this run, without its environment.
    """

    decoder: Decoder
    chat: ChatFormat
    eos_ids: frozenset[int]
    arms: Mapping[str, Method]
    task: LoadedTask
    sampling: Sampling
    run: Run

    def promise(self, label: str) -> Exactness:
        """What an arm's method promises about its output; another arm is as lossy as any method is."""
        if label in self.run.methods:
            return Exactness(self.run.methods[label]["labels"]["exactness"])
        parts = [part["labels"] for part in self.run.methods.values()] or [self.run.labels]
        promises = [Exactness(labels["exactness"]) for labels in parts]
        return Exactness.LOSSY if Exactness.LOSSY in promises else promises[0]


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """All that is known of a run before its model is loaded, including its record.

    Args:
        methods: The methods under test by label, not attached.
        task: The prompts and where they came from.
        target: The model, not loaded.
        sampling: How tokens are chosen.
        has_control: Whether the baseline decodes twice.
        has_eager_arm: Whether a textbook loop decodes as well.
        run: The record of this run, without its environment.
    """

    methods: Mapping[str, Method]
    task: LoadedTask
    target: Target
    sampling: Sampling
    has_control: bool
    has_eager_arm: bool
    run: Run

    @property
    def arms(self) -> dict[str, Method]:
        """By label: the baseline, the methods that are not that baseline, and what is switched on."""
        methods = {key: value for key, value in self.methods.items() if not isinstance(value, Autoregressive)}
        control: dict[str, Method] = {Arm.CONTROL.value: Autoregressive()} if self.has_control else {}
        eager: dict[str, Method] = {Arm.EAGER.value: EagerLoop()} if self.has_eager_arm else {}
        return {Arm.BASELINE.value: Autoregressive(), **methods, **control, **eager}


def prepare_run(settings: Settings, task: LoadedTask | None = None) -> PreparedRun:
    """Everything but the weights, cheapest checks first, so that a mistake shows before a model is loaded.

    Args:
        settings: Of the run.
        task: Its prompts, if they have been read.

    Raises:
        UserError: If any part of the settings cannot be met.
    """
    methods: dict[str, Method] = {label: method.build() for label, method in settings.methods.items()}
    # before the task, whose questions may be fetched
    target = find_target(settings.model, settings.runtime, settings.chat)
    task = task or settings.task.build().load()
    for prompt in task.prompts:  # before the first sample, not at the first that fails
        if target.chat.has_unknown_tokens or prompt.opening or prompt.tools or settings.chat.given:
            _require_prompt(target.chat, prompt)
    sampling = Sampling(**asdict(settings.sampling))
    sampler = Sampler(sampling, torch.device("cpu"), 0)  # what a method promises depends on no device
    run = describe_run(settings, task, target, methods, sampler)
    return PreparedRun(methods, task, target, sampling, settings.has_control, settings.has_eager_arm, run)


def _require_prompt(chat: ChatFormat, prompt: Prompt) -> None:
    """Refuse a question that the chat template cannot write."""
    try:
        chat.ids_of(prompt)
    except UserError as mistake:
        raise UserError(f"question {prompt.id}: {mistake.what}", mistake.fix) from mistake


def build_workbench(settings: Settings, task: LoadedTask | None = None) -> Workbench:
    """Load the model and attach the arms to it.

    Args:
        settings: Of the run.
        task: Its prompts, if they have been read.

    Raises:
        UserError: If any part of the settings cannot be met.
    """
    prepared = prepare_run(settings, task)
    target, arms = prepared.target, prepared.arms
    decoder = target.load(settings.runtime.threads)
    for arm in arms.values():
        arm.attach(decoder)
    labels = {**prepared.run.labels, **tier_labels(decoder)}
    run = _with_pass_weights(replace(prepared.run, labels=labels), prepared.methods)
    return Workbench(decoder, target.chat, target.eos_ids, arms, prepared.task, prepared.sampling, run)


def _with_pass_weights(run: Run, methods: Mapping[str, Method]) -> Run:
    """The run with the label ``pass_weights`` of its methods, which is known once they are attached."""
    weights = {label: {"pass_weights": traits_of(method).pass_weights} for label, method in methods.items()}
    if not run.methods:
        return replace(run, labels={**run.labels, **next(iter(weights.values()))})
    parts = {
        label: {**part, "labels": {**part["labels"], **weights[label]}} for label, part in run.methods.items()
    }
    return replace(run, methods=parts)


@dataclass(frozen=True, slots=True)
class Target:
    """A model on disk, its weights not loaded.

    Args:
        folder: The checkpoint.
        is_random: Its weights are random, only its shape is read.
        chat: Conversation to prompt ids, and back.
        eos_ids: Tokens that end an answer.
        options: Where and how the model will lie in memory.
        ends_beside_config: End tokens where generation_config.json makes them others than the config's.
        is_tier_free: Another tier than that of `options` may be taken if it does not work here.
        attention: How recorded chains attend, the key ``runtime.attention``.
    """

    folder: Path
    is_random: bool
    chat: ChatFormat
    eos_ids: frozenset[int]
    options: RuntimeOptions
    ends_beside_config: list[int] | None = None
    is_tier_free: bool = False
    attention: str = "auto"

    @property
    def weights_hash(self) -> str:
        """Differs between models of different weights."""
        return shape_hash(self.folder) if self.is_random else checkpoint_hash(self.folder)

    def load(self, threads: int | None) -> Decoder:
        """The model, ready to decode; sets torch's CPU threads, see `settle_threads`."""
        make = random_decoder if self.is_random else load_decoder
        with Loading(self._described()):
            decoder = make(self.folder, self.options)
        decoder = settled(decoder, self.attention, is_tier_free=self.is_tier_free)
        settle_threads(decoder, threads)
        return decoder

    def _described(self) -> str:
        """Name and size, for a person who waits."""
        if self.is_random:
            return f"{self.folder.name}, random weights"
        size = sum(file.stat().st_size for file in weight_files(self.folder))
        return f"{self.folder.name}, {size / 1e6:,.0f} MB"

    def prompts(self, count: int) -> list[Tensor]:
        """First turns of built-in prompts, spread over the subtasks; ids, each shape [P]."""
        questions = read_builtin().prompts
        chosen = questions[:: max(1, len(questions) // count)][:count]
        ids = [self.chat.prompt_ids(question.turns[:1], ()) for question in chosen]
        return [torch.tensor(prompt, device=self.options.device) for prompt in ids]


def find_target(model: ModelConfig, runtime: RuntimeConfig, chat: ChatConfig | None = None) -> Target:
    """Find a model and load its tokenizer.

    Args:
        model: The model.
        runtime: Where it will run.
        chat: What its chat template is given; None gives nothing.

    Raises:
        UserError: If one of them is missing or not supported.
    """
    is_random = model.weights == "random"
    folder = (
        fetch(model.path, model.revision, COMPANIONS) if is_random else resolve(model.path, model.revision)
    )
    shape = decoder_config(load_config(folder))  # read first: a fault of it is not the tokenizer's
    other = model.tokenizer
    tokenizer = load_tokenizer(folder if other is None else fetch(other, None, COMPANIONS, _TOKENIZER))
    return Target(
        folder=folder,
        is_random=is_random,
        chat=chat_format(tokenizer, model.template, chat or ChatConfig(), shape.vocab),
        eos_ids=eos_ids(folder, tokenizer, model.stop_ids),
        options=options_for(runtime, model, has_experts=shape.moe is not None),
        ends_beside_config=ends_beside_config(folder, tokenizer, model.stop_ids),
        is_tier_free=runtime.tier == "auto",
        attention=runtime.attention,
    )


def chat_format(
    tokenizer: PreTrainedTokenizerBase, template: str, chat: ChatConfig, vocabulary: int | None = None
) -> ChatFormat:
    """The chat format of a model as these settings make it; see `ChatFormat`.

    Raises:
        UserError: If they do not fit the tokenizer.
    """
    return ChatFormat(
        tokenizer, template, vocabulary, system=chat.system or "", template_args=chat.template_args
    )


def settle_threads(decoder: Decoder, threads: int | None) -> None:
    """Set torch's CPU threads: the given number, one for a small model, otherwise torch's own choice.

    Below `SMALL_MODEL` weights a pass of several rows loses more to waking threads than it gains: on two
    cores the embedded model verifies 5 rows in half the time with one thread. Every arm runs with the same.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    elif decoder.device.type == "cpu" and decoder.parameters < SMALL_MODEL:
        torch.set_num_threads(1)


def options_for(
    runtime: RuntimeConfig, model: ModelConfig | None = None, *, has_experts: bool = False
) -> RuntimeOptions:
    """Device, precision, length and tier for this configuration, and for `model` if it is given.

    Raises:
        UserError: If CUDA is required and there is none, or graphs without CUDA, or there are too few GPUs.
    """
    has_gpu = torch.cuda.is_available()
    if runtime.device == "cuda" and not has_gpu:
        raise UserError(
            "runtime.device=cuda, but PyTorch finds no GPU", "use runtime.device=cpu, or mend the driver"
        )
    device = torch.device("cuda" if has_gpu and runtime.device != "cpu" else "cpu")
    published, context = (None, None) if model is None else (model.dtype, model.context)
    dtype = runtime.dtype or ("float32" if device.type == "cpu" else published or "bfloat16")
    length = min(runtime.max_length, context or runtime.max_length)
    precision: torch.dtype = getattr(torch, dtype)
    spread = spread_over(runtime.devices, runtime.tier, device)
    tier = choose_tier(runtime.tier, device, precision, is_spread=bool(spread), has_experts=has_experts)
    require_recorded(runtime.attention, tier)
    is_small = runtime.draft_head == "int8"
    return RuntimeOptions(device, precision, length, tier, spread, drafts_in_int8=is_small)
