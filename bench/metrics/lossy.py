"""What a table says of a method whose output is not the model's own: how good it is, and what it saves.

A lossy method has no verdict. In its place stand figures of quality, each beside the baseline's own, and,
where a method merges history, how many cache entries its answers take. Everything follows from records; an
undefined number is None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.metrics.counts import UndefinedError, is_cut
from bench.records.model import Arm, Run, Sample


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


@dataclass(frozen=True, slots=True)
class LossyFigures:
    """Quality of a lossy method beside its baseline.

    Args:
        baseline_answers: Right answers of the baseline.
        method_answers: Right answers of the method, over the same prompts.
        baseline_nll: Nats per token of the baseline's output under the target.
        method_nll: Nats per token of the method's output under the target.
        agreement: Tokens before the first difference from the baseline's output, mean over samples.
        group_sizes: Groups by their number of tokens, where history is merged.
        entries_per_token: See `kv_entries_per_token`.
        cache_share: See `cache_share`.
        bound: Most that `speedup_bound` allows for these groups.
    """

    baseline_answers: Answers
    method_answers: Answers
    baseline_nll: float | None
    method_nll: float | None
    agreement: float | None
    group_sizes: Mapping[int, int]
    entries_per_token: float | None
    cache_share: float | None
    bound: float | None


def lossy_figures(run: Run, samples: Sequence[Sample]) -> LossyFigures | None:
    """The figures of a lossy run; None for a run that promises the model's own output."""
    if run.labels.get("exactness") != "lossy":
        return None
    good = [one for one in samples if one.error is None]
    baseline, method = ([one for one in good if one.arm is arm] for arm in (Arm.BASELINE, Arm.METHOD))
    sizes, weights = group_sizes(method), run.labels.get("pass_weights")
    return LossyFigures(
        baseline_answers=answers(baseline),
        method_answers=answers(method),
        baseline_nll=_defined(nll_per_token, baseline),
        method_nll=_defined(nll_per_token, method),
        agreement=_defined(agreement_length, method),
        group_sizes=sizes,
        entries_per_token=_defined(kv_entries_per_token, method),
        cache_share=_defined(cache_share, method),
        bound=speedup_bound(sizes, PassWeights(**weights)) if sizes and weights else None,
    )


def answers(samples: Sequence[Sample]) -> Answers:
    """How many checkable answers are right; a sample without a check counts for neither."""
    judged = [one.is_right for one in samples if one.is_right is not None]
    return Answers(sum(judged), len(judged))


def nll_per_token(samples: Sequence[Sample]) -> float:
    """Nats per output token under the target, pooled over the samples that hold a likelihood.

    Raises:
        UndefinedError: If none does.
    """
    known = [(one.reference_nll, len(one.ids)) for one in samples if one.reference_nll is not None]
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
        len(one.ids) if one.equivalence.first_divergence is None else one.equivalence.first_divergence
        for one in samples
        if one.equivalence is not None
    ]
    if not lengths:
        raise UndefinedError("agreement_length needs a compared sample")
    return sum(lengths) / len(lengths)


def group_sizes(samples: Sequence[Sample]) -> dict[int, int]:
    """Groups by size, pooled over the samples of methods that merge history; they sum to the output tokens.

    A round emits the further tokens of one group and the first one of the next, which is why a full round's
    group has as many tokens as the round emits; the last group, if the end cuts it, makes no pass.
    """
    counts: Counter[int] = Counter()
    for sample in samples:
        if sample.kv_entries is None:
            continue
        full = [one.emitted for one in sample.rounds if not is_cut(one)]
        counts.update([*full, len(sample.ids) - sum(full)])
    return dict(sorted(counts.items()))


def kv_entries_per_token(samples: Sequence[Sample]) -> float:
    """Cache entries per output token that plain decoding would have cached, pooled; plain decoding scores 1.

    The estimator is ``sum(entries) / sum(tokens - 1)``: the newest token is never cached.

    Raises:
        UndefinedError: If no sample merges history, or all are of one token.
    """
    merged = [(one.kv_entries, len(one.ids) - 1) for one in samples if one.kv_entries is not None]
    if not (tokens := sum(count for _, count in merged)):
        raise UndefinedError("kv_entries_per_token needs a merged sample of two tokens")
    return sum(entries for entries, _ in merged) / tokens


def cache_share(samples: Sequence[Sample]) -> float:
    """Cache entries at the end of an answer against plain decoding's, the prompt's included, pooled.

    Raises:
        UndefinedError: If no sample merges history.
    """
    merged = [one for one in samples if one.kv_entries is not None]
    if not (plain := sum(one.prompt_tokens + len(one.ids) - 1 for one in merged)):
        raise UndefinedError("cache_share needs a merged sample")
    return sum(one.prompt_tokens + (one.kv_entries or 0) for one in merged) / plain


def speedup_bound(sizes: Mapping[int, int], weights: PassWeights) -> float:
    """Speedup over plain decoding if time were the weights that are read: what bandwidth allows.

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


def lossy_lines(figures: LossyFigures) -> list[tuple[str, str]]:
    """Label and text of the table rows that stand where a lossless method has its verdict."""
    lines = [
        (
            "answers right",
            f"method {_answers(figures.method_answers)}, baseline {_answers(figures.baseline_answers)}",
        ),
        (
            "output",
            f"not the model's own; {_number(figures.method_nll)} nats/token under it (its own: "
            f"{_number(figures.baseline_nll)}); first differs at {_number(figures.agreement, '.1f')} (mean)",
        ),
    ]
    if figures.group_sizes:
        sizes = ", ".join(f"{size}: {count}" for size, count in figures.group_sizes.items())
        groups = sum(figures.group_sizes.values())
        tokens = sum(size * count for size, count in figures.group_sizes.items())
        lines += [
            ("groups by size", f"{sizes}; {tokens / groups:.3f} tokens per pass"),
            (
                "cache entries",
                f"{_number(figures.entries_per_token)} per output token; "
                f"{_number(figures.cache_share)} of plain decoding's with the prompt",
            ),
            ("weights allow at most", f"{_number(figures.bound)}x, were time the weights read"),
        ]
    return lines


def _answers(found: Answers) -> str:
    return "-" if found.share is None else f"{found.share:.1%} of {found.checkable}"


def _number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else f"{value:{form}}"


def _defined(estimate: Callable[[Sequence[Sample]], float], samples: Sequence[Sample]) -> float | None:
    try:
        return estimate(samples)
    except UndefinedError:
        return None
