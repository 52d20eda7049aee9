"""Self-speculative decoding with a static early exit: LayerSkip, arXiv 2404.16710, section 4.3.

Drafts with layers ``0 .. exit_layer - 1`` and the target's own final norm and LM head, verifies with the
rest. How long a draft gets is a policy of its own: a fixed length as in the paper, or one of the rules that
DEL is compared with.

Differs from the authors' code in:
- the prompt has a prefill of its own, as for every method here, instead of passing through the first draft;
- drafting does not stop at a drafted end token: the wasted tail of one last round costs less than a
  synchronisation in every step, and the harness cuts the output;
- the draft never exceeds the remaining budget.
"""

from __future__ import annotations

from torch import Tensor

from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler
from methods.core.chain import Draft, DraftBuilder, is_unsure
from methods.early_exit.adaptive_chain import AdaptiveChain
from methods.early_exit.prefix import PrefixExit, check_exit


class LayerSkip(AdaptiveChain):
    """Static early-exit self-speculation.

    Args:
        exit_layer: Layers that draft (E).
        draft_length: Tokens drafted per round (d); where the policy adapts it, at first or at most.
        policy: ``static``, or another of `methods.early_exit.draft_length.POLICIES`.
        threshold: Confidence below which the policies ``threshold``, ``dv`` and ``self_sd`` end a draft, at
            first.
        target: Acceptance that ``dv`` and ``self_sd`` steer to.
    """

    def __init__(
        self,
        *,
        exit_layer: int,
        draft_length: int,
        policy: str = "static",
        threshold: float = 0.6,
        target: float = 0.8,
    ) -> None:
        super().__init__(policy, draft_length, threshold, target)
        self._exit_layer = exit_layer

    def attach(self, decoder: Decoder) -> None:
        check_exit(self._exit_layer, decoder, "layerskip")
        self._decoder = decoder
        self._exit = PrefixExit(decoder)
        self.reset()

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._policy.start()
        return self._decoder.prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        self._exit.start(base, self._exit_layer)
        row = self._exit.advance(root)
        chain, threshold = DraftBuilder(root, self._policy.limit, room), self._policy.threshold
        stop = None
        while chain.has_room and stop is None:
            logits = self._decoder.head(row)
            row = self._exit.advance(chain.propose(logits, sampler))
            if is_unsure(logits, threshold):
                stop = "confidence"
        draft = chain.finish(stop, self._exit_layer)
        self._drafted = draft.tokens.numel()
        return draft

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        return self._exit.verify()

    def commit(self, emitted: Tensor, base: int) -> None:
        """Tell the policy; nothing beyond the target's cache is there to roll back."""
        self._policy.observe(emitted.numel() - 1, self._drafted)
