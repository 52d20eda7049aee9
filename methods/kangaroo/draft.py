"""Kangaroo: self-speculation with a double early exit, arXiv 2404.18911 (chain version, section 3).

The first `exit_layer` layers of the target, a trained one-layer adapter and the target's own LM head draft
(the first exit); drafting stops after the first token of low confidence (the second exit). Verification runs
the remaining layers on the saved rows, so the first layers run once per token and share their keys and values
with the target. The adapter (section 3.2) is an attention sub-layer with its own input and output norm and no
MLP. It has a cache of its own.

A round, on top of the one in numbers in `methods.core.chain` (root 17 at position base = 5, K = 3):
- draft: 17 passes the first layers, its row passes the adapter, the head picks 40; 40 passes the first
  layers, and so on. The last token, 23, passes the first layers only: the adapter has read K rows, to slot 7.
- verify: the remaining layers run on the K + 1 saved rows (`methods.early_exit.prefix`).
- commit: with 2 accepted the adapter's cache is cut to base + 3 = 8 slots, like the target's. Had all 3 been
  accepted, the target would hold 9 slots and the adapter 8: the row of 23 is *carried* over and passes the
  adapter together with the next root.

Differs from the authors' code in:
- the draft never exceeds the remaining budget, so exactly `max_new_tokens` tokens come out;
- sampling is supported: drafts are sampled from the adapter's distribution, after temperature and cuts; the
  confidence is the top probability at temperature 1, never that of the sampled token, so that stopping does
  not bias the output.

The adapter's training is in `methods.kangaroo.module`.

Shapes: K drafted tokens, d width, N tokens that may be drafted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.families import DecoderConfig
from bench.runtime.layers import Attention, Layer
from bench.runtime.linear import Linear
from bench.runtime.modules import load_module, load_provenance
from bench.runtime.sampling import DraftVocab, Sampler
from methods.core.base import ModuleTrainer, check_exit
from methods.core.chain import ChainMethod, Draft, DraftBuilder, is_unsure
from methods.early_exit.prefix import PrefixExit


class Kangaroo(ChainMethod):
    """Early-exit drafting through a trained adapter.

    Args:
        weights: Folder of the adapter's module, or None to train one.
        exit_layer: Layers that draft (l). None takes the layer that the adapter was trained for; a new
            adapter is trained for a twelfth of the depth (the paper recommends a sixteenth to a tenth).
        draft_length: Most tokens drafted per round (gamma).
        threshold: Drafting stops after a token with a top probability below this (eta).
        draft_vocab: How many of the most frequent tokens may be drafted (N); None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    name = "kangaroo"

    def __init__(
        self,
        *,
        weights: str | None,
        exit_layer: int | None,
        draft_length: int,
        threshold: float,
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        if draft_length < 1:
            raise ValueError(f"draft_length must be at least 1, got {draft_length}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
        self._weights = None if weights is None else Path(weights)
        self._exit_layer = exit_layer
        self._draft_length = draft_length
        self._threshold = threshold
        self._vocab = DraftVocab(draft_vocab, frequent_tokens)

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
        """Bind to a decoder, with the adapter's tensors given."""
        self._layer = exit_layer
        self._decoder = decoder
        self._adapter = _as_decoder(decoder, tensors)
        self._head = self._vocab.head(self._adapter)
        self._stepper = decoder.stepper(exit_layer, self._head, self._adapter)
        self._carried: Tensor | None = None  # row [1, d] that the adapter has yet to read

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        taps = {self._layer: self._decoder.embedding}
        logits = self._decoder.prefill(prompt_ids, taps)
        self._adapter.cache.truncate(0)
        place = self._adapter.placement.chain(0, prompt_ids.numel())
        self._adapter.run_layers(taps[self._layer], place)  # only for its keys and values
        self._carried = None
        return logits

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        self._exit = PrefixExit(self._decoder, base, self._layer)
        row = self._exit.advance(root)
        chain = DraftBuilder(root, self._draft_length, room, self._head)
        stop = None
        while chain.has_room and stop is None:
            if sampler.is_greedy and self._carried is None:
                step = self._stepper.step(row, self._exit.position - 1, has_confidence=self._threshold > 0)
                row = step.row
                chain.add(step.token)
                self._exit.keep(row)
                unsure = step.is_unsure(self._threshold)
            else:
                logits = self._adapt(row)
                row = self._exit.advance(chain.propose(logits, sampler))
                unsure = is_unsure(logits, self._threshold)
            stop = "confidence" if unsure else None
        self._last_row = row
        return chain.finish(stop, self._layer)

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        """Run the remaining layers on the rows saved while drafting."""
        return self._exit.verify()

    def commit(self, emitted: Tensor, base: int) -> None:
        """Cut the adapter's cache; carry the last row over if its token was accepted but not yet read."""
        length = base + emitted.numel()
        self._adapter.cache.truncate(length)
        self._carried = self._last_row if self._adapter.cache.length < length else None

    def _adapt(self, row: Tensor) -> Tensor:
        """Draft logits [1, N] after a row [1, d]; a carried row goes first, in the same pass."""
        adapter, rows = self._adapter, row
        if self._carried is not None:
            rows, self._carried = torch.cat([self._carried, row]), None
        place = adapter.placement.chain(adapter.cache.length, rows.shape[0])
        return self._head(adapter.run_layers(rows, place)[-1:])

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
    """The adapter as a one-layer decoder without MLP, with the target's positions and LM head."""
    prefix = "layers.0.self_attn"
    qkv = torch.cat([tensors[f"{prefix}.{name}_proj.weight"] for name in "qkv"])
    attention = Attention(
        norm=tensors["layers.0.input_layernorm.weight"],
        qkv=Linear(qkv),
        o=Linear(tensors[f"{prefix}.o_proj.weight"]),
    )
    return target.companion([Layer(attention, mlp=None)], tensors["norm.weight"])
