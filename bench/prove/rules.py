"""The acceptance rules, written again from their definitions, and the exact proof of the shared ones.

The references here are plain Python on lists, one decision at a time. They consume random numbers in the same
order as `methods.core.acceptance`, so that one round can be replayed and must come out token for token
(`bench.prove.premises`). `check_rules` enumerates every outcome of the shared rules on a small example with
its exact probability: no draws, no statistics.

Shapes: K drafted tokens, N tree nodes with the root, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from unittest.mock import patch

import torch
from torch import Tensor

from bench.prove.certificates import Check, Status
from bench.runtime.sampling import Sampler, Sampling, draw
from methods.core import acceptance
from methods.core.chain import Draft
from methods.core.tree_round import TreeDraft
from methods.core.trees import Tree

Answer = tuple[int, ...]

TOLERANCE = 1e-6
"""Of enumerated probabilities: float32 rounding."""
VOCABULARY = 3
CHAIN_LENGTH = 2
GRID = 4
"""Uniform numbers per acceptance; every ratio p / q of the example is a multiple of 1 / GRID, or above 1."""
TARGET = ((0.5, 0.25, 0.25), (0.25, 0.5, 0.25), (0.0, 0.25, 0.75))
DRAFT = ((0.25, 0.25, 0.5), (0.5, 0.25, 0.25), (0.25, 0.5, 0.25))
"""Distributions of the next token after each token of the example, of target and draft."""
FIRST = 0
"""The token before the drafted ones."""
TREE = Tree.of_paths([(0,), (1,), (0, 0), (0, 1)])
NODE_TOKENS = (FIRST, 1, 2, 0, 2)


def chain_outcome(draft: Draft, logits: Tensor, sampler: Sampler) -> list[int]:
    """What a chain round must emit (Leviathan et al., arXiv 2211.17192, algorithm 1).

    Args:
        draft: The drafted chain; tokens without distributions count as certain.
        logits: Target logits at the root and every drafted token, shape [K + 1, V].
        sampler: Greedy or not; its generator stands where it stood before the round's rule.
    """
    tokens = draft.tokens.tolist()
    if sampler.is_greedy:
        best = logits.argmax(dim=-1).tolist()
        agreed = 0
        while agreed < len(tokens) and tokens[agreed] == best[agreed]:
            agreed += 1
        return [*tokens[:agreed], best[agreed]]
    target = sampler.probabilities(logits)  # [K + 1, V]
    numbers = torch.rand(
        (len(tokens), 1), generator=sampler.generator, device=target.device, dtype=target.dtype
    )
    for index, token in enumerate(tokens):
        certain = torch.zeros_like(target[index]).index_fill_(0, draft.tokens[index], 1.0)
        drafted = certain if draft.probs is None else draft.probs[index]  # [V]
        if not numbers[index, 0] < target[index, token] / drafted[token]:
            rest = (target[index] - drafted).clamp_min(0)
            rest = rest / rest.sum() if rest.sum() > 0 else target[index]
            return [*tokens[:index], int(draw(rest[None], sampler.generator))]
    return [*tokens, int(draw(target[-1:], sampler.generator))]


def tree_outcome(draft: TreeDraft, logits: Tensor, sampler: Sampler) -> tuple[Answer, Answer]:
    """The path that a tree round must accept, root first, and the tokens it must emit.

    Args:
        draft: The drafted tree.
        logits: Target logits at every node, shape [N, V].
        sampler: Greedy or not; its generator stands where it stood before the round's rule.
    """
    picks = sampler.pick(logits).tolist()
    tokens = draft.tokens.tolist()
    path, emitted = [0], [picks[0]]
    while True:
        entered = [node for node in range(1, len(tokens)) if draft.tree.parents[node] == path[-1]]
        entered = [node for node in entered if tokens[node] == emitted[-1]]
        if not entered:
            return tuple(path), tuple(emitted)
        path.append(entered[0])
        emitted.append(picks[entered[0]])


def check_rules() -> Check:
    """Enumerate the shared rules: greedy ones against their definition, sampling ones against the target."""
    outcomes = 0
    for name, enumerate_rule in _RULES.items():
        count, problem = enumerate_rule()
        outcomes += count
        if problem is not None:
            return Check("rules", name, Status.FAILED, problem, {"outcomes": outcomes})
    detail = f"{outcomes} outcomes enumerated, every probability is the target's own"
    return Check("rules", ", ".join(_RULES), Status.PASSED, detail, {"outcomes": outcomes})


def _greedy_chain() -> tuple[int, str | None]:
    """Every chain against every choice of the target."""
    count = 0
    for tokens in product(range(VOCABULARY), repeat=CHAIN_LENGTH):
        for best in product(range(VOCABULARY), repeat=CHAIN_LENGTH + 1):
            logits = torch.nn.functional.one_hot(torch.tensor(best), VOCABULARY).float()
            draft = Draft(torch.tensor(tokens), "length")
            got = acceptance.accept(draft.tokens, None, logits, _sampler(0.0)).tolist()
            wanted = chain_outcome(draft, logits, _sampler(0.0))
            count += 1
            if got != wanted:
                return count, f"draft {tokens}, target {best}: emits {got} instead of {wanted}"
    return count, None


def _sampled_chain() -> tuple[int, str | None]:
    """Drafts drawn from a distribution: their answers must be distributed as the target's."""
    return _chain_outcomes(list(_answers(DRAFT, CHAIN_LENGTH)), are_drawn=True)


