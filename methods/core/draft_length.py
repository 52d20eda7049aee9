"""How long a chain draft gets: policies that see only how many drafted tokens were accepted.

A policy gives the next round a limit and a confidence threshold, and is updated after the round.

- ``static``: always the same limit.
- ``threshold``: the same limit, and the draft ends after a token of low confidence.
- ``fsm``, ``heuristic``: a longer draft after a fully accepted one, a shorter one otherwise (`Stepping`).
- ``self_sd``: a threshold that follows the acceptance, Draft & Verify's rule (arXiv 2309.08168, section 3.3).
- ``dv``: DEL's version of that rule.

``fsm``, ``heuristic``, ``threshold`` and ``dv`` are the baselines that DEL is compared with.

`AdaptiveChain` is the base class of chain methods that use a policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

from methods.core.chain import ChainMethod

POLICIES = ("static", "fsm", "heuristic", "threshold", "dv", "self_sd")


class DraftLength(Protocol):
    """A policy; one object serves all prompts of a run."""

    @property
    def limit(self) -> int:
        """Most tokens of the next draft."""

    @property
    def threshold(self) -> float:
        """The draft ends after a token of lower confidence than this; at 0 it never does."""

    def start(self) -> None:
        """Begin a new prompt."""

    def observe(self, accepted: int, drafted: int) -> None:
        """Learn from a round that accepted `accepted` of `drafted` tokens."""


class AdaptiveChain(ChainMethod):
    """A chain method with a draft-length policy, which is kept from one prompt to the next.

    A subclass drafts at most ``self._policy.limit`` tokens, ends a draft by ``self._policy.threshold``, calls
    ``start`` in its prefill and ``observe`` in its commit.

    Args:
        policy: One of `POLICIES`.
        draft_length: Tokens drafted per round; where the policy adapts it, at first or at most.
        threshold: Confidence below which the policies ``threshold``, ``dv`` and ``self_sd`` end a draft, at
            first.
        target: Acceptance that ``dv`` and ``self_sd`` aim at.
    """

    def __init__(self, policy: str, draft_length: int, threshold: float, target: float) -> None:
        self._new_policy = partial(draft_length_policy, policy, draft_length, threshold, target)
        self.reset()

    def reset(self) -> None:
        """Forget what the policy has learned from earlier prompts."""
        self._policy = self._new_policy()


def draft_length_policy(name: str, draft_length: int, threshold: float, target: float) -> DraftLength:
    """The policy with this name.

    Args:
        name: One of `POLICIES`.
        draft_length: Tokens per draft, at first (``fsm``, ``heuristic``) or at most (the others).
        threshold: Confidence threshold; where it adapts, the first one.
        target: Acceptance that ``dv`` and ``self_sd`` aim at.

    Raises:
        ValueError: If the name is unknown or a number lies outside its range.
    """
    if draft_length < 1:
        raise ValueError(f"draft_length must be at least 1, got {draft_length}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
    if name == "static":
        return Static(draft_length)
    if name == "threshold":
        return Static(draft_length, threshold)
    if name == "fsm":
        return Stepping(draft_length, up=1, down=1, least=0)
    if name == "heuristic":
        return Stepping(draft_length, up=2, down=1, least=1)
    if name in ("dv", "self_sd"):
        rule = ThresholdRule(target=target, cap_hold=name == "self_sd")
        return Adaptive(draft_length, threshold, rule, is_cumulative=name == "dv")
    raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {name!r}")


@dataclass(frozen=True, slots=True)
class Static:
    """The same limit and threshold for every round."""

    limit: int
    threshold: float = 0.0

    def start(self) -> None:
        return None

    def observe(self, accepted: int, drafted: int) -> None:
        return None


class Stepping:
    """A longer draft after a fully accepted one, a shorter one otherwise; every prompt starts at `first`.

    ``fsm`` steps by 1 either way and may reach 0; a round without a draft counts as fully accepted, which
    leads back to 1. ``heuristic``, of transformers' assisted generation, goes up by 2, down by 1 and never
    below 1.
    """

    threshold = 0.0

    def __init__(self, first: int, *, up: int, down: int, least: int) -> None:
        self._first, self._up, self._down, self._least = first, up, down, least
        self.limit = first

    def start(self) -> None:
        self.limit = self._first

    def observe(self, accepted: int, drafted: int) -> None:
        step = self._up if accepted == drafted else -self._down
        self.limit = max(self._least, self.limit + step)


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """How a confidence threshold follows the acceptance (Draft & Verify, arXiv 2309.08168, section 3.3).

    Args:
        target: Acceptance to aim at (alpha).
        acceptance_decay: Weight of the past in the running acceptance (beta 1).
        threshold_decay: Weight of the past in the threshold (beta 2).
        step: How far a round moves the threshold, before the decay (epsilon).
        cap_hold: A draft that reached its limit never lowers the threshold.
    """

    target: float
    acceptance_decay: float = 0.5
    threshold_decay: float = 0.9
    step: float = 0.01
    cap_hold: bool = True

    def __post_init__(self) -> None:
        for name in ("target", "acceptance_decay", "threshold_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")

    def acceptance(self, before: float, rate: float) -> float:
        """The running acceptance after a round in which a share `rate` was accepted."""
        return self.acceptance_decay * before + (1 - self.acceptance_decay) * rate

    def threshold(self, before: float, acceptance: float, *, is_full: bool) -> float:
        """The threshold after a round; `is_full` says that the round drafted up to its limit."""
        goal = before
        if acceptance < self.target:
            goal += self.step
        elif not (is_full and self.cap_hold):
            goal -= self.step
        return self.threshold_decay * before + (1 - self.threshold_decay) * goal


class Adaptive:
    """A threshold that follows the acceptance and is kept from one prompt to the next.

    Args:
        limit: Most tokens of every draft.
        threshold: The first threshold.
        rule: How it moves.
        is_cumulative: DEL's version of the rule: the rate of a round is the acceptance of its whole prompt so
            far, and the first round sets the running acceptance. Otherwise the rate is the round's own, and
            the running acceptance starts at 0.
    """

    def __init__(self, limit: int, threshold: float, rule: ThresholdRule, *, is_cumulative: bool) -> None:
        self.limit, self.threshold = limit, threshold
        self._rule, self._is_cumulative = rule, is_cumulative
        self.acceptance = 0.0
        self.start()

    def start(self) -> None:
        self._accepted = self._drafted = 0

    def observe(self, accepted: int, drafted: int) -> None:
        if drafted == 0:  # the budget left no room for a draft: nothing to learn
            return
        self._accepted += accepted
        self._drafted += drafted
        rate = self._accepted / self._drafted if self._is_cumulative else accepted / drafted
        is_first = self._is_cumulative and self.acceptance == 0
        self.acceptance = rate if is_first else self._rule.acceptance(self.acceptance, rate)
        is_full = drafted >= self.limit
        self.threshold = self._rule.threshold(self.threshold, self.acceptance, is_full=is_full)
