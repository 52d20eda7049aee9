"""Which architectures the decoder runs, and the shape of a model.

One decoder serves every family: a family is a handful of flags read from the checkpoint's ``config.json``. An
architecture or option that is not listed here is refused by name rather than run wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.errors import UserError


@dataclass(frozen=True, slots=True)
class Alternate:
    """Layers that place their rows in another way than the others.

    Args:
        layers: Which.
        window: Sliding-window length there, in tokens; None where every position is visible.
        rotates: Queries and keys are rotated by position there.
    """

    layers: frozenset[int]
    window: int | None = None
    rotates: bool = True


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


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Shape of a model and the flags of its family.

    Args:
        family: Architecture name as the checkpoint gives it.
        layers: Decoder layers (L).
        width: Hidden size (d).
        heads: Query heads (H).
        kv_heads: Key/value heads; fewer than `heads` under grouped-query attention.
        head_dim: Width of one head.
        mlp_width: Hidden width of the gated MLP.
        vocab: Rows of the embedding and of the LM head (V).
        norm_eps: Epsilon of every RMSNorm.
        context: Longest sequence the checkpoint declares.
        activation: ``silu`` or ``gelu_tanh``, on the gate.
        tied_head: The LM head is the embedding matrix.
        qk_norm: RMSNorm on each query and key head (Qwen3, Gemma 3).
        qk_norm_whole: These norms are over all heads of a row together (OLMo 2).
        pre_norm: A norm before attention and one before the MLP (all families but OLMo 2).
        post_norm: A norm of what attention and MLP add to the residual stream (OLMo 2, Gemma 3).
        residual_scale: Factor on what they add (Granite).
        score_scale: Factor on attention scores; None for ``1 / sqrt(head_dim)``.
        logit_scale: Factor on the logits (Granite). The LM head's weights hold it, so that every reader of
            the head has it; in half precision it is exact if it is a power of two.
        norm_offset: Added to every norm weight (Gemma stores weight - 1).
        embed_scale: Factor on the embeddings (Gemma: sqrt(d); Granite).
        window: Sliding-window length in tokens; None where every position is visible.
        alternate: Layers with another window (Gemma 3, with angles of its own) or without rotation (SmolLM3);
            None where all layers are alike.
        fused: The checkpoint stores q/k/v and gate/up as one matrix each (Phi-3).
        qkv_bias: Query, key and value projections have biases.
        output_bias: The attention's output projection has a bias.
        mlp_bias: The MLP's projections have biases.
        moe: Shape of the mixtures of experts that stand in place of MLPs; None where there are none.
    """

    family: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    vocab: int
    norm_eps: float
    context: int
    activation: str = "silu"
    tied_head: bool = False
    qk_norm: bool = False
    qk_norm_whole: bool = False
    pre_norm: bool = True
    post_norm: bool = False
    residual_scale: float = 1.0
    score_scale: float | None = None
    logit_scale: float = 1.0
    norm_offset: float = 0.0
    embed_scale: float = 1.0
    window: int | None = None
    alternate: Alternate | None = None
    fused: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    moe: MoeConfig | None = None

    @property
    def shortest_window(self) -> int | None:
        """The shortest sliding window of any layer, None if no layer has one."""
        windows = (self.window, None if self.alternate is None else self.alternate.window)
        return min((window for window in windows if window is not None), default=None)

    def plain_layers(self) -> DecoderConfig:
        """The same sizes with the layers that drafters are trained with: norms before the sub-layers alone,
        no factors, no fused matrices, all layers alike.
        """
        return replace(
            self,
            alternate=None,
            fused=False,
            norm_offset=0.0,
            qk_norm_whole=False,
            pre_norm=True,
            post_norm=False,
            residual_scale=1.0,
            score_scale=None,
        )


FAMILIES: dict[str, str] = {
    "LlamaForCausalLM": "Llama 1/2/3, Vicuna, CodeLlama, LayerSkip, TinyLlama, SmolLM2",
    "MistralForCausalLM": "Mistral",
    "Qwen2ForCausalLM": "Qwen2, Qwen2.5",
    "Qwen3ForCausalLM": "Qwen3",
    "Phi3ForCausalLM": "Phi-3",
    "GemmaForCausalLM": "Gemma",
    "Gemma3ForCausalLM": "Gemma 3 of text alone",
    "SmolLM3ForCausalLM": "SmolLM3",
    "GraniteForCausalLM": "Granite 3",
    "Olmo2ForCausalLM": "OLMo 2",
    "MixtralForCausalLM": "Mixtral",
    "OlmoeForCausalLM": "OLMoE",
    "Qwen2MoeForCausalLM": "Qwen1.5-MoE, Qwen2-MoE",
    "Qwen3MoeForCausalLM": "Qwen3-MoE",
}
"""Supported architectures, each tested against transformers, with the models users know them by."""

FAMILY_OF = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "granite": "GraniteForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
"""Architectures by ``model_type``."""


def supported_families() -> str:
    """The supported architectures with the models they are known by, for messages."""
    return ", ".join(f"{name} ({models})" for name, models in FAMILIES.items())


def unsupported(what: str, by: str = "by the decoder") -> UserError:
    """The message about an architecture that the decoder does not run."""
    return UserError(f"{what} is not supported {by}", f"use a checkpoint of one of: {supported_families()}")
