"""Settings of the embedded model's training; together with the corpus they determine its weights."""

from dataclasses import dataclass, field

from bench.compose.components import require_least
from bench.train.base.model import BaseShape

COUNTS = ("steps", "workers", "micro_tokens", "micros_per_step", "evaluate_every", "checkpoint_every")


@dataclass(frozen=True, slots=True)
class BaseRecipe:
    """Settings of a run. The defaults are those of the shipped model on two CPU cores."""

    shape: BaseShape = field(default_factory=BaseShape)
    steps: int = 2100
    workers: int = 2
    """Data-parallel processes of one thread each; each draws its own dialogues."""
    micro_tokens: int = 2048
    """Largest size of a micro-batch, in tokens with padding."""
    micros_per_step: int = 2
    """Micro-batches of one worker in one step."""
    muon_lr: float = 0.02
    adam_lr: float = 4e-3
    decay: float = 0.01
    """Decoupled weight decay of the layer matrices."""
    warmup_steps: int = 60
    decay_share: float = 0.7
    """Share of the steps, at the end, over which the learning rate falls linearly to 0."""
    prompt_weight: float = 0.1
    """Loss weight of prompt tokens; answer tokens weigh 1."""
    p_max: float = 0.1
    """Highest layer dropout rate, that of the last layer at the last step."""
    e_scale: float = 1.0
    """LayerSkip's scale of the early-exit losses."""
    exit_floor: float = 0.25
    """Smallest weight of an early exit's loss relative to the last layer's."""
    seed: int = 1
    is_compiled: bool = True
    tokenizer_dialogues: int = 20000
    """Dialogues from which the tokenizer's merges are learned."""
    heldout_each: int = 12
    """Held-out dialogues per subtask in the periodic evaluation."""
    evaluate_every: int = 100
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        for name in COUNTS:
            require_least(f"base.{name}", getattr(self, name), 1)

    def lr_factor(self, step: int) -> float:
        """Share of the peak rate: linear warm-up, a plateau, then a linear fall to 0 after the last step."""
        falling = (self.steps - step) / max(1.0, self.decay_share * self.steps)
        return min(1.0, (step + 1) / max(1, self.warmup_steps), falling)


def default_recipe(device: str) -> BaseRecipe:
    """The recipe for a device type: on a GPU one process, larger batches and more steps.

    The GPU settings were chosen without a measurement: the shipped model was trained on a CPU.
    """
    if device == "cuda":
        return BaseRecipe(workers=1, micro_tokens=16384, micros_per_step=1, steps=6000)
    return BaseRecipe()
