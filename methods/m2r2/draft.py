"""M2R2: drafting from an accelerated stream that runs next to the target's own rows, arXiv 2502.02040.

From layer `start` on, a second row of each new token runs through the same frozen layers with low-rank
changes, so that after layer `exit_layer` it resembles the target's last row; the target's LM head reads a
draft from it. It sees the keys and values of the target's own (slow) rows, its own position included, and
stores none: the cache is the target's own, and verification resumes on the slow rows, as in LayerSkip.

A worked round after a prompt of 10 tokens, on 24 layers, with s = 0 and e = 3:

    root       the prompt's last row chose "The"
    draft      "The" runs through layers 0 to 2 as a slow and an accelerated row, and the head reads "cat"
               from the accelerated one; "cat" likewise gives "sat", whose gate is below the threshold: the
               draft ends, and "sat" runs through layers 0 to 2 as a slow row only
    verify     the three slow rows run through layers 3 to 23 in one pass; the target chooses "cat", then
               "ran"
    emitted    "cat" is accepted, "ran" is the next root: drafted 2, accepted 1, emitted 2
    cache      12 tokens: the prompt, "The" and "cat"

An independent re-implementation from the abstract and secondary sources: neither the paper's text nor any
code was available, so no published number can be compared with it. Our decisions:
- an adapter is a low-rank change of q, o, gate, up and down; keys and values have none;
- one exit interval; the accelerated row starts as a copy of the slow one;
- drafts are chains; a gate ends them after an unsure token, which is still verified: the top probability, or
  a small attention over the accelerated rows of the interval (ARLA);
- sampled drafts are drawn from the accelerated row's own distribution;
- trained with KL(target || draft) over the target's 64 likeliest tokens; the gate learns whether the draft is
  right (`methods.m2r2.module`).
Expert loading ahead of time for mixture-of-experts models is not part of it.

`lossy` turns it into early exit without verification: see `methods.m2r2.dynamic`.

Shapes: n layers of the interval, r rank, d width, N tokens that may be drafted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bench.errors import UserError
from bench.records.model import Generation
from bench.runtime.decoder import Decoder
from bench.runtime.modules import load_module, load_provenance
from bench.runtime.sampling import DraftVocab, Sampler
from methods.core.base import Budget, Clock, Exactness, ModuleTrainer, Traits, check_exit
from methods.core.chain import ChainMethod, Draft, DraftBuilder, top_probability
from methods.early_exit.prefix import PrefixExit
from methods.m2r2.accelerated import TARGETS, Arla, FrozenLowRank, chosen_interval, module_shapes
from methods.m2r2.dynamic import generate_early

GATES = ("softmax", "arla")


class M2R2(ChainMethod):
    """Early-exit drafting from accelerated rows.

    Args:
        weights: Folder of the adapters, or None to train them.
        start: Layer the accelerated row enters (s); None takes what the weights were trained for, or 0.
        exit_layer: Layer it leaves (e); None as above, or an eighth of the depth.
        draft_length: Most tokens drafted per round (gamma).
        gate: ``softmax`` or ``arla``.
        threshold: Drafting stops after a token whose gate is below this (eta); 0 never stops.
        lossy: Leave early without verification where the gate is at least the threshold.
        rank: Rank of new adapters (r).
        targets: Projections that new adapters change, of `methods.m2r2.accelerated.TARGETS`.
        layers: New adapters change ``all`` layers of the interval, or only the ``last`` (a control).
        draft_vocab: How many of the most frequent tokens may be drafted (N); None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    name = "m2r2"
    traits = Traits(is_reimplementation=True)

    def __init__(
        self,
        *,
        weights: str | None,
        start: int | None,
        exit_layer: int | None,
        draft_length: int,
        gate: str,
        threshold: float,
        lossy: bool,
        rank: int,
        targets: list[str],
        layers: str,
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        if draft_length < 1 or rank < 1:
            raise ValueError(f"draft_length and rank must be at least 1, got {draft_length} and {rank}")
        if threshold < 0:
            raise ValueError(f"threshold must be at least 0, got {threshold}")
        if gate not in GATES or layers not in ("all", "last"):
            raise ValueError(
                f"need gate in {GATES} and layers in ('all', 'last'), got {gate!r} and {layers!r}"
            )
        if not targets or set(targets) - set(TARGETS):
            raise ValueError(f"targets must be some of {', '.join(TARGETS)}, got {targets}")
        if lossy and draft_vocab is not None:
            raise ValueError("draft_vocab needs verification: with lossy=true no rare token could be emitted")
        self._vocab = DraftVocab(draft_vocab, frequent_tokens)
        self._weights = None if weights is None else Path(weights)
        self._start, self._exit_layer = start, exit_layer
        self._draft_length, self._gate, self._threshold, self._is_lossy = draft_length, gate, threshold, lossy
        self._rank, self._targets, self._layers = rank, list(targets), layers

    def attach(self, decoder: Decoder) -> None:
        if self._weights is None:
            raise UserError(
                "m2r2 needs the weights of its adapters and method.weights is not set",
                "set method.weights to their folder, or train them: python -m bench.train method=m2r2",
            )
        facts = load_provenance(self._weights, self.name)
        trained_for = int(facts["start"]), int(facts["exit_layer"])
        configured = chosen_interval(self._start, self._exit_layer, trained_for)
        if configured != trained_for:
            raise UserError(
                f"the adapters in {self._weights} were trained for layers {trained_for}, not {configured}",
                "leave method.start and method.exit_layer null, or train adapters for that interval",
            )
        check_exit(trained_for[1], decoder, self.name)
        layers, targets, rank = str(facts["layers"]), list(facts["targets"]), int(facts["rank"])
        shapes = module_shapes(decoder, trained_for, layers, targets, rank)
        self.use(decoder, load_module(self._weights, shapes, decoder.embedding), trained_for)

    def use(self, decoder: Decoder, tensors: Mapping[str, Tensor], interval: tuple[int, int]) -> None:
        """Bind to a decoder, with the tensors of a module that was trained for the layers of `interval`."""
        self._decoder, self._from, self._to = decoder, *interval
        self._adapters = FrozenLowRank(_part(tensors, "adapters"), first=1)
        self._arla = Arla(interval[1] - interval[0], decoder.config.width).to(decoder.device, decoder.dtype)
        self._arla.load_state_dict(_part(tensors, "arla"))
        self._arla.requires_grad_(requires_grad=False)
        self._head = self._vocab.head(decoder)

    def exactness(self, sampler: Sampler) -> Exactness:
        return Exactness.LOSSY if self._is_lossy else super().exactness(sampler)

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        if self._is_lossy:
            return generate_early(self, self._decoder, prompt_ids, budget, sampler, clock)
        return super().generate(prompt_ids, budget, sampler, clock)

    @property
    def exit_layer(self) -> int:
        """Layer that accelerated rows leave (e)."""
        return self._to

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        return self._decoder.prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        self._exit = PrefixExit(self._decoder, base, self._to)
        chain, token, stop = DraftBuilder(root, self._draft_length, room, self._head), root, None
        while chain.has_room and stop is None:
            slow, rows = self.accelerate(token, self._exit.position)
            self._exit.keep(slow)
            logits = self._head(rows[-1:])
            token = chain.propose(logits, sampler)
            if self._threshold > 0 and float(self.certainty(logits, rows)) < self._threshold:
                stop = "confidence"  # the one host sync of a draft step
        self._exit.advance(token)  # the last token drafts nothing, so it needs no accelerated row
        return chain.finish(stop, self._to)

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        return self._exit.verify()

    def commit(self, emitted: Tensor, base: int) -> None:
        """Nothing beyond the target's cache to roll back."""

    def accelerate(self, token: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """Run a token [1] through the shallow layers, as a slow and an accelerated row.

        Returns:
            Its slow row leaving layer e - 1, shape [1, d], and the accelerated rows after every layer of the
            interval, shape [n, d].
        """
        decoder = self._decoder
        place = decoder.placement.chain(position, 1)
        slow = decoder.run_layers(decoder.embed(token), place, 0, self._from)
        taps = dict.fromkeys(range(self._from + 1, self._to + 1), slow)
        both = decoder.run_layers(
            slow.expand(2, -1),
            decoder.placement.beside(position),
            self._from,
            self._to,
            delta=self._adapters,
            taps=taps,
        )
        return both[:1], torch.cat([rows[1:] for rows in taps.values()])

    def certainty(self, logits: Tensor, rows: Tensor) -> Tensor:
        """The gate: how likely the draft is right, from its logits [1, N] and accelerated rows [n, d]."""
        return top_probability(logits) if self._gate == "softmax" else self._arla(rows[:, None]).sigmoid()

    def is_sure(self, logits: Tensor, rows: Tensor) -> bool:
        """Whether the gate lets a token leave early; one host sync."""
        return bool(self.certainty(logits, rows) >= self._threshold)

    def trainer(self) -> ModuleTrainer:
        """See `methods.core.base.Trainable`."""
        from methods.m2r2.module import M2R2Trainer

        return M2R2Trainer(self.name, self._start, self._exit_layer, self._rank, self._targets, self._layers)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of a submodule, under its own names."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
