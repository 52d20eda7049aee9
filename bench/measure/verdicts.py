"""Checks of one sample: do its counts agree, and is its output the target's own, whatever the method claims?

Greedy output is *exact* if every token is the target's argmax given the tokens before it, computed as the
baseline computes: one row per pass. Passes of several rows add in another order, so two nearly equal logits
may swap; such a token is *tie-explained* if its logit lies within a margin scaled to the precision. In half
precision a deep model rounds by more than that margin; there the target's own passes of several rows, without
any method, show how far rounding moves the logits of this answer. Everything else is a *violation*, including
an answer that ends too early or too late.

Shapes: P prompt tokens, N output tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.metrics.counts import accepted_counts
from bench.records.model import Arm, Equivalence, Sample, Verdict
from bench.runtime.decoder import Decoder
from methods.core.base import Exactness

FP32_MARGIN = 1e-5
"""Largest logit gap in fp32 that the order of summation may explain; 1e-6 is typical on a CPU."""
HALF_ULPS = 2
"""In bf16 and fp16: gaps up to this many units in the last place of the top logit."""
BLOCKS = (2, 8, 32)
"""Rows per pass of the plain passes that show what rounding does in half precision."""
RIVALS = 10
"""Best tokens of a position whose gaps are watched there."""


@dataclass(frozen=True, slots=True)
class Step:
    """How the target rates one emitted token.

    Args:
        margin: Best logit minus the emitted token's logit; 0 for the argmax.
        tie_margin: Best minus second-best logit.
        rank: Number of tokens with a higher logit; of equal logits, the lower id comes first.
        tolerance: Largest margin that counts as a tie here.
    """

    margin: float
    tie_margin: float
    rank: int
    tolerance: float


def check_counts(sample: Sample) -> None:
    """Check that the counts of a sample agree with each other; the runner calls this before it stores one.

    Raises:
        ValueError: If prefill plus rounds do not emit exactly the ids, if a round before the last one was
            cut, or if the cache entries or the histogram of accepted lengths disagree with the rounds.
    """
    emitted = 1 + int(sample.rounds.emitted.sum())
    if emitted != len(sample.ids):
        raise ValueError(
            f"sample {sample.key}: prefill and rounds emitted {emitted} of {len(sample.ids)} ids"
        )
    cut = sample.rounds.is_cut.nonzero()[0].tolist()
    if cut and cut != [len(sample.rounds) - 1]:
        raise ValueError(f"sample {sample.key}: only the last round may be cut, got rounds {cut}")
    if sample.kv_entries is not None:
        _check_entries(sample, sample.kv_entries)
    _check_histogram(sample)


def _check_entries(sample: Sample, entries: int) -> None:
    """A pass adds at least one cache entry, and at most one per token that its round emits."""
    full = sample.rounds.emitted[~sample.rounds.is_cut].tolist()
    if not len(full) <= entries <= sum(full):
        raise ValueError(
            f"sample {sample.key}: {entries} cache entries for {len(sample.rounds)} rounds, "
            f"{len(full)} of them whole, which have read {sum(full)} tokens"
        )


def _check_histogram(sample: Sample) -> None:
    histogram = accepted_counts(sample.rounds)
    rounds, accepted = len(sample.rounds), int(sample.rounds.accepted.sum())
    if sum(histogram) != rounds:
        raise ValueError(f"sample {sample.key}: histogram holds {sum(histogram)} of {rounds} rounds")
    if (total := sum(length * count for length, count in enumerate(histogram))) != accepted:
        raise ValueError(f"sample {sample.key}: histogram holds {total} of {accepted} accepted tokens")


def judged(
    sample: Sample,
    baseline: Sample | None,
    decoder: Decoder,
    prompt_ids: Callable[[], Tensor],
    promise: Exactness,
) -> Sample:
    """The sample with its verdict if it is a method's and, in lossy runs, its likelihood under the target.

    Args:
        sample: Without an error.
        baseline: The baseline's sample of the same turn; None if there is none.
        decoder: The target.
        prompt_ids: Makes the prompt of this sample, shape [P].
        promise: What the method promises: greedy output gets a verdict, other output is only compared.
    """
    if sample.arm is Arm.METHOD:
        sample = replace(sample, equivalence=_equivalence(sample, baseline, decoder, prompt_ids, promise))
    if promise is Exactness.LOSSY and sample.arm is not Arm.CONTROL:
        sample = replace(sample, reference_nll=reference_nll(decoder, prompt_ids(), sample.ids))
    return sample


def _equivalence(
    method: Sample,
    baseline: Sample | None,
    decoder: Decoder,
    prompt_ids: Callable[[], Tensor],
    promise: Exactness,
) -> Equivalence:
    if baseline is None or baseline.error is not None:
        return Equivalence(Verdict.UNCHECKED)
    is_same_prompt = baseline.prompt_hash == method.prompt_hash
    if promise is Exactness.GREEDY_EXACT:
        return judge(decoder, prompt_ids(), method.ids, baseline.ids if is_same_prompt else ())
    divergence = first_divergence(method.ids, baseline.ids) if is_same_prompt else None
    return Equivalence(Verdict.UNCHECKED, first_divergence=divergence)


def judge(
    decoder: Decoder, prompt_ids: Tensor, ids: Sequence[int], baseline_ids: Sequence[int]
) -> Equivalence:
    """The verdict on greedy output for one prompt.

    Args:
        decoder: The target.
        prompt_ids: The prompt the output belongs to, shape [P].
        ids: The method's output.
        baseline_ids: The baseline's output for the same prompt; empty if its prompt was another one, and then
            every token is judged on its own.
    """
    divergence = first_divergence(ids, baseline_ids)
    if divergence is None:
        return Equivalence(Verdict.EXACT)
    steps = teacher_force(decoder, prompt_ids, ids)
    worst = max(steps, key=lambda step: step.margin - step.tolerance)
    is_tie = worst.margin <= worst.tolerance
    if not is_tie and decoder.dtype in (torch.float16, torch.bfloat16):
        moved = rounding(decoder, prompt_ids, ids)
        is_tie = all(step.margin <= max(step.tolerance, moved) for step in steps)
    at = steps[min(divergence, len(steps) - 1)]
    has_other_end = (
        0 < divergence == min(len(ids), len(baseline_ids))
    )  # same tokens, but no tie ends an answer
    return Equivalence(
        verdict=Verdict.TIE_EXPLAINED if is_tie and not has_other_end else Verdict.VIOLATION,
        first_divergence=divergence,
        margin=max(step.margin for step in steps),
        tie_margin=at.tie_margin,
        rank=at.rank,
    )


def first_divergence(ids: Sequence[int], baseline_ids: Sequence[int]) -> int | None:
    """Index of the first token that differs or that only one output has; None for equal outputs."""
    for index, (token, other) in enumerate(zip(ids, baseline_ids, strict=False)):
        if token != other:
            return index
    return None if len(ids) == len(baseline_ids) else min(len(ids), len(baseline_ids))


@torch.inference_mode()
def teacher_force(decoder: Decoder, prompt_ids: Tensor, ids: Sequence[int]) -> list[Step]:
    """How the target rates each output token, in N passes of one row, as the baseline computes them."""
    logits = decoder.prefill(prompt_ids)
    steps = [_step(logits[0], ids[0])]
    for offset, token in enumerate(ids[:-1]):
        row = torch.tensor([token], device=prompt_ids.device)
        logits = decoder.step(row, prompt_ids.numel() + offset)
        steps.append(_step(logits[0], ids[offset + 1]))
    return steps


@torch.inference_mode()
def rounding(decoder: Decoder, prompt_ids: Tensor, ids: Sequence[int]) -> float:
    """Largest change of a gap between the best token and a rival when the target reads several rows per pass.

    No method takes part: the N - 1 tokens are read one by one, then in blocks, and the logits are compared.
    A gap smaller than this may close by the order of summation alone.
    """
    tokens = torch.tensor(ids[:-1], device=prompt_ids.device)
    if not tokens.numel():
        return 0.0
    single = _read(decoder, prompt_ids, tokens, 1)  # [N - 1, V]
    rivals = single.topk(RIVALS).indices  # the best token first
    alone = _gaps(single, rivals)
    return max(
        float((_gaps(_read(decoder, prompt_ids, tokens, rows), rivals) - alone).abs().max())
        for rows in BLOCKS
    )


def _read(decoder: Decoder, prompt_ids: Tensor, tokens: Tensor, rows: int) -> Tensor:
    """Logits after each token, read `rows` per pass: shape [tokens, V], double."""
    decoder.prefill(prompt_ids)
    logits, position = [], prompt_ids.numel()
    for block in torch.split(tokens, rows):
        logits.append(decoder.step(block, position).double())
        position += block.numel()
    return torch.cat(logits)


def _gaps(logits: Tensor, rivals: Tensor) -> Tensor:
    """How far each rival lies below the first: shape of `rivals`."""
    kept = logits.gather(1, rivals)
    return kept[:, :1] - kept


@torch.inference_mode()
def reference_nll(decoder: Decoder, prompt_ids: Tensor, ids: Sequence[int]) -> float:
    """Negative log-likelihood of an output under the target in nats, summed over its N tokens.

    One teacher-forced pass of all rows: unlike a verdict, a likelihood hardly changes with the order of sums.
    """
    tokens = torch.tensor(ids, device=prompt_ids.device)
    whole = torch.cat([prompt_ids, tokens[:-1]])
    decoder.cache.truncate(0)
    decoder.placement.begin(prompt_ids.numel())
    hidden = decoder.run_layers(decoder.embed(whole), decoder.placement.chain(0, whole.numel()))
    logs = decoder.head(hidden[prompt_ids.numel() - 1 :]).float().log_softmax(dim=-1)  # [N, V]
    return -float(logs.gather(1, tokens[:, None]).sum())


def _step(logits: Tensor, token: int) -> Step:
    exact = logits.double()
    best, second = exact.topk(2).values.tolist()
    own = float(exact[token])
    ahead = (exact > own).sum() + (exact[:token] == own).sum()
    return Step(best - own, best - second, int(ahead), tolerance(logits.dtype, best))


def tolerance(dtype: torch.dtype, top_logit: float) -> float:
    """Largest logit gap that rounding can explain at this precision and size."""
    if dtype in (torch.float32, torch.float64):
        return FP32_MARGIN
    exponent = torch.frexp(torch.tensor(abs(top_logit))).exponent  # 2^(e-1) <= |x| < 2^e
    return HALF_ULPS * torch.finfo(dtype).eps * 2.0 ** (int(exponent) - 1)
