"""Settings of the embedded mixture of experts; text and speed of the machine decide its weights too."""

from __future__ import annotations

from dataclasses import dataclass

from bench.compose.components import require_least


@dataclass
class MixtureRecipe:
    """Settings of a run.

    Args:
        minutes: How long to train; the learning rate falls to zero at the end of this time.
        layers: Decoder layers.
        width: Hidden size.
        heads: Attention heads.
        experts: Experts of a layer.
        top_k: Experts that compute each token.
        expert_width: Hidden width of an expert.
        balance: Weight of the load-balancing loss.
        batch_tokens: Largest size of a batch, in tokens with padding.
        most_tokens: Longest piece of real text.
        real_share: Share of tokens that are real text.
        prompt_weight: Loss weight of the prompts of synthetic dialogues.
        rate: Highest learning rate.
        decay: Decoupled weight decay.
        warmup_steps: Steps over which the rate rises.
        decay_share: Share of the time, at its end, over which the rate falls.
        save_minutes: Time between checkpoints.
        seed: Of weights and data.
    """

    minutes: float = 80.0
    layers: int = 6
    width: int = 160
    heads: int = 5
    experts: int = 8
    top_k: int = 2
    expert_width: int = 128
    balance: float = 0.02
    batch_tokens: int = 2048
    most_tokens: int = 256
    real_share: float = 0.6
    prompt_weight: float = 0.1
    rate: float = 3e-3
    decay: float = 0.05
    warmup_steps: int = 100
    decay_share: float = 0.7
    save_minutes: float = 5.0
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "experts", "top_k", "expert_width", "batch_tokens", "most_tokens"):
            require_least(f"recipe.{name}", getattr(self, name), 1)