def _certain_chain() -> tuple[int, str | None]:
    """Drafts that were not drawn, such as a lookup's: each alone must give the target's answers."""
    count = 0
    for tokens, _ in _answers(DRAFT, CHAIN_LENGTH):
        outcomes, problem = _chain_outcomes([(tokens, 1.0)], are_drawn=False)
        count += outcomes
        if problem is not None:
            return count, f"draft {tokens}: {problem}"
    return count, None


def _chain_outcomes(drafts: list[tuple[Answer, float]], are_drawn: bool) -> tuple[int, str | None]:
    """Acceptances and replacements of these drafts, each of a given probability."""
    weights: dict[Answer, float] = {}
    outcomes = 0
    for tokens, drafted in drafts:
        for emitted, weight in _acceptances(tokens, are_drawn):
            outcomes += 1
            weights[emitted] = weights.get(emitted, 0.0) + drafted * weight
    return outcomes, _difference(weights, CHAIN_LENGTH + 1)


def _acceptances(tokens: Answer, are_drawn: bool) -> Iterator[tuple[Answer, float]]:
    """What the shared rule emits for one draft, for every uniform number of the grid and every draw."""
    rows = [FIRST, *tokens]
    logits = torch.tensor([TARGET[token] for token in rows]).log()
    probs = torch.tensor([DRAFT[token] for token in rows[:-1]]) if are_drawn else None
    draft = torch.tensor(tokens)
    for numbers in product(range(GRID), repeat=CHAIN_LENGTH):
        uniform = torch.tensor([(number + 0.5) / GRID for number in numbers])[:, None]
        with patch("torch.rand", return_value=uniform):
            outcomes = list(
                _with_draws(lambda: tuple(acceptance.accept(draft, probs, logits, _sampler(1.0)).tolist()))
            )
        yield from ((emitted, weight / GRID**CHAIN_LENGTH) for emitted, weight in outcomes)


def _sampled_tree() -> tuple[int, str | None]:
    """Every pick of the target at every node, with its probability."""
    logits = torch.tensor([TARGET[token] for token in NODE_TOKENS]).log()
    weights: dict[Answer, float] = {}
    outcomes = 0

    def rule() -> Answer:
        return acceptance.accept_tree(TREE, torch.tensor(NODE_TOKENS), logits, _sampler(1.0)).emitted

    for emitted, weight in _with_draws(rule):
        outcomes += 1
        weights[emitted] = weights.get(emitted, 0.0) + weight
    return outcomes, _difference(weights, max(TREE.depths) + 1)


