"""Estimates for a run before it starts: what must be fetched or trained first, memory, and time.

Nothing is downloaded and no weights are loaded: the model is counted by the shape that its files state, a
module by the header of its file. What they do not state, such as modules that are still to be trained, is
built of tensors without storage (`bench.plan.empty_model`), which loads torch and says so. Memory is what the
decoder is certain to allocate; activations and the driver come on top. Time is an upper estimate in most
parts: every answer has its full length, no method is faster than the baseline, and each token reads all
weights and the cache at the bandwidth of the data sheet. It leaves out the prefill, and that an eager loop is
slower than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bench.compose.components import Component, resolve_path
from bench.compose.identity import PROVENANCE_FILE, module_parameters
from bench.compose.places import training_command
from bench.compose.schema import ModelConfig, RuntimeConfig
from bench.compose.settings import Settings
from bench.metrics.roofline import ceiling_tokens_per_s, step_bytes
from bench.outline import Unclear
from bench.outline.model import model_shape, parameters, pass_parameters, stated_shape, token_numbers
from bench.outline.run import AUTOREGRESSIVE, may_have_gpu, tier_of
from bench.plan.devices import GPUS, Gpu, recognised
from bench.runtime.checkpoint_files import is_gguf, resolved_here, weight_files
from bench.runtime.families import DecoderConfig
from bench.show.waiting import announce
from bench.tasks.task import Fetched

KNOWN_SHAPES = Path(__file__).parents[1] / "assets" / "shapes" / "checkpoints.yaml"
LLAMA: Mapping[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
}
"""What `KNOWN_SHAPES` leaves out: all that state no other family are Llamas."""
CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly: prompts are not tokenised for a plan."""


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of a model and a method's modules on a device.

    Args:
        weight_bytes: Of the model's weights.
        pass_bytes: Of the weights that a decode step reads.
        token_bytes: Of keys and values of one token.
        capacity: Tokens that the cache has room for.
        module_bytes: Of the method's modules, and of the head's rows that it copies for drafting.
    """

    weight_bytes: int
    pass_bytes: int
    token_bytes: int
    capacity: int
    module_bytes: int

    @property
    def cache_bytes(self) -> int:
        """Allocated for keys and values."""
        return self.token_bytes * self.capacity

    @property
    def total_bytes(self) -> int:
        """All that is certain to be allocated."""
        return self.weight_bytes + self.cache_bytes + self.module_bytes


@dataclass(frozen=True, slots=True)
class Outlook:
    """The estimates for one run.

    Args:
        samples: Answers that the run decodes, of all arms and repeats.
        longest: Most tokens of an answer.
        context: Mean number of tokens in the cache at half an answer; includes the prompt if it is here.
        size: None if the model's shape is unknown.
        gpu: The GPU that time is estimated for; None if there is none, or it is not in the table.
        gpus: How many of them the layers are spread over.
        missing: What has to be fetched or trained first, one sentence each.
        is_startable: Whether everything that identifies the run is on this machine.
    """

    samples: int
    longest: int
    context: int
    size: Size | None
    gpu: Gpu | None
    gpus: int
    missing: tuple[str, ...]
    is_startable: bool

    @property
    def token_s(self) -> float | None:
        """Seconds of one plain decode step at full bandwidth; None without a size or a GPU."""
        if self.size is None or self.gpu is None:
            return None
        read = step_bytes(self.size.pass_bytes, self.size.token_bytes, self.context)
        return 1 / ceiling_tokens_per_s(read, self.gpu.bytes_per_s)

    @property
    def seconds(self) -> float | None:
        """Of the whole run; None where `token_s` is."""
        return None if self.token_s is None else self.samples * self.longest * self.token_s


def estimate(settings: Settings) -> Outlook:
    """The estimates for a run, made without network and weights.

    Raises:
        UserError: If a setting cannot be met, whatever is fetched.
    """
    turns, characters, is_task_here = _questions(settings)
    gpu = _gpu(settings)
    size = _size(settings, gpu)
    is_model_here = model_folder(settings.model) is not None
    missing = [] if is_task_here else [f"the prompts of task={settings.task.name} are fetched"]
    missing += [] if is_model_here else [f"{settings.model.path} is fetched"]
    missing += [line for method in settings.methods.values() for line in _missing_modules(settings, method)]
    longest = settings.max_new_tokens
    drafting = sum(not _is_baseline(method) for method in settings.methods.values())
    repeats = settings.measure.repeats * settings.measure.sessions
    return Outlook(
        samples=turns * (repeats * (1 + drafting + settings.has_control) + settings.has_eager_arm),
        longest=longest,
        context=longest // 2 + characters // CHARACTERS_PER_TOKEN,
        size=size,
        gpu=gpu,
        gpus=settings.runtime.devices,
        missing=tuple(missing),
        is_startable=is_task_here and is_model_here and _has_devices(settings.runtime),
    )


def _questions(settings: Settings) -> tuple[int, int, bool]:
    """Number of turns, mean characters of a prompt (0 if unknown), and whether the prompts are here."""
    task = settings.task.build()
    unfetched = task.unfetched_turns() if isinstance(task, Fetched) else None
    if unfetched is not None:
        return unfetched, 0, False
    prompts = task.load().prompts
    turns = [turn for prompt in prompts for turn in prompt.turns]
    given = sum(prompt.first_characters - len(prompt.turns[0]) for prompt in prompts if prompt.opening)
    return len(turns), (sum(map(len, turns)) + given) // len(turns), True


def _missing_modules(settings: Settings, method: Component) -> list[str]:
    weights = method.params.get("weights")
    if not isinstance(weights, str):
        return []
    folder = Path(resolve_path(weights))
    if is_gguf(folder) or any((folder / name).is_file() for name in (PROVENANCE_FILE, "config.json")):
        return []
    return [f"{folder} holds no modules: {training_command(method.name, settings.model, weights)}"]


def _is_baseline(method: Component) -> bool:
    """Whether the method is the baseline itself, which every run decodes with anyway."""
    if method.target.startswith("methods."):
        return method.target == AUTOREGRESSIVE
    from methods.core.autoregressive import Autoregressive  # a method of the user's own may derive from it

    return isinstance(method.build(), Autoregressive)


def model_folder(model: ModelConfig) -> Path | None:
    """The model on this machine; None if it has to be fetched."""
    folder = resolved_here(model.path, model.revision)
    return folder if folder is not None and (model.weights == "random" or _holds_weights(folder)) else None


def _holds_weights(folder: Path) -> bool:
    try:
        return bool(weight_files(folder))
    except ValueError:  # a UserError: the download was cut short
        return False


def _gpu(settings: Settings) -> Gpu | None:
    """The GPU that is set, or the one that the run would use."""
    if settings.plan_device is not None:
        return GPUS[settings.plan_device]
    if settings.runtime.device == "cpu" or not may_have_gpu():
        return None
    import torch  # asks the driver

    return recognised(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def _has_devices(runtime: RuntimeConfig) -> bool:
    """Whether this machine has the GPUs that the layers are to be spread over."""
    if runtime.devices == 1:
        return True
    import torch  # asks the driver

    return runtime.devices <= torch.cuda.device_count()


def _size(settings: Settings, gpu: Gpu | None) -> Size | None:
    """Bytes of model, cache and modules; None if the model's shape is unknown."""
    model, runtime = settings.model, settings.runtime
    try:
        _, dtype = tier_of(runtime)
        shape = _shape(model_folder(model), model.path)
    except Unclear as reason:
        announce(f"loading torch and transformers for this plan: {reason}")
        return _size_by_torch(settings, gpu)
    if shape is None:
        return None
    if gpu is not None and runtime.dtype is None:
        dtype = model.dtype or "bfloat16"
    modules = [_module_numbers(settings, component, gpu) for component in settings.methods.values()]
    rows = [component.params.get("draft_vocab") or 0 for component in settings.methods.values()]
    width = 4 if dtype == "float32" else 2
    return Size(
        weight_bytes=parameters(shape) * width,
        pass_bytes=pass_parameters(shape) * width,
        token_bytes=token_numbers(shape) * width,
        capacity=min(runtime.max_length, model.context or runtime.max_length, shape.context),
        module_bytes=(sum(modules) + sum(rows) * shape.width) * width,  # rows of the head are copied
    )


