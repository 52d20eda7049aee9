"""Chain methods whose draft length a policy sets: what `methods.early_exit.draft_length` needs of them, once.

A subclass drafts at most ``self._policy.limit`` tokens, ends a draft by ``self._policy.threshold``, starts
the policy with every prompt and tells it what each round brought.
"""

from __future__ import annotations

from functools import partial

from methods.core.chain import ChainMethod
from methods.early_exit.draft_length import draft_length_policy


class AdaptiveChain(ChainMethod):
    """A chain method with a policy that outlives the prompt.

    Args:
        policy: One of `methods.early_exit.draft_length.POLICIES`.
        draft_length: Tokens drafted per round; where the policy adapts it, at first or at most.
        threshold: Confidence below which the policies ``threshold``, ``dv`` and ``self_sd`` end a draft, at
            first.
        target: Acceptance that ``dv`` and ``self_sd`` steer to.
    """

    def __init__(self, policy: str, draft_length: int, threshold: float, target: float) -> None:
        self._new_policy = partial(draft_length_policy, policy, draft_length, threshold, target)
        self.reset()

    def reset(self) -> None:
        """Forget what earlier prompts taught the policy."""
        self._policy = self._new_policy()
