"""LayerSkip: self-speculative decoding with a fixed early exit, arXiv 2404.16710, section 4.3.

The first `exit_layer` layers draft, with the target's own final norm and LM head on top; the remaining layers
verify (`methods.early_exit.prefix`). No weights are added, but the model must have been trained for early
exits. How long a draft gets is a policy: a fixed length as in the paper, or one of the rules that DEL is
compared with (`methods.core.draft_length`).

Differs from the authors' code in:
- the prompt has a prefill of its own, as for every method here, instead of passing through the first draft;
- drafting does not stop at a drafted end token: a few wasted tokens in the last round cost less than a host
  sync in every step, and the harness cuts the output;
- the draft never exceeds the remaining budget.

Shapes: E layers that draft, K drafted tokens.
"""

from __future__ import annotations

from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.sampling import DraftVocab, Sampler
from methods.core.base import check_exit
from methods.core.chain import Draft, DraftBuilder, is_unsure
from methods.core.draft_length import AdaptiveChain
from methods.early_exit.prefix import PrefixExit


class LayerSkip(AdaptiveChain):
    """Self-speculation with a fixed early exit.

    Args:
        exit_layer: Layers that draft (E).
        draft_length: Tokens drafted per round (d); where the policy adapts it, at first or at most.
        policy: ``static``, or another of `methods.core.draft_length.POLICIES`.
        threshold: Confidence below which the policies ``threshold``, ``dv`` and ``self_sd`` end a draft, at
            first.
        target: Acceptance that ``dv`` and ``self_sd`` aim at.
        draft_vocab: How many of the most frequent tokens may be drafted (N); None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    def __init__(
        self,
        *,
        exit_layer: int,
        draft_length: int,
        policy: str = "static",
        threshold: float = 0.6,
        target: float = 0.8,
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        super().__init__(policy, draft_length, threshold, target)
        self._vocab = DraftVocab(draft_vocab, frequent_tokens)
        self._exit_layer = exit_layer

    def attach(self, decoder: Decoder) -> None:
        check_exit(self._exit_layer, decoder, "layerskip")
        self._decoder = decoder
        self._head = self._vocab.head(decoder)
        self._stepper = decoder.stepper(self._exit_layer, self._head)
        self.reset()

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._policy.start()
        return super().prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        self._exit = PrefixExit(self._decoder, base, self._exit_layer)
        row = self._exit.advance(root)
        chain = DraftBuilder(root, self._policy.limit, room, self._head)
        threshold = self._policy.threshold
        stop = None
        while chain.has_room and stop is None:
            if sampler.is_greedy:
                step = self._stepper.step(row, self._exit.position - 1, has_confidence=threshold > 0)
                row = step.row
                chain.add(step.token)
                self._exit.keep(row)
                unsure = step.is_unsure(threshold)
            else:
                logits = self._head(row)
                row = self._exit.advance(chain.propose(logits, sampler))
                unsure = is_unsure(logits, threshold)
            stop = "confidence" if unsure else None
        draft = chain.finish(stop, self._exit_layer)
        self._drafted = draft.tokens.numel()
        return draft

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        """Run the remaining layers on the rows saved while drafting."""
        return self._exit.verify()

    def commit(self, emitted: Tensor, base: int) -> None:
        """Report the round to the policy."""
        self._policy.observe(emitted.numel() - 1, self._drafted)
