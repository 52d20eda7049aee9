"""The network of the embedded model: a Hugging Face Llama for the weights, one functional pass for the speed.

The pass reads the parameters of `LlamaForCausalLM` and computes what its modules compute, but with the q/k/v
and the gate/up products fused, attention as plain batched products on the CPU (the kernels of
scaled_dot_product_attention have a slower backward pass at these sizes) and one function for all layers, so
that torch.compile compiles it once.

Shapes: B dialogues of a micro-batch, S positions, D hidden size, H heads, F feed-forward size, N selected
positions, L layers, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

RMS_EPS = 1e-5
ROPE_THETA = 10000.0
INIT_STD = 0.02


@dataclass(frozen=True, slots=True)
class BaseShape:
    """Sizes of the network; the head size is `hidden // heads`."""

    layers: int = 16
    hidden: int = 160
    heads: int = 5
    feed_forward: int = 448
    vocab: int = 2048
    max_positions: int = 8192

    def __post_init__(self) -> None:
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError(
                f"hidden must be heads times an even head size, got {self.hidden} for {self.heads} heads"
            )


def build_model(shape: BaseShape, seed: int, bos: int, end: int) -> LlamaForCausalLM:
    """A Llama with tied embeddings and seeded fp32 weights.

    Every matrix is normal with deviation 0.02; the two projections that write to the residual stream are
    divided by sqrt(2 L), so that the stream's variance does not grow with depth.

    Args:
        shape: Sizes of the network.
        seed: Seed of the weights.
        bos: Token id that opens a dialogue.
        end: Token id that ends an answer, also the padding id.
    """
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.max_positions,
        rms_norm_eps=RMS_EPS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=end,
        pad_token_id=end,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                is_writer = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = INIT_STD / (2 * shape.layers) ** 0.5 if is_writer else INIT_STD
                weight.normal_(0.0, std, generator=generator)
    return model


def rms_norm(h: Tensor, weight: Tensor) -> Tensor:
    """RMS norm in fp32, returned in the weight's type. Shapes: h [..., D], weight [D]."""
    wide = h.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + RMS_EPS)).to(weight.dtype) * weight


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)  # Llama's half-split convention
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def layer_pass(h: Tensor, cos: Tensor, sin: Tensor, keep: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """One decoder layer.

    Args:
        h: Residual stream, shape [B, S, D], fp32.
        cos: Rotary cosines, shape [S, 1, D / H / 2].
        sin: Rotary sines, same shape.
        keep: 1 where the sample runs the layer and 0 where layer dropout skips it, shape [B, 1, 1].
        weights: qkv [3 D, D], output [D, D], gate and up [2 F, D], down [D, F], the two norms [D].

    Returns:
        The residual stream after the layer, shape [B, S, D].
    """
    qkv_w, out_w, gate_up_w, down_w, norm1, norm2 = weights
    size, length, hidden = h.shape
    heads = hidden // (2 * cos.shape[-1])
    qkv = F.linear(rms_norm(h, norm1), qkv_w).view(size, length, 3, heads, -1)
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # [B, H, S, D / H]
    cos, sin = cos.transpose(0, 1), sin.transpose(0, 1)
    mixed = (
        _attend(_rotate(q, cos, sin), _rotate(k, cos, sin), v).transpose(1, 2).reshape(size, length, hidden)
    )
    h = h + F.linear(mixed, out_w) * keep
    gate, up = F.linear(rms_norm(h, norm2), gate_up_w).chunk(2, -1)
    return h + F.linear(F.silu(gate) * up, down_w) * keep


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    future = torch.full((q.shape[2], q.shape[2]), -1e9, dtype=q.dtype).triu(1)
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + future, -1) @ v


def weighted_loss(h: Tensor, norm: Tensor, head: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Sum over the selected positions of weight times cross-entropy, through the shared norm and head.

    Shapes: h [N, D], norm [D], head [V, D], targets [N], weight [N].
    """
    logits = F.linear(rms_norm(h, norm), head).float()
    return (F.cross_entropy(logits, targets, reduction="none") * weight).sum()


def rotary_table(shape: BaseShape, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions 0..length-1, each of shape [length, 1, D / H / 2], fp32."""
    half = shape.hidden // shape.heads // 2
    inverse = ROPE_THETA ** (-torch.arange(half, device=device).float() / half)
    angles = torch.outer(torch.arange(length, device=device).float(), inverse)
    return angles.cos()[:, None], angles.sin()[:, None]


def _layer_weights(layer: nn.Module, dtype: torch.dtype) -> list[Tensor]:
    names = dict(layer.named_parameters())
    fused = (
        torch.cat([names[f"self_attn.{part}_proj.weight"] for part in "qkv"]),
        names["self_attn.o_proj.weight"],
        torch.cat([names["mlp.gate_proj.weight"], names["mlp.up_proj.weight"]]),
        names["mlp.down_proj.weight"],
        names["input_layernorm.weight"],
        names["post_attention_layernorm.weight"],
    )
    return [weight.to(dtype) for weight in fused]


@dataclass(frozen=True, slots=True)
class Network:
    """The trained model with its (perhaps compiled) layer and loss functions."""

    model: LlamaForCausalLM
    shape: BaseShape
    dtype: torch.dtype
    layer: Callable[..., Tensor] = layer_pass
    loss: Callable[..., Tensor] = weighted_loss

    def hidden_states(self, ids: Tensor, keep: Tensor) -> list[Tensor]:
        """Residual stream after the embedding and after every layer, L + 1 tensors [B, S, D].

        Args:
            ids: Token ids, right padded, shape [B, S]; padding needs no mask because attention is causal.
            keep: Layer dropout, shape [L, B, 1, 1], 1 where the sample runs the layer.
        """
        inner = self.model.model
        cos, sin = (table.to(self.dtype) for table in rotary_table(self.shape, ids.shape[1], ids.device))
        states = [F.embedding(ids, inner.embed_tokens.weight)]
        for layer, kept in zip(inner.layers, keep.to(self.dtype), strict=True):
            states.append(self.layer(states[-1], cos, sin, kept, _layer_weights(layer, self.dtype)))
        return states

    def head(self) -> tuple[Tensor, Tensor]:
        """Final norm [D] and tied head [V, D] in the compute type."""
        inner = self.model.model
        return inner.norm.weight.to(self.dtype), inner.embed_tokens.weight.to(self.dtype)


def compiled_network(
    model: LlamaForCausalLM, shape: BaseShape, dtype: torch.dtype, is_compiled: bool
) -> Network:
    """The network, with layer and loss compiled once for all lengths if `is_compiled`."""
    if not is_compiled:
        return Network(model, shape, dtype)
    return Network(
        model,
        shape,
        dtype,
        layer=torch.compile(layer_pass, dynamic=True),
        loss=torch.compile(weighted_loss, dynamic=True),
    )
