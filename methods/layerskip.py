"""Self-speculative decoding with a static early exit: LayerSkip, arXiv 2404.16710, section 4.3.

Drafts with layers ``0 .. exit_layer - 1`` and the target's own final norm and LM head, verifies with the
rest.

Differs from the authors' code in:
- the prompt has a prefill of its own, as for every method here, instead of passing through the first draft;
- drafting does not stop at a drafted end token: the wasted tail of one last round costs less than a
  synchronisation in every step, and the harness cuts the output;
- the draft never exceeds the remaining budget.
"""

from __future__ import annotations

from torch import Tensor

from bench.records import Generation
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler
from methods.base import Budget, Clock, Exactness
from methods.chain import Draft, DraftBuilder, generate_chain
from methods.early_exit import PrefixExit, check_exit


class LayerSkip:
    """Static early-exit self-speculation.

    Args:
        exit_layer: Layers that draft (E).
        draft_length: Tokens drafted per round (d).
    """

    def __init__(self, *, exit_layer: int, draft_length: int) -> None:
        if draft_length < 1:
            raise ValueError(f"draft_length must be at least 1, got {draft_length}")
        self._exit_layer = exit_layer
        self._draft_length = draft_length

    def attach(self, decoder: Decoder) -> None:
        check_exit(self._exit_layer, decoder, "layerskip")
        self._decoder = decoder
        self._exit = PrefixExit(decoder)

    def exactness(self, sampler: Sampler) -> Exactness:
        return Exactness.GREEDY_EXACT if sampler.is_greedy else Exactness.SAMPLING_EXACT

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        return generate_chain(self, self._decoder, prompt_ids, budget, sampler, clock)

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        return self._decoder.prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        self._exit.start(base, self._exit_layer)
        row = self._exit.advance(root)
        chain = DraftBuilder(root, self._draft_length, room)
        while chain.has_room:
            token = chain.propose(self._decoder.head(row), sampler)
            row = self._exit.advance(token)
        return chain.finish(exit_layer=self._exit_layer)

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        return self._exit.verify()

    def commit(self, emitted: Tensor, base: int) -> None:
        """Nothing beyond the target's cache to roll back."""
