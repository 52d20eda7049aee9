"""EAGLE-3: speculation by a one-layer drafter on the target's own rows, arXiv 2503.01840; here as a chain.

Every verification leaves the target's rows at three depths: those entering layers 2, L / 2 and L - 3. A
matrix reduces them to one row a position. The drafter, a single layer with a cache and usually an LM head of
its own, predicts the token after next from that row and the embedding of the next token. For later tokens of
a draft it reads what it put out itself (section 3.1).

A round, on top of the one in numbers in `methods.core.chain` (root 17 at position base = 5, K = 3):
- draft: the drafter's cache holds positions 0 to 3 with the target's rows. Position 4 passes it together with
  the embedding of 17 and gives 40; its output and the embedding of 40 stand for position 5 and give 8, and so
  on: K passes of one row.
- verify: root and draft pass the target, which leaves its rows of positions 5 to 8.
- commit: the drafter's cache is cut to 5 slots, since positions from 5 on were drafted with its own rows.
  With 2 accepted, positions 5, 6 and 7 wait with the target's rows, and pass the drafter in the next draft's
  first pass.

Differs from the authors' code in:
- it drafts a chain, as serving engines do, instead of a tree of 60 tokens (section 3.1 of EAGLE-2);
- the draft never exceeds the remaining budget, so exactly `max_new_tokens` tokens come out;
- under sampling the target accepts by the exact rule for chains, from the whole distribution that the draft
  was drawn from; the authors treat a drafted token as certain.

Shapes: P prompt tokens, K drafted tokens, R rows, d width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.modules import load_module, load_provenance
from bench.runtime.sampling import DraftVocab, Sampler
from methods.core.base import ModuleTrainer
from methods.core.chain import ChainMethod, Draft, DraftBuilder, is_unsure
from methods.eagle3.layer import EagleLayer, Layout


@dataclass(frozen=True, slots=True)
class Training:
    """What is chosen for the training of a drafter; decoding takes it from the weights.

    Args:
        unroll: Steps of the training-time test.
        own_lm_head: Whether the drafter has an LM head of its own.
        mlp_width: Inner width of its MLP; None is the target's.
    """

    unroll: int
    own_lm_head: bool
    mlp_width: int | None


class Eagle3(ChainMethod):
    """Chain drafting by a layer on the target's rows at three depths.

    Args:
        weights: Folder of the drafter's module, or None to train one.
        draft_length: Most tokens drafted per round (K).
        threshold: Drafting stops after a token with a top probability below this; 0 always drafts K tokens.
        unroll: For training: steps that the drafter looks ahead (training-time test, section 3.1).
        own_lm_head: For training: give the drafter an LM head; False drafts with the target's.
        mlp_width: For training: inner width of the drafter's MLP; None is the target's.
        draft_vocab: For training: how many of the most frequent tokens it may draft (N); None is all of
            them. A trained drafter has its own list.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    name = "eagle3"

    def __init__(
        self,
        *,
        weights: str | None,
        draft_length: int,
        threshold: float,
        unroll: int,
        own_lm_head: bool,
        mlp_width: int | None = None,
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        if draft_length < 1 or unroll < 1:
            raise ValueError(f"draft_length and unroll must be at least 1, got {draft_length} and {unroll}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
        if mlp_width is not None and mlp_width < 1:
            raise ValueError(f"mlp_width must be at least 1, got {mlp_width}")
        self._weights = None if weights is None else Path(weights)
        self._draft_length, self._threshold = draft_length, threshold
        self._training = Training(unroll, own_lm_head, mlp_width)
        self._vocab = DraftVocab(draft_vocab, frequent_tokens)

    def attach(self, decoder: Decoder) -> None:
        if self._weights is None:
            raise UserError(
                "eagle3 needs the weights of its drafter and method.weights is not set",
                "set method.weights to its folder, or train one: python -m bench.train method=eagle3",
            )
        layout = layout_of(load_provenance(self._weights, self.name), decoder, self._weights)
        self.use(
            decoder, load_module(self._weights, layout.shapes(decoder.config), decoder.embedding), layout
        )

    def use(self, decoder: Decoder, tensors: Mapping[str, Tensor], layout: Layout) -> None:
        """Bind to a decoder, with the drafter's tensors given."""
        self._decoder = decoder
        self._layer = EagleLayer(decoder, tensors, layout)
        self._taps = dict.fromkeys(layout.taps, decoder.embedding)
        self._waiting = decoder.embedding[:0]  # rows [R, d] that the drafter has yet to read
        self._next_tokens = torch.empty(0, dtype=torch.int64, device=decoder.device)  # after all but the last

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        logits = self._decoder.prefill(prompt_ids, self._taps)
        layer, features = self._layer, self._layer.features(self._taps)
        layer.cache.truncate(0)
        if prompt_ids.numel() > 1:
            layer.advance(self._decoder.embed(prompt_ids[1:]), features[:-1])  # only for its keys and values
        self._waiting, self._next_tokens = features[-1:], prompt_ids[:0]
        return logits

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        layer, head = self._layer, self._layer.draft_head
        chain = DraftBuilder(root, self._draft_length, room, head)
        tokens, hidden, stop = torch.cat([self._next_tokens, root]), self._waiting, None
        self._next_tokens = tokens  # where there is no room, all rows go on waiting
        if chain.has_room:
            self._waiting, self._next_tokens = hidden[:0], tokens[:0]
        while chain.has_room and stop is None:
            hidden = layer.advance(self._decoder.embed(tokens), hidden)[-1:]
            logits = head(hidden)
            tokens = chain.propose(logits, sampler)
            if is_unsure(logits, self._threshold):
                stop = "confidence"
        return chain.finish(stop)

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        """Run root and draft through the whole target, which leaves its rows for the drafter."""
        decoder = self._decoder
        self._drafted, tokens = draft.tokens, torch.cat([root, draft.tokens])
        place = decoder.placement.chain(base, tokens.numel())
        return decoder.head(decoder.run_layers(decoder.embed(tokens), place, taps=self._taps))

    def commit(self, emitted: Tensor, base: int) -> None:
        """Drop what the drafter read of its own rows; the target's rows of what was accepted wait for it."""
        count = emitted.numel()
        self._layer.cache.truncate(min(base, self._layer.cache.length))
        rows = self._layer.features({layer: tapped[:count] for layer, tapped in self._taps.items()})
        self._waiting = torch.cat([self._waiting, rows])
        self._next_tokens = torch.cat([self._next_tokens, self._drafted[: count - 1]])

    def trainer(self) -> ModuleTrainer:
        """See `methods.core.base.Trainable`."""
        from methods.eagle3.module import Eagle3Trainer

        return Eagle3Trainer(self.name, self._vocab, self._training)


def default_taps(depth: int) -> tuple[int, int, int]:
    """Layers 2, L / 2 and L - 3 of a target with L layers, whose entering rows the authors' drafters read."""
    return min(2, depth - 1), depth // 2, max(0, depth - 3)


def layout_of(facts: Mapping[str, Any], decoder: Decoder, folder: Path) -> Layout:
    """The drafter's layout as its ``module.json`` tells it.

    Raises:
        UserError: If it does not fit this model.
    """
    ids = facts.get("draft_ids")
    try:
        layout = Layout(
            taps=tuple(int(layer) for layer in facts["taps"]),
            mlp_width=int(facts["mlp_width"]),
            draft_ids=None if ids is None else tuple(int(token) for token in ids),
            has_head=bool(facts["has_head"]),
            norm_before_residual=bool(facts.get("norm_before_residual", False)),
            rope_theta=_number(facts.get("rope_theta")),
            norm_eps=_number(facts.get("norm_eps")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}/module.json does not describe a drafter of eagle3 ({type(error).__name__}: {error})",
            "convert or train it again: python -m bench.convert kind=eagle3, or bench.train method=eagle3",
        ) from error
    known = layout.draft_ids or ()
    if not all(0 <= layer <= decoder.depth for layer in layout.taps) or not layout.taps:
        problem = f"reads layers {list(layout.taps)}, this model has {decoder.depth}"
    elif list(known) != sorted(set(known)) or any(not 0 <= token < decoder.config.vocab for token in known):
        problem = f"lists draft tokens that are not ascending ids below {decoder.config.vocab}"
    else:
        return layout
    raise UserError(f"the drafter in {folder} {problem}", "use a drafter that was trained for this model")


def _number(value: Any) -> float | None:  # noqa: ANN401 - from JSON
    return None if value is None else float(value)
