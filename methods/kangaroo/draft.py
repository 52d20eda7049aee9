"""Kangaroo: self-speculation with a double early exit, arXiv 2404.18911 (chain version, section 3).

The first `exit_layer` layers of the target, a trained one-layer adapter and the target's own LM head draft;
drafting stops behind the first token of low confidence. Verification resumes at `exit_layer` on the saved
rows, so the shallow layers run once per token and share their keys and values with the target.

The adapter (section 3.2) is an attention sub-layer with its own input and output norm and no MLP; it keeps
keys and values of its own, which trail the target's by one position after a fully accepted draft.

Differs from the authors' code in:
- the draft never exceeds the remaining budget, so exactly `max_new_tokens` tokens come out;
- sampling is supported: drafts are drawn from the warped adapter distribution; the exit rule looks at the top
  probability at temperature 1, never at the drawn token, so it does not bias the output.

Shapes: T positions, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Attention, Decoder, Layer
from bench.runtime.families import DecoderConfig
from bench.runtime.linear import Linear
from bench.runtime.modules import load_module, load_provenance
from bench.runtime.sampling import Sampler
from methods.core.base import ModuleTrainer
from methods.core.chain import ChainMethod, Draft, DraftBuilder, is_unsure
from methods.early_exit.prefix import PrefixExit, check_exit


class Kangaroo(ChainMethod):
    """Early-exit drafting through a trained adapter.

    Args:
        weights: Folder of the adapter's module, or None to train one.
        exit_layer: Layers that draft (l); None takes the layer the adapter was trained for, or a sixteenth to
            a tenth of the depth, as the paper recommends, for a new one.
        draft_length: Most tokens drafted per round (gamma).
        threshold: Drafting stops behind a token whose top probability is below this (eta).
    """

    name = "kangaroo"

    def __init__(
        self, *, weights: str | None, exit_layer: int | None, draft_length: int, threshold: float
    ) -> None:
        if draft_length < 1:
            raise ValueError(f"draft_length must be at least 1, got {draft_length}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
        self._weights = None if weights is None else Path(weights)
        self._exit_layer = exit_layer
        self._draft_length = draft_length
        self._threshold = threshold

    def attach(self, decoder: Decoder) -> None:
        if self._weights is None:
            raise UserError(
                "kangaroo needs the weights of its adapter and method.weights is not set",
                "set method.weights to its folder, or train one: python -m bench.train method=kangaroo",
            )
        trained_for = int(load_provenance(self._weights, self.name)["exit_layer"])
        self._layer = trained_for if self._exit_layer is None else self._exit_layer
        check_exit(self._layer, decoder, self.name)
        if self._layer != trained_for:
            raise UserError(
                f"the adapter in {self._weights} was trained for exit_layer {trained_for}, not {self._layer}",
                "leave method.exit_layer null, or train an adapter for that layer",
            )
        tensors = load_module(self._weights, adapter_shapes(decoder.config), decoder.embedding)
        self.use(decoder, tensors, self._layer)

    def use(self, decoder: Decoder, tensors: Mapping[str, Tensor], exit_layer: int) -> None:
        """Bind to a decoder with the adapter's tensors at hand."""
        self._layer = exit_layer
        self._decoder = decoder
        self._adapter = _as_decoder(decoder, tensors)
        self._exit = PrefixExit(decoder)
        self._carry: Tensor | None = None

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        taps = {self._layer: self._decoder.embedding}
        logits = self._decoder.prefill(prompt_ids, taps)
        self._adapter.cache.truncate(0)
        place = self._adapter.placement.chain(0, prompt_ids.numel())
        self._adapter.run_layers(taps[self._layer], place)  # only for its keys and values
        self._carry = None
        return logits

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        self._exit.start(base, self._layer)
        row = self._exit.advance(root)
        chain = DraftBuilder(root, self._draft_length, room)
        stop = None
        while chain.has_room and stop is None:
            logits = self._adapt(row)
            row = self._exit.advance(chain.propose(logits, sampler))
            if is_unsure(logits, self._threshold):
                stop = "confidence"
        self._last_row = row
        return chain.finish(stop, self._layer)

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        return self._exit.verify()

    def commit(self, emitted: Tensor, base: int) -> None:
        length = base + emitted.numel()
        self._adapter.cache.truncate(length)
        is_behind = self._adapter.cache.length < length
        self._carry = (
            self._last_row if is_behind else None
        )  # everything accepted: the last row never came through

    def _adapt(self, row: Tensor) -> Tensor:
        """Draft logits [1, V] behind `row`; a carried row goes first, in the same pass."""
        adapter = self._adapter
        if self._carry is not None:
            row, self._carry = torch.cat([self._carry, row]), None
        place = adapter.placement.chain(adapter.cache.length, row.shape[0])
        return adapter.head(adapter.run_layers(row, place)[-1:])

    def trainer(self) -> ModuleTrainer:
        """See `methods.core.base.Trainable`."""
        from methods.kangaroo.module import KangarooTrainer

        return KangarooTrainer(self.name, self._exit_layer)


def adapter_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the adapter's tensors by their names in the published checkpoints."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    attention = "layers.0.self_attn"
    return {
        "layers.0.input_layernorm.weight": (config.width,),
        f"{attention}.q_proj.weight": (queries, config.width),
        f"{attention}.k_proj.weight": (keys, config.width),
        f"{attention}.v_proj.weight": (keys, config.width),
        f"{attention}.o_proj.weight": (config.width, queries),
        "norm.weight": (config.width,),
    }


def _as_decoder(target: Decoder, tensors: Mapping[str, Tensor]) -> Decoder:
    """The adapter as a one-layer decoder without MLP, on the target's positions and LM head."""
    prefix = "layers.0.self_attn"
    qkv = torch.cat([tensors[f"{prefix}.{name}_proj.weight"] for name in "qkv"])
    attention = Attention(
        norm=tensors["layers.0.input_layernorm.weight"],
        qkv=Linear(qkv),
        o=Linear(tensors[f"{prefix}.o_proj.weight"]),
    )
    return target.companion([Layer(attention, mlp=None)], tensors["norm.weight"])
