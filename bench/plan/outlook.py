"""Estimates for a run before it starts: what must be fetched or trained first, memory, and time.

Nothing is downloaded and no weights are loaded. `bench.plan.size` counts memory. Time is an upper estimate in
most parts: every answer has its full length, no method is faster than the baseline, and each token reads all
weights and the cache at the bandwidth of the data sheet. It leaves out the prefill, and that an eager loop is
slower than that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.compose.components import Component, resolve_path
from bench.compose.identity import PROVENANCE_FILE
from bench.compose.places import training_command
from bench.compose.schema import RuntimeConfig
from bench.compose.settings import Settings
from bench.metrics.roofline import ceiling_tokens_per_s, step_bytes
from bench.outline.run import AUTOREGRESSIVE, may_have_gpu
from bench.plan.devices import GPUS, Gpu, recognised
from bench.plan.size import Size, model_folder, size_of
from bench.runtime.checkpoint_files import is_gguf
from bench.tasks.task import Fetched

CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly: prompts are not tokenised for a plan."""


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
    size = size_of(settings, gpu)
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