def _greedy_tree() -> tuple[int, str | None]:
    """Every choice of the target at every node."""
    draft, count = TreeDraft(TREE, torch.tensor(NODE_TOKENS), "length"), 0
    for best in product(range(VOCABULARY), repeat=TREE.size):
        logits = torch.nn.functional.one_hot(torch.tensor(best), VOCABULARY).float()
        accepted = acceptance.accept_tree(TREE, draft.tokens, logits, _sampler(0.0))
        got, wanted = (accepted.path, accepted.emitted), tree_outcome(draft, logits, _sampler(0.0))
        count += 1
        if got != wanted:
            return count, f"target {best}: path and tokens are {got} instead of {wanted}"
    return count, None


_RULES: dict[str, Callable[[], tuple[int, str | None]]] = {
    "greedy chain": _greedy_chain,
    "sampled chain": _sampled_chain,
    "chain that was not drawn": _certain_chain,
    "greedy tree": _greedy_tree,
    "sampled tree": _sampled_tree,
}


def _sampler(temperature: float) -> Sampler:
    return Sampler(Sampling(temperature), torch.device("cpu"), 0)


def _answers(table: Sequence[Sequence[float]], length: int) -> Iterator[tuple[Answer, float]]:
    """Every sequence after `FIRST`, with its probability by a table of next-token distributions."""
    for tokens in product(range(VOCABULARY), repeat=length):
        chance, before = 1.0, FIRST
        for token in tokens:
            chance *= table[before][token]
            before = token
        yield tokens, chance


def _with_draws(rule: Callable[[], Answer]) -> Iterator[tuple[Answer, float]]:
    """Every outcome of a rule whose draws are decided in turn, with its probability.

    The rule is run again and again: each run follows a list of decided draws and takes the first token of
    positive probability at every further one; then the last draw moves on to its next token.
    """
    decided: list[int] = []
    while True:
        options: list[list[float]] = []

        def scripted(probs: Tensor, _: torch.Generator, options: list[list[float]] = options) -> Tensor:
            tokens = []
            for row in probs.tolist():
                options.append(row)
                if len(decided) < len(options):
                    decided.append(next(token for token, chance in enumerate(row) if chance > 0))
                tokens.append(decided[len(options) - 1])
            return torch.tensor(tokens)

        with patch.object(acceptance, "draw", scripted), patch("bench.runtime.sampling.draw", scripted):
            emitted = rule()
        weight = 1.0
        for row, token in zip(options, decided, strict=True):
            weight *= row[token]
        yield emitted, weight
        if not _advance(decided, options):
            return


def _advance(decided: list[int], options: list[list[float]]) -> bool:
    """Move the last draw that has another token of positive probability; whether there was one."""
    while decided:
        row, token = options[len(decided) - 1], decided.pop()
        later = [other for other in range(token + 1, len(row)) if row[other] > 0]
        if later:
            decided.append(later[0])
            return True
    return False


def _difference(weights: dict[Answer, float], length: int) -> str | None:
    """Where emitted answers, continued by the target up to `length`, are not distributed as the target's."""
    for answer, wanted in _answers(TARGET, length):
        got = 0.0
        for emitted, weight in weights.items():
            if answer[: len(emitted)] == emitted:
                got += weight * _continued(emitted, answer)
        if abs(got - wanted) > TOLERANCE:
            return f"answer {answer} has probability {got:.6f}, the target gives it {wanted:.6f}"
    return None


def _continued(emitted: Answer, answer: Answer) -> float:
    """Probability that the target goes on from `emitted` to `answer`."""
    chance = 1.0
    for before, token in zip(answer[len(emitted) - 1 :], answer[len(emitted) :], strict=False):
        chance *= TARGET[before][token]
    return chance
