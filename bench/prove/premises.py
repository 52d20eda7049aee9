"""What makes speculation exact, checked in every round of real decodes: no statistics, no tolerance for luck.

A round of a chain or tree method is exact if

- every layer's cache holds the answer so far, but for the newest token, when the round begins;
- the logits that verify it are those of the same tokens read by an independent implementation
  (`bench.prove.oracle`), each row with its own ancestors before it;
- drafted tokens are exactly those that were drawn, from exactly the distributions that are stated, and none
  that was drawn was dropped; a draft without distributions draws nothing;
- it emits what the acceptance rule emits on these rows and this stream of random numbers
  (`bench.prove.rules`).

Besides, no answer may depend on the prompts before it, and no method may touch random numbers that are not
the sampler's. The check watches the methods that the shared loops call on a `ChainDrafter` or `TreeDrafter`.
A method with a loop of its own cannot be watched; it is checked by its output alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.prove.certificates import Check, Status
from bench.prove.oracle import Oracle
from bench.prove.rules import chain_outcome, tree_outcome
from bench.prove.sampling import words_of
from bench.prove.targets import Target
from bench.records.model import Generation
from bench.runtime.sampling import Sampler, Sampling
from methods.core.base import Method, NoClock, Stateful
from methods.core.chain import Draft
from methods.core.tree_round import TreeDraft

WATCHED = ("prefill", "draft", "verify", "commit")
ROUNDING = 1e-4
"""Largest difference of a logit from the oracle's, relative to the largest logit of the row."""


class BrokenPremise(Exception):
    """A premise that does not hold; the message says which, and where."""


class RecordingSampler(Sampler):
    """A sampler that keeps what is drawn from it: pairs of distributions [R, V] and tokens [R]."""

    def __init__(self, sampling: Sampling, device: torch.device, seed: int) -> None:
        super().__init__(sampling, device, seed)
        self.drawn: list[tuple[Tensor, Tensor]] = []

    def draw(self, probs: Tensor) -> Tensor:
        tokens = super().draw(probs)
        self.drawn.append((probs, tokens))
        return tokens


def check_premises(method: Method, target: Target, samplings: tuple[Sampling, ...], seed: int) -> Check:
    """Watch every round of every prompt's answer under every sampler.

    Args:
        method: Attached to the target.
        target: With an oracle.
        samplings: How tokens are chosen; greedy among them.
        seed: Of the random streams.
    """
    drafter = drafter_of(method)
    if drafter is None:
        return Check("premises", target.name, Status.SKIPPED, "decodes by a loop of its own")
    assert target.oracle is not None
    rounds = rows = 0
    for sampling in samplings:
        for index, prompt in enumerate(target.prompts):
            sampler = RecordingSampler(sampling, target.decoder.device, seed)
            witness = Witness(target, target.oracle, sampler)
            try:
                _watch(method, drafter, witness, prompt)
                _check_memory(method, target, sampling, index, seed)
            except BrokenPremise as broken:
                at = f"{target.name}, prompt {index}, {words_of(sampling)}, round {witness.round}"
                return Check("premises", at, Status.FAILED, str(broken), {"rounds": rounds})
            rounds, rows = rounds + witness.round, rows + witness.rows
    if not rounds:
        return Check("premises", target.name, Status.SKIPPED, "no round went through its drafter")
    figures = {"rounds": rounds, "rows": rows}
    detail = f"{rows} rows of {rounds} rounds are the target's own, drafts and outcomes are as stated"
    return Check("premises", target.name, Status.PASSED, detail, figures)


def drafter_of(method: Method) -> Any | None:  # noqa: ANN401 - a ChainDrafter or a TreeDrafter
    """What the shared loops call: its attribute ``drafter``, or the method itself; None with its own loop."""
    for candidate in (getattr(method, "drafter", None), method):
        if all(hasattr(candidate, name) for name in WATCHED):
            return candidate
    return None


