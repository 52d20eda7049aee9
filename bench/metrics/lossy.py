"""Estimators for a method whose output is not the model's own: how good the output is, what the method saves.

A lossy method has no verdicts. It has figures of quality instead and, where it merges several tokens into one
cache entry, how many entries its answers take; `bench.metrics.run_figures.lossy_figures` collects them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.metrics.counts import UndefinedError
from bench.records.model import Sample


@dataclass(frozen=True, slots=True)
class Answers:
    """Checkable answers of one arm, each prompt counted in every repeat."""

    right: int
    checkable: int

    @property
    def share(self) -> float | None:
        """Share of right answers."""
        return self.right / self.checkable if self.checkable else None


@dataclass(frozen=True, slots=True)
class PassWeights:
    """Weights that one pass reads, by part; see `speedup_bound`.

    Args:
        base: The whole model, its head included.
        head: The LM head.
        micro: The micro-step decoder.
        stop: The stop head.
        merger: The compositional embedder.
    """

    base: int
    head: int
    micro: int
    stop: int
    merger: int


def answers(samples: Sequence[Sample]) -> Answers:
    """How many checkable answers are right; a sample without a check counts for neither."""
    judged = [sample.is_right for sample in samples if sample.is_right is not None]
    return Answers(sum(judged), len(judged))


def nll_per_token(samples: Sequence[Sample]) -> float:
    """Nats per output token under the target, pooled over the samples with a recorded likelihood.

    Raises:
        UndefinedError: If none does.
    """
    known = [
        (sample.reference_nll, len(sample.ids)) for sample in samples if sample.reference_nll is not None
    ]
    if not known:
        raise UndefinedError("nll_per_token needs a sample with a likelihood")
    return sum(nll for nll, _ in known) / sum(tokens for _, tokens in known)


def agreement_length(samples: Sequence[Sample]) -> float:
    """Tokens up to the first difference from the baseline, mean over the samples that were compared.

    A sample without a difference counts with its whole length.

    Raises:
        UndefinedError: If none was compared.
    """
    lengths = [
        len(sample.ids)
        if sample.equivalence.first_divergence is None
        else sample.equivalence.first_divergence
        for sample in samples
        if sample.equivalence is not None
    ]
    if not lengths:
        raise UndefinedError("agreement_length needs a compared sample")
    return sum(lengths) / len(lengths)


def group_sizes(samples: Sequence[Sample]) -> dict[int, int]:
    """How many groups hold how many tokens, for methods that merge tokens into one cache entry.

    Together the groups hold all output tokens. A round emits the rest of one group and the first token of the
    next, so a full round stands for a group of as many tokens as it emits. The last group, cut by the end of
    the answer, takes no pass of its own.
    """
    counts: Counter[int] = Counter()
    for sample in samples:
        if sample.kv_entries is None:
            continue
        full = sample.rounds.emitted[~sample.rounds.is_cut].tolist()
        counts.update([*full, len(sample.ids) - sum(full)])
    return dict(sorted(counts.items()))


def kv_entries_per_token(samples: Sequence[Sample]) -> float:
    """Cache entries per output token that plain decoding would have cached, pooled; plain decoding scores 1.

    The estimator is ``sum(entries) / sum(tokens - 1)``: the newest token is never cached.

    Raises:
        UndefinedError: If no sample merges tokens, or all are of one token.
    """
    merged = [(sample.kv_entries, len(sample.ids) - 1) for sample in samples if sample.kv_entries is not None]
    if not (tokens := sum(count for _, count in merged)):
        raise UndefinedError("kv_entries_per_token needs a merged sample of two tokens")
    return sum(entries for entries, _ in merged) / tokens


def cache_share(samples: Sequence[Sample]) -> float:
    """Cache entries at the end of an answer against plain decoding's, the prompt's included, pooled.

    Raises:
        UndefinedError: If no sample merges tokens.
    """
    merged = [sample for sample in samples if sample.kv_entries is not None]
    if not (plain := sum(sample.prompt_tokens + len(sample.ids) - 1 for sample in merged)):
        raise UndefinedError("cache_share needs a merged sample")
    return sum(sample.prompt_tokens + (sample.kv_entries or 0) for sample in merged) / plain


def speedup_bound(sizes: Mapping[int, int], weights: PassWeights) -> float:
    """Speedup over plain decoding if a pass took only the reading of its weights: an upper bound.

    A group of s tokens reads the base once, the LM and stop heads s times, the micro-step decoder s - 1 times
    and the merger once if s > 1; plain decoding reads the base s times.

    Args:
        sizes: Groups by size.
        weights: Weights of each part.

    Raises:
        ValueError: If there is no group.
    """
    if not sizes:
        raise ValueError("speedup_bound needs a group")
    plain = sum(count * size * weights.base for size, count in sizes.items())
    return plain / sum(count * _group_weights(size, weights) for size, count in sizes.items())


def _group_weights(size: int, weights: PassWeights) -> int:
    """Weights that one group of `size` tokens reads."""
    each = size * (weights.head + weights.stop) + (size - 1) * weights.micro
    return weights.base - weights.head + each + (weights.merger if size > 1 else 0)
