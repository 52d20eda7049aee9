"""Draft & Verify: self-speculation with a fixed set of sub-layers skipped, arXiv 2309.08168.

The target drafts with some of its attention and MLP sub-layers skipped (section 3.1; see
`methods.skipping.sublayer_skip`). Which ones is searched beforehand (``python -m bench.train.skip_set``). The
draft stops after the first token whose probability is below a threshold that follows the acceptance (section
3.3; `methods.core.draft_length`). One full pass verifies the chain. The prompt passes through the whole
model.

Differs from the authors' code in:
- keys and values of the draft go to scratch slots after the committed ones instead of a copy of the cache;
- a token's probability is taken at temperature 1 under every sampler, so a threshold always means the same;
- the draft never exceeds the remaining budget, and a round without a draft does not move the threshold;
- published sets belong to their models; none is built in.

Shapes: K drafted tokens.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from bench.errors import UserError
from bench.records.model import Generation
from bench.runtime.decoder import Decoder, Skip
from bench.runtime.modules import PROVENANCE_FILE, load_provenance
from bench.runtime.sampling import DraftVocab, Sampler
from methods.core.base import Budget, Clock
from methods.core.chain import ChainMethod, Draft, DraftBuilder
from methods.core.draft_length import Adaptive, DraftLength, Static, ThresholdRule
from methods.skipping.sublayer_skip import SkippedModel, check_skip, skip_counts, skip_of

SEARCH = "python -m bench.train.skip_set"
"""The command that searches for a set."""


class DraftVerify(ChainMethod):
    """Drafting with a fixed set of sub-layers skipped.

    Args:
        weights: Folder of the set stored for this model; None if the set is given here.
        skip_attention: Layers whose attention is skipped; None takes the set in `weights`.
        skip_mlp: Likewise for MLPs; both are given or neither.
        draft_length: Most tokens drafted per round (K).
        threshold: Drafting stops after a token whose probability is below this; the first value, if adaptive.
        is_adaptive: Whether the threshold follows the acceptance.
        target: Acceptance that the threshold aims at (alpha).
        acceptance_decay: Weight of the past in the running acceptance (beta 1).
        threshold_decay: Weight of the past in the threshold (beta 2).
        step: How far a round moves the threshold, before the decay (epsilon).
        cap_hold: A round that drafted all K tokens never lowers the threshold.
        carry_over: Keep the threshold from one prompt to the next.
        draft_vocab: How many of the most frequent tokens may be drafted (N); None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    name = "draft_verify"

    def __init__(
        self,
        *,
        weights: str | None,
        skip_attention: list[int] | None,
        skip_mlp: list[int] | None,
        draft_length: int,
        threshold: float,
        is_adaptive: bool,
        target: float,
        acceptance_decay: float,
        threshold_decay: float,
        step: float,
        cap_hold: bool,
        carry_over: bool,
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        if draft_length < 1:
            raise ValueError(f"draft_length must be at least 1, got {draft_length}")
        if (skip_attention is None) != (skip_mlp is None):
            raise ValueError("skip_attention and skip_mlp must be given together, or neither")
        self._weights = None if weights is None else Path(weights)
        self._vocab = DraftVocab(draft_vocab, frequent_tokens)
        self._given = (
            None if skip_attention is None or skip_mlp is None else skip_of(skip_attention, skip_mlp)
        )
        self._draft_length = draft_length
        self._rule = ThresholdRule(target, acceptance_decay, threshold_decay, step, cap_hold)
        self._first_threshold = threshold
        self._is_adaptive, self._carry_over = is_adaptive, carry_over

    def attach(self, decoder: Decoder) -> None:
        self.skip = self._given if self._given is not None else self._stored()
        check_skip(self.skip, decoder, self.name)
        self._decoder = decoder
        self._head = self._vocab.head(decoder)
        self._skipped = SkippedModel(decoder, self._head)
        self.reset()

    def _stored(self) -> Skip:
        """The set stored for this model.

        Raises:
            UserError: If there is none.
        """
        if self._weights is None:
            raise UserError(
                "draft_verify needs a set of sub-layers to skip and method.weights is not set",
                f"search for one: {SEARCH} method=draft_verify; "
                "or set method.skip_attention and method.skip_mlp",
            )
        facts = load_provenance(self._weights, self.name, files=(PROVENANCE_FILE,), command=SEARCH)
        return skip_of(facts["skip"]["attention"], facts["skip"]["mlp"])

    def reset(self) -> None:
        """Return to the first threshold."""
        length, threshold = self._draft_length, self._first_threshold
        self._policy: DraftLength = Static(length, threshold)
        if self._is_adaptive:
            self._policy = Adaptive(length, threshold, self._rule, is_cumulative=False)

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        if not self._carry_over:
            self.reset()
        generation = super().generate(prompt_ids, budget, sampler, clock)
        counts = skip_counts(self.skip, self._decoder.depth, len(generation.rounds))
        return replace(generation, counts=counts)

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        self._skipped.start(base, self.skip)
        chain = DraftBuilder(root, self._draft_length, room, self._head)
        token, stop = root, None
        while chain.has_room and stop is None:
            logits = self._skipped.advance(token)
            token = chain.propose(logits, sampler)
            if self._is_unsure(logits, token):
                stop = "confidence"
        self._skipped.end()
        draft = chain.finish(stop)
        self._drafted = draft.tokens.numel()
        return draft

    def commit(self, emitted: Tensor, base: int) -> None:
        """Move the threshold."""
        self._policy.observe(emitted.numel() - 1, self._drafted)

    def _is_unsure(self, logits: Tensor, token: Tensor) -> bool:
        """Whether the drafted token's own probability is below the threshold. One host sync per token."""
        threshold = self._policy.threshold
        return threshold > 0 and bool(self._head.chances(logits.float().softmax(dim=-1), token) < threshold)