@dataclass
class Witness:
    """Follows the decoding of one answer.

    Args:
        target: The model under test.
        oracle: The independent one.
        sampler: The one the method decodes with.
        round: Rounds begun; 0 is the prefill.
        rows: Rows of logits compared.
    """

    target: Target
    oracle: Oracle
    sampler: RecordingSampler
    round: int = 0
    rows: int = 0
    _prompt: list[int] = field(default_factory=list)
    _ids: list[int] = field(default_factory=list)
    _newest: int | None = None
    """The last token that was emitted: not cached yet, and the root of the next round."""
    _draft: Draft | TreeDraft | None = None
    _logits: Tensor | None = None
    _state: Tensor | None = None

    def prefill(self, own: Callable[[Tensor], Tensor], prompt: Tensor) -> Tensor:
        logits = own(prompt)
        self._prompt = prompt.tolist()
        self._compare(logits[-1:], self.oracle.rows([self._prompt])[0][-1:])
        self._logits, self._state = logits, self.sampler.generator.get_state()
        return logits

    def draft(self, own: Callable[..., Draft | TreeDraft], root: Tensor, base: int, *rest: Any) -> Any:  # noqa: ANN401
        self._begin_round(int(root), base)
        before = self.sampler.generator.get_state()
        self.sampler.drawn.clear()
        self._draft = own(root, base, *rest)
        self._check_draws(self._draft, before)
        return self._draft

    def verify(self, own: Callable[..., Tensor], *arguments: Any) -> Tensor:  # noqa: ANN401
        logits = own(*arguments)
        assert self._draft is not None
        self._compare(logits, self._expected_rows(self._draft))
        self._logits, self._state = logits, self.sampler.generator.get_state()
        return logits

    def commit(self, own: Callable[..., None], outcome: Any, base: int) -> None:  # noqa: ANN401
        """`outcome` is the emitted tokens of a chain, or the accepted path of a tree."""
        assert self._logits is not None
        if isinstance(self._draft, TreeDraft):
            path, emitted = tree_outcome(self._draft, self._logits, self._replay())
            _require(outcome == path, f"accepts the path {outcome}, the rule gives {path}")
        else:
            assert self._draft is not None
            emitted = tuple(chain_outcome(self._draft, self._logits, self._replay()))
            got = tuple(outcome.tolist())
            _require(got == emitted, f"emits {got}, the rule gives {emitted}")
        self._ids += emitted
        self._newest = emitted[-1]
        own(outcome, base)

    def finish(self, generation: Generation) -> None:
        """Hold the answer against what was emitted round by round."""
        got = list(generation.ids)
        _require(got == self._ids, f"returns {got}, its rounds emitted {self._ids}")

    def _begin_round(self, root: int, base: int) -> None:
        self.round += 1
        if self._newest is None:  # the first token comes from the prefill's logits
            assert self._logits is not None
            self._newest = int(self._replay().pick(self._logits))
            self._ids = [self._newest]
        _require(root == self._newest, f"starts from token {root}, the last one emitted is {self._newest}")
        place = len(self._prompt) + len(self._ids) - 1
        _require(base == place, f"starts at position {base} instead of {place}")
        lengths = self.target.decoder.cache.lengths
        _require(set(lengths) == {base}, f"the layers' caches hold {sorted(set(lengths))} slots, not {base}")

    def _check_draws(self, draft: Draft | TreeDraft, before: Tensor) -> None:
        probs = draft.probs if isinstance(draft, Draft) else None
        drawn = self.sampler.drawn
        if probs is None:
            is_untouched = torch.equal(before, self.sampler.generator.get_state())
            _require(
                not drawn and is_untouched, "draws random numbers, and its draft states no distributions"
            )
            return
        tokens = draft.tokens.tolist()
        taken = [token for _, row in drawn for token in row.tolist()]
        _require(taken == tokens, f"drafts {tokens} of the tokens drawn, {taken}")
        rows = torch.cat([row for row, _ in drawn]) if drawn else probs
        _require(torch.equal(rows, probs), "states other distributions than its tokens were drawn from")
        _require(bool(((probs.sum(-1) - 1).abs() < ROUNDING).all()), "states rows that do not sum to 1")

    def _expected_rows(self, draft: Draft | TreeDraft) -> Tensor:
        """The oracle's logits at the root and every drafted token, shape [K + 1, V] or [N, V]."""
        known = [*self._prompt, *self._ids]
        tokens = draft.tokens.tolist()
        if isinstance(draft, Draft):
            return self.oracle.rows([known + tokens])[0][len(known) - 1 :]
        leaves = [node for node, below in enumerate(draft.tree.children) if not below]
        routes = [draft.tree.route(leaf) for leaf in leaves]
        texts = [known + [tokens[node] for node in route[1:]] for route in routes]
        rows: dict[int, Tensor] = {}
        for route, logits in zip(routes, self.oracle.rows(texts), strict=True):
            rows |= {node: logits[len(known) - 1 + depth] for depth, node in enumerate(route)}
        return torch.stack([rows[node] for node in range(draft.tree.size)])

    def _compare(self, got: Tensor, expected: Tensor) -> None:
        _require(got.shape == expected.shape, f"{tuple(got.shape)} logits for {tuple(expected.shape)} rows")
        bound = ROUNDING * expected.abs().amax(dim=-1, keepdim=True).clamp_min(1)
        gap = (got.double() - expected).abs()
        row = int((gap - bound).amax(dim=-1).argmax())
        is_close = bool((gap <= bound).all())
        _require(is_close, f"row {row} is off by {float(gap[row].max()):.2g}: not the target's own logits")
        self.rows += got.shape[0]

    def _replay(self) -> Sampler:
        """A sampler that stands where the method's stood after the newest logits."""
        assert self._state is not None
        sampler = Sampler(self.sampler.sampling, self.target.decoder.device, 0)
        sampler.generator.set_state(self._state)
        return sampler


@torch.inference_mode()
def _watch(method: Method, drafter: object, witness: Witness, prompt: Tensor) -> None:
    noise = torch.get_rng_state()
    with _watched(drafter, witness):
        generation = method.generate(prompt, witness.target.budget, witness.sampler, NoClock())
    if witness.round:
        witness.finish(generation)
    is_untouched = torch.equal(noise, torch.get_rng_state())
    _require(is_untouched, "uses torch's global random numbers instead of the sampler's")


@contextmanager
def _watched(drafter: object, witness: Witness) -> Iterator[None]:
    """Within the block, calls of the drafter go through the witness."""
    for name in WATCHED:
        setattr(drafter, name, partial(getattr(witness, name), getattr(drafter, name)))
    try:
        yield
    finally:
        for name in WATCHED:
            delattr(drafter, name)


@torch.inference_mode()
def _check_memory(method: Method, target: Target, sampling: Sampling, index: int, seed: int) -> None:
    """The same prompt again, after another one: the answer may not change, nor its rounds.

    A method that learns over prompts may draft otherwise, until it is reset.
    """

    def answer(prompt: Tensor) -> Generation:
        sampler = Sampler(sampling, target.decoder.device, seed)
        return method.generate(prompt, target.budget, sampler, NoClock())

    def forget() -> None:
        if isinstance(method, Stateful):
            method.reset()

    forget()
    first = answer(target.prompts[index])
    answer(target.prompts[index - 1])
    forget()
    again = answer(target.prompts[index])
    _require(first == again, "answers the same prompt otherwise after another prompt")


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise BrokenPremise(problem)