def _shape(folder: Path | None, path: str) -> DecoderConfig | None:
    """Shape of a checkpoint: its own, or the one shipped for its name; None without either.

    Raises:
        Unclear: If its files do not state it.
    """
    if folder is not None:
        return model_shape(folder)
    known: Any = OmegaConf.to_container(OmegaConf.load(KNOWN_SHAPES))
    for entry in known:
        if path in entry["checkpoints"]:
            return stated_shape({**LLAMA, **entry["shape"]})
    return None


def _module_numbers(settings: Settings, component: Component, gpu: Gpu | None) -> int:
    """Parameters of the method's modules: as stored, else as training would make them."""
    weights = component.params.get("weights")
    stored = 0 if weights is None else module_parameters(weights)
    if stored is not None:
        return stored
    announce(f"loading torch to count the modules of {component.name}, which are not trained yet")
    from bench.plan.empty_model import find_empty, new_module_parameters, planned_options

    options = planned_options(settings.runtime, settings.model, gpu)
    decoder, _ = find_empty(settings.model, options)
    return 0 if decoder is None else new_module_parameters(component.build(), decoder)


def _size_by_torch(settings: Settings, gpu: Gpu | None) -> Size | None:
    """As `_size`, of a decoder without storage."""
    from bench.plan.empty_model import find_empty, planned_options

    decoder, _ = find_empty(settings.model, planned_options(settings.runtime, settings.model, gpu))
    if decoder is None:
        return None
    width = decoder.dtype.itemsize
    modules = [_module_numbers(settings, component, gpu) for component in settings.methods.values()]
    rows = [component.params.get("draft_vocab") or 0 for component in settings.methods.values()]
    return Size(
        weight_bytes=decoder.parameters * width,
        pass_bytes=decoder.pass_parameters * width,
        token_bytes=decoder.cache.token_bytes,
        capacity=decoder.capacity,
        module_bytes=(sum(modules) + sum(rows) * decoder.config.width) * width,
    )
