"""The shape of a model's mixtures of experts, read from its configuration.

Every family describes them with some of the same fields, so no family is named here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.errors import UserError

_FIX = "use the checkpoint's own config.json, as its authors published it"
_MOST_EXPERTS, _MOST_WIDTH = 1 << 14, 1 << 22
"""Far above any model's."""


@dataclass(frozen=True, slots=True)
class MoeConfig:
    """Shape of a model's mixtures of experts.

    Args:
        experts: Experts of a layer (E).
        top_k: Experts that compute each row (k).
        expert_width: Hidden width of one expert (f).
        is_normalised: The k probabilities of a row are scaled to a sum of one.
        shared_width: Hidden width of the expert that computes every row; 0 where there is none.
        has_shared_gate: The shared expert's output is multiplied by a sigmoid of the row.
        dense_layers: Layers that have an ordinary MLP.
    """

    experts: int
    top_k: int
    expert_width: int
    is_normalised: bool
    shared_width: int = 0
    has_shared_gate: bool = True
    dense_layers: frozenset[int] = frozenset()


def moe_config(config: Any) -> MoeConfig | None:  # noqa: ANN401
    """The shape of the mixtures of experts in a transformers configuration; None for a model without them.

    Raises:
        UserError: If a number is one that no model has, or an option is not supported.
    """
    top_k = getattr(config, "num_experts_per_tok", None)
    if top_k is None:
        return None
    if getattr(config, "clip_qkv", None) is not None:
        raise UserError(
            "clip_qkv is not supported by the decoder", "use a checkpoint without it, such as OLMoE"
        )
    experts = _whole("num_experts", config.num_experts, 1, _MOST_EXPERTS)
    step = _whole("decoder_sparse_step", getattr(config, "decoder_sparse_step", 1), 1, _MOST_EXPERTS)
    expert_width = getattr(config, "moe_intermediate_size", config.intermediate_size)
    shared_width = getattr(config, "shared_expert_intermediate_size", 0)
    dense = set(getattr(config, "mlp_only_layers", None) or ())
    dense |= {layer for layer in range(config.num_hidden_layers) if (layer + 1) % step}
    return MoeConfig(
        experts=experts,
        top_k=_whole("num_experts_per_tok", top_k, 1, experts),
        expert_width=_whole("the width of an expert", expert_width, 1, _MOST_WIDTH),
        is_normalised=bool(getattr(config, "norm_topk_prob", True)),  # Mixtral always does, and does not say
        shared_width=_whole("shared_expert_intermediate_size", shared_width, 0, _MOST_WIDTH),
        dense_layers=frozenset(dense),
    )


def _whole(name: str, value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UserError(
            f"the model's config is inconsistent: {name} is {value!r}, not in {least}..{most}", _FIX
        )
    return value
