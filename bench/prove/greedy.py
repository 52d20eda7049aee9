"""Greedy output against the target's own: token for token in fp32, by verdict in half precision."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from bench.measure.verdicts import first_divergence, judge
from bench.prove.certificates import Check, Status
from bench.prove.targets import Target, accepted_share, decode
from bench.records.model import Equivalence, Generation, Verdict
from bench.runtime.sampling import Sampler, Sampling
from methods.core.base import Method


@dataclass(frozen=True, slots=True)
class Wrong:
    """The first token that is not the target's own.

    Args:
        prompt: Index of the prompt.
        token: Index in the answer.
        round: Round that emitted it, counted from 1; 0 is the prefill.
        got: Its id; None if the answer ended before.
        expected: The target's; None if the answer should have ended.
    """

    prompt: int
    token: int
    round: int
    got: int | None
    expected: int | None

    def __str__(self) -> str:
        return (
            f"prompt {self.prompt}, first wrong round {self.round}, token {self.token}: "
            f"{_said(self.got)} instead of {_said(self.expected)}"
        )


def check_exact(method: Method, target: Target) -> Check:
    """In float32 every token is the target's own, or the check fails and names the first wrong token."""
    generations: list[Generation] = []
    for index, answer in enumerate(target.answers):
        generations.append(_answer(method, target, index))
        wrong = first_wrong(generations[-1], answer, index)
        if wrong is not None:
            return Check("greedy", target.name, Status.FAILED, str(wrong), _figures(generations, index))
    figures = _figures(generations, len(generations))
    return Check("greedy", target.name, Status.PASSED, _coverage(generations), figures)


def check_verdicts(method: Method, target: Target) -> Check:
    """In half precision no token may lie further below the best one than rounding explains."""
    generations, verdicts = [], list[Equivalence]()
    wrong: Wrong | None = None
    for index, answer in enumerate(target.answers):
        generations.append(_answer(method, target, index))
        verdicts.append(judge(target.decoder, target.prompts[index], generations[-1].ids, answer))
        if verdicts[-1].verdict is Verdict.VIOLATION and wrong is None:
            wrong = first_wrong(generations[-1], answer, index)
    counts = {kind.value: sum(each.verdict is kind for each in verdicts) for kind in Verdict}
    figures = {
        **_figures(generations, counts[Verdict.EXACT]),
        "ties": counts[Verdict.TIE_EXPLAINED],
        "violations": counts[Verdict.VIOLATION],
        "tie_margins": [each.tie_margin for each in verdicts if each.tie_margin is not None],
        "ranks": [each.rank for each in verdicts if each.rank is not None],
    }
    status = Status.PASSED if wrong is None else Status.FAILED
    return Check("greedy half", target.name, status, str(wrong or _coverage(generations)), figures)


def first_wrong(generation: Generation, answer: tuple[int, ...], prompt: int) -> Wrong | None:
    """Where an answer leaves the target's own, or None."""
    token = first_divergence(generation.ids, answer)
    if token is None:
        return None
    ends = accumulate((each.emitted for each in generation.rounds), initial=1)  # [rounds + 1], prefill first
    number = next((index for index, end in enumerate(ends) if token < end), len(generation.rounds))
    got = generation.ids[token] if token < len(generation.ids) else None
    return Wrong(prompt, token, number, got, answer[token] if token < len(answer) else None)


def _answer(method: Method, target: Target, index: int) -> Generation:
    greedy = Sampler(Sampling(), target.decoder.device, 0)
    return decode(method, target.prompts[index], target.budget, greedy)


def _figures(generations: list[Generation], exact: int) -> dict[str, object]:
    drafted, accepted, rounds = accepted_share(generations)
    tokens = sum(len(answer.ids) for answer in generations)
    return {
        "answers": len(generations),
        "exact": exact,
        "tokens": tokens,
        "rounds": rounds,
        "drafted": drafted,
        "accepted": accepted,
    }


def _coverage(generations: list[Generation]) -> str:
    drafted, accepted, rounds = accepted_share(generations)
    return f"{accepted} of {drafted} drafted tokens accepted in {rounds} rounds"


def _said(token: int | None) -> str:
    return "the end" if token is None else f"id {token}"
