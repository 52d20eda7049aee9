"""Everything one run works with: the model, its chat format, the arms, the prompts.

The step from settings to objects, so that the runner only measures.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bench.compose.fingerprints import checkpoint_hash, module_hash, module_parameters, shape_hash
from bench.compose.settings import ModelConfig, RuntimeConfig, Settings
from bench.errors import UserError
from bench.measure.eager_arm import EagerLoop
from bench.records.model import Arm, Run
from bench.records.store import run_id
from bench.runtime.decoder import Decoder, Tier
from bench.runtime.hub import COMPANIONS, Keys, fetch, resolve
from bench.runtime.loading import RuntimeOptions, choose_tier, load_decoder
from bench.runtime.random_weights import random_decoder
from bench.runtime.sampling import Sampler, Sampling
from bench.runtime.tiers.native.build import Missing, library
from bench.tasks.chat import ChatFormat, eos_ids, load_tokenizer
from bench.tasks.spec_bench import read_builtin
from bench.tasks.task import LoadedTask
from methods.core.autoregressive import Autoregressive
from methods.core.base import Method

SMALL_MODEL = 100_000_000
_TOKENIZER = Keys("model.tokenizer", "model.revision")
_PLACES = ("path", "modules", "questions")  # of a model: no other run
_ADDED = ("dtype", "stop_ids")  # another run only where set: ids older than these keys stand
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Workbench:
    """The objects of one run.

    Args:
        decoder: The target model, shared by all arms.
        chat: Conversation to prompt ids, and back.
        eos_ids: Tokens that end an answer.
        arms: What decodes, by arm, see `Blueprint.arms`.
        task: The prompts and where they came from.
        sampling: How tokens are chosen.
        run: The record of this run, without its environment.
    """

    decoder: Decoder
    chat: ChatFormat
    eos_ids: frozenset[int]
    arms: Mapping[Arm, Method]
    task: LoadedTask
    sampling: Sampling
    run: Run


@dataclass(frozen=True, slots=True)
class Blueprint:
    """All that is known of a run before its model is loaded, its record among it.

    Args:
        method: The method under test, not attached.
        task: The prompts and where they came from.
        target: The model, not loaded.
        sampling: How tokens are chosen.
        has_eager_arm: Whether a textbook loop decodes as well.
        run: The record of this run, without its environment.
    """

    method: Method
    task: LoadedTask
    target: Target
    sampling: Sampling
    has_eager_arm: bool
    run: Run

    @property
    def arms(self) -> dict[Arm, Method]:
        """The baseline, the method where it is another one, and the eager loop where it is asked for."""
        eager: dict[Arm, Method] = {Arm.EAGER: EagerLoop()} if self.has_eager_arm else {}
        if isinstance(self.method, Autoregressive):
            return {Arm.BASELINE: self.method, **eager}  # against itself: its repeats are the comparison
        return {Arm.BASELINE: Autoregressive(), Arm.METHOD: self.method, **eager}


def draw_up(settings: Settings) -> Blueprint:
    """Everything but the weights, cheapest checks first, so that a mistake shows before a model is loaded.

    Raises:
        UserError: If any part of the settings cannot be met.
    """
    method: Method = settings.method.build()
    task: LoadedTask = settings.task.build().load()
    target = find_target(settings.model, settings.runtime)
    sampling = Sampling(**asdict(settings.sampling))
    sampler = Sampler(sampling, torch.device("cpu"), 0)  # a promise about output depends on no device
    run = describe_run(settings, task, target, method, sampler)
    return Blueprint(method, task, target, sampling, settings.has_eager_arm, run)


def build_workbench(settings: Settings) -> Workbench:
    """Load the model and attach the arms to it.

    Raises:
        UserError: If any part of the settings cannot be met.
    """
    drawn = draw_up(settings)
    target, arms = drawn.target, drawn.arms
    decoder = target.load(settings.runtime.threads)
    for one in arms.values():
        one.attach(decoder)
    run = labelled(drawn.run, drawn.method)
    return Workbench(decoder, target.chat, target.eos_ids, arms, drawn.task, drawn.sampling, run)


@dataclass(frozen=True, slots=True)
class Target:
    """A model on disk, its weights not loaded.

    Args:
        folder: The checkpoint.
        is_random: Its weights are drawn, only its shape is read.
        chat: Conversation to prompt ids, and back.
        eos_ids: Tokens that end an answer.
        options: Where and how the model will lie in memory.
    """

    folder: Path
    is_random: bool
    chat: ChatFormat
    eos_ids: frozenset[int]
    options: RuntimeOptions

    @property
    def weights_hash(self) -> str:
        """What tells its weights from others."""
        return shape_hash(self.folder) if self.is_random else checkpoint_hash(self.folder)

    def load(self, threads: int | None) -> Decoder:
        """The model, ready to decode; settles torch's CPU threads, see `settle_threads`."""
        make = random_decoder if self.is_random else load_decoder
        decoder = make(self.folder, self.options)
        settle_threads(decoder, threads)
        return decoder

    def prompts(self, count: int) -> list[Tensor]:
        """First turns of built-in prompts, spread over the subtasks; ids, each shape [P]."""
        questions = read_builtin().prompts
        chosen = questions[:: max(1, len(questions) // count)][:count]
        ids = [self.chat.prompt_ids(one.turns[:1], ()) for one in chosen]
        return [torch.tensor(one, device=self.options.device) for one in ids]


def find_target(model: ModelConfig, runtime: RuntimeConfig) -> Target:
    """Find a model and load its tokenizer.

    Raises:
        UserError: If one of them is missing or not supported.
    """
    place, is_random = (model.path, model.revision), model.weights == "random"
    folder = fetch(*place, COMPANIONS) if is_random else resolve(*place)
    spoken = folder if model.tokenizer is None else fetch(model.tokenizer, None, COMPANIONS, _TOKENIZER)
    tokenizer = load_tokenizer(spoken)
    return Target(
        folder=folder,
        is_random=is_random,
        chat=ChatFormat(tokenizer, model.template),
        eos_ids=eos_ids(folder, tokenizer, model.stop_ids),
        options=options_for(runtime, model),
    )


def settle_threads(decoder: Decoder, wanted: int | None) -> None:
    """Set torch's CPU threads: as many as wanted, one for a small model, else torch's own choice.

    Below `SMALL_MODEL` weights a pass of several rows loses more to waking threads than it gains: on two
    cores the embedded model verifies 5 rows in half the time with one thread. Every arm runs with the same.
    """
    if wanted is not None:
        torch.set_num_threads(wanted)
    elif decoder.device.type == "cpu" and decoder.parameters < SMALL_MODEL:
        torch.set_num_threads(1)


def options_for(wanted: RuntimeConfig, model: ModelConfig | None = None) -> RuntimeOptions:
    """Device, precision, length and tier that the configuration asks for, of `model` where one is at hand.

    Raises:
        UserError: If CUDA is asked for and there is none, or graphs without CUDA.
    """
    has_gpu = torch.cuda.is_available()
    if wanted.device == "cuda" and not has_gpu:
        raise UserError(
            "runtime.device=cuda, but PyTorch finds no GPU", "use runtime.device=cpu, or mend the driver"
        )
    device = torch.device("cuda" if has_gpu and wanted.device != "cpu" else "cpu")
    published, context = (None, None) if model is None else (model.dtype, model.context)
    dtype = wanted.dtype or ("float32" if device.type == "cpu" else published or "bfloat16")
    length = min(wanted.max_length, context or wanted.max_length)
    precision: torch.dtype = getattr(torch, dtype)
    tier = choose_tier(wanted.tier, device, precision)
    _tell_of_slow_passes(wanted, precision, tier)
    return RuntimeOptions(device, precision, length, tier)


def _tell_of_slow_passes(wanted: RuntimeConfig, precision: torch.dtype, tier: Tier) -> None:
    """Say why ``auto`` could not take compiled passes, where a compiler is all that is missing."""
    built = library() if (wanted.tier, tier, precision) == ("auto", "static", torch.float32) else None
    if isinstance(built, Missing):
        log.warning("passes run operation by operation, several times slower: %s; install gcc", built.reason)


def describe_run(
    settings: Settings, task: LoadedTask, target: Target, method: Method, sampler: Sampler
) -> Run:
    """The run's identity and labels; `measure` and paths of results do not enter the identity."""
    plain = settings.config
    identity = {
        "method": {"target": settings.method.target, **settings.method.params},
        "method_weights": module_hash(settings.method.params.get("weights")),
        "task": {key: value for key, value in plain["task"].items() if key != "path"},
        "questions": task.source.sha256,
        "model": {
            key: value
            for key, value in plain["model"].items()
            if key not in _PLACES and (value or key not in _ADDED)
        },
        "model_weights": target.weights_hash,
        "template": target.chat.template_hash,
        "sampling": plain["sampling"],
        "runtime": {key: value for key, value in plain["runtime"].items() if (key, value) != ("tier", "auto")}
        | ({"tier": "compiled"} if target.options.tier == "compiled" else {}),  # auto depends on the machine
        "history": settings.measure.history,
        "max_new_tokens": settings.max_new_tokens,
        "seed": settings.seed,
    }
    names = settings.method.name, settings.task.name, str(settings.model.name)
    return Run(
        run_id=run_id(*names, identity),
        method=names[0],
        task=names[1],
        model=names[2],
        identity=identity,
        config=plain,
        labels={
            "exactness": method.exactness(sampler).value,
            "prompts": task.source.name.value,
            "partial": task.source.partial,
            "independent re-implementation": bool(getattr(method, "is_reimplementation", False)),
            "cost only": is_cost_only(settings.model, method),
            "random weights": settings.model.weights == "random",
            "draft cost": getattr(method, "draft_cost", None),
            "tier": target.options.tier,
            "several tokens per row": bool(getattr(method, "emits_behind_one_row", False)),
            "draft parameters": module_parameters(settings.method.params.get("weights")),
        },
    )


def labelled(run: Run, method: Method) -> Run:
    """`run` with what a method knows of itself once it is attached: the weights its passes read, by part."""
    return replace(run, labels={**run.labels, "pass_weights": getattr(method, "pass_weights", None)})


def is_cost_only(model: ModelConfig, method: Method) -> bool:
    """Whether only times mean anything: the method is given its acceptance, or the weights are random."""
    return model.weights == "random" or bool(getattr(method, "is_cost_only", False))
