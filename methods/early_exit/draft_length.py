"""When a chain draft ends: policies that see counts only, shared by every method with a fixed drafter.

A policy gives the next round a cap and a confidence threshold, and learns from what the round brought. The
adaptive ones are the baselines of DEL (specs: swift-del-layerskip, section 5) and Draft & Verify's own rule
(arXiv 2309.08168, section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

POLICIES = ("static", "fsm", "heuristic", "threshold", "dv", "self_sd")


class DraftLength(Protocol):
    """A policy; one object serves all prompts of a run."""

    @property
    def limit(self) -> int:
        """Most tokens of the next draft."""

    @property
    def threshold(self) -> float:
        """The draft ends behind a token of lower confidence than this; 0 never ends it."""

    def start(self) -> None:
        """A new prompt begins."""

    def observe(self, accepted: int, drafted: int) -> None:
        """A round ended with `accepted` of `drafted` tokens."""


def draft_length_policy(name: str, draft_length: int, threshold: float, target: float) -> DraftLength:
    """The policy of that name.

    Args:
        name: One of `POLICIES`.
        draft_length: Tokens per draft, at first (``fsm``, ``heuristic``) or at most (the threshold rules).
        threshold: Confidence threshold, at first where it adapts.
        target: Acceptance that ``dv`` and ``self_sd`` steer to.

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
    """The same cap and threshold for every round."""

    limit: int
    threshold: float = 0.0

    def start(self) -> None:
        return None

    def observe(self, accepted: int, drafted: int) -> None:
        return None


class Stepping:
    """A longer draft after a fully accepted one, a shorter one otherwise; every prompt begins anew.

    ``fsm`` steps by 1 either way and may reach 0; a round without a draft counts as fully accepted and leads
    back to 1. ``heuristic``, of transformers' assisted generation, goes up by 2 and never below 1.
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
    """How a confidence threshold follows the acceptance (Draft & Verify, section 3.3).

    Args:
        target: Acceptance steered to (alpha).
        acceptance_decay: Weight of the past in the acceptance (b1).
        threshold_decay: Weight of the past in the threshold (b2).
        step: Move per round before the decay (epsilon).
        cap_hold: A draft that reached its cap never lowers the threshold.
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
        """The running acceptance after a round that accepted this share."""
        return self.acceptance_decay * before + (1 - self.acceptance_decay) * rate

    def threshold(self, before: float, acceptance: float, *, is_full: bool) -> float:
        """The threshold after a round, which drafted up to its cap or not."""
        wanted = before
        if acceptance < self.target:
            wanted += self.step
        elif not (is_full and self.cap_hold):
            wanted -= self.step
        return self.threshold_decay * before + (1 - self.threshold_decay) * wanted


class Adaptive:
    """A threshold that follows the acceptance and outlives the prompt.

    Args:
        limit: Cap of every draft.
        threshold: The threshold it begins with.
        rule: How it moves.
        is_cumulative: A round counts with the acceptance of its whole prompt so far, and the first one sets
            the running acceptance: DEL's version of the rule. Otherwise with its own, from 0 on.
    """

    def __init__(self, limit: int, threshold: float, rule: ThresholdRule, *, is_cumulative: bool) -> None:
        self.limit, self.threshold = limit, threshold
        self._rule, self._is_cumulative = rule, is_cumulative
        self.acceptance = 0.0
        self.start()

    def start(self) -> None:
        self._accepted = self._drafted = 0

    def observe(self, accepted: int, drafted: int) -> None:
        if drafted == 0:  # the budget was over: nothing to learn
            return
        self._accepted += accepted
        self._drafted += drafted
        rate = self._accepted / self._drafted if self._is_cumulative else accepted / drafted
        is_first = self._is_cumulative and self.acceptance == 0
        self.acceptance = rate if is_first else self._rule.acceptance(self.acceptance, rate)
        is_full = drafted >= self.limit
        self.threshold = self._rule.threshold(self.threshold, self.acceptance, is_full=is_full)
