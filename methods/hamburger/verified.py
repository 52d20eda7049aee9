"""HAMburger's micro-step decoder as a verified drafter on the frozen target (after arXiv 2505.20438).

The target's head gives the first token of a group, the micro-step decoder drafts the rest until its stop head
ends the group, and the target verifies all of them in one pass. Nothing is merged: the cache holds every
token, and the output is the target's own. A variant of ours, to compare on equal terms: the paper verifies
nothing (`methods.hamburger.draft`).

A worked round after a prompt of 10 tokens:

    root       the prompt's last row, at position 9, chose "The"; its hidden states are the features
    draft      micro-steps on them propose "cat" and "sat"; the stop head ends the group
    verify     one pass over "The cat sat" at positions 10 to 12; the target chooses "cat", then "ran"
    emitted    "cat" is accepted, "ran" is the next root; the row of "cat" gives the next features
    cache      12 tokens: the prompt, "The" and "cat"

Differs from the authors' code in: the model is frozen; only the micro-step decoder and its stop head are
trained (`methods.hamburger.verified_trainer`).

Shapes: F features, K most tokens of a group, d width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.modules import load_module, load_provenance
from bench.runtime.sampling import DraftVocab, Sampler
from methods.core.base import ModuleTrainer
from methods.core.chain import ChainMethod, Draft
from methods.hamburger.decoder import MicroDecoder, features_at, new_taps
from methods.hamburger.shape import HamburgerShape


class HamburgerVerified(ChainMethod):
    """Chain drafting by micro-steps on features of the target's last accepted row.

    Args:
        weights: Folder of the trained module, or None to train one.
        confidence: Drafting goes on while the stop head is this sure that it may.
        max_group: Most tokens of a group, its first token included; for training.
        micro_layers: Layers of the micro-step decoder; for training.
        micro_mlp_width: Inner width of their MLPs, None is the model's own; for training.
        floor: Nats below which a token joins any group; for training.
        ratio: Share of a group's highest entropy below which a token joins it; for training.
        stop_weight: Of the stop head's loss; for training.
        draft_vocab: How many of the most frequent tokens may be drafted (N); None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    name = "hamburger_verified"

    def __init__(
        self,
        *,
        weights: str | None,
        confidence: float,
        max_group: int,
        micro_layers: int,
        floor: float,
        ratio: float,
        stop_weight: float,
        micro_mlp_width: int | None = None,
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        if max_group < 2 or micro_layers < 1:
            raise ValueError(f"need max_group >= 2 and micro_layers >= 1, got {max_group} and {micro_layers}")
        if micro_mlp_width is not None and micro_mlp_width < 1:
            raise ValueError(f"micro_mlp_width must be at least 1, got {micro_mlp_width}")
        if floor < 0 or not 0 <= ratio <= 1:
            raise ValueError(f"need floor of at least 0 and ratio in [0, 1], got {floor} and {ratio}")
        self._weights = None if weights is None else Path(weights)
        self._confidence, self._vocab = confidence, DraftVocab(draft_vocab, frequent_tokens)
        self._max_group = max_group
        self._micro_layers, self._micro_mlp_width = micro_layers, micro_mlp_width
        self._floor, self._ratio, self._stop_weight = floor, ratio, stop_weight

    def attach(self, decoder: Decoder) -> None:
        if self._weights is None:
            raise UserError(
                "hamburger_verified needs trained weights and method.weights is not set",
                "set method.weights, or train a module: python -m bench.train method=hamburger_verified",
            )
        shape = HamburgerShape(**load_provenance(self._weights, self.name)["shape"])
        shape.check(decoder.config)
        tensors = load_module(self._weights, shape.micro_shapes(decoder.config), decoder.embedding)
        self.use(decoder, tensors, shape)

    def use(self, decoder: Decoder, tensors: Mapping[str, Tensor], shape: HamburgerShape) -> None:
        """Bind to a decoder, with the tensors of a trained module."""
        self._decoder, self._shape = decoder, shape
        head = self._vocab.head(decoder)
        self._micro = MicroDecoder(decoder, tensors, shape, self._confidence, head=head)

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._taps, self._last = new_taps(self._decoder, self._shape), -1
        return self._decoder.prefill(prompt_ids, self._taps)

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        features = features_at(self._decoder, self._taps, self._shape, self._last)
        return self._micro.draft(root, features, room, sampler)

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        decoder, tokens = self._decoder, torch.cat([root, draft.tokens])
        self._taps = new_taps(decoder, self._shape)
        place = decoder.placement.chain(base, tokens.numel())
        return decoder.head(decoder.run_layers(decoder.embed(tokens), place, taps=self._taps))

    def commit(self, emitted: Tensor, base: int) -> None:
        self._last = emitted.numel() - 1  # the row that chose the new root

    def trainer(self) -> ModuleTrainer:
        """See `methods.core.base.Trainable`."""
        from methods.hamburger.verified_trainer import VerifiedTrainer

        return VerifiedTrainer(
            self.name,
            self._max_group,
            self._micro_layers,
            self._micro_mlp_width,
            self._floor,
            self._ratio,
            self._stop_weight,
        )
