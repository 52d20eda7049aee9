"""Is the output still the model's own? A verdict per sample, by teacher-forcing, never by the method's word.

Greedy output is *exact* if every token is the target's argmax given the tokens before it, computed the way
the baseline computes: one row per pass. Passes of several rows multiply in another order, so two nearly equal
logits may swap; such a token is *tie-explained* if its logit lies within a margin scaled to the precision.
Everything else is a *violation*, an answer that is cut short or goes on too long among it.

Shapes: P prompt tokens, N output tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.records.model import Equivalence, Verdict
from bench.runtime.decoder import Decoder

FP32_MARGIN = 1e-5
"""Largest logit gap in fp32 that the order of summation may explain; 1e-6 is typical on a CPU."""
HALF_ULPS = 2
"""In bf16 and fp16: gaps up to this many units in the last place of the top logit."""


@dataclass(frozen=True, slots=True)
class Step:
    """What the target thought of one emitted token.

    Args:
        margin: Best logit minus the emitted token's logit; 0 for the argmax.
        tie_margin: Best minus second-best logit.
        rank: Tokens ahead of the emitted one, ties broken by the lower id.
        tolerance: Largest margin that counts as a tie here.
    """

    margin: float
    tie_margin: float
    rank: int
    tolerance: float


def judge(
    decoder: Decoder, prompt_ids: Tensor, ids: Sequence[int], baseline_ids: Sequence[int]
) -> Equivalence:
    """The verdict on greedy output for one prompt.

    Args:
        decoder: The target.
        prompt_ids: The prompt the output belongs to, shape [P].
        ids: The method's output.
        baseline_ids: The baseline's output for the same prompt; empty if it answered another one, and then
            every token is judged by itself.
    """
    divergence = first_divergence(ids, baseline_ids)
    if divergence is None:
        return Equivalence(Verdict.EXACT)
    steps = teacher_force(decoder, prompt_ids, ids)
    worst = max(steps, key=lambda step: step.margin - step.tolerance)
    at = steps[min(divergence, len(steps) - 1)]
    is_cut = 0 < divergence == min(len(ids), len(baseline_ids))  # same tokens, another end: no tie does that
    is_tie = worst.margin <= worst.tolerance and not is_cut
    return Equivalence(
        verdict=Verdict.TIE_EXPLAINED if is_tie else Verdict.VIOLATION,
        first_divergence=divergence,
        margin=max(step.margin for step in steps),
        tie_margin=at.tie_margin,
        rank=at.rank,
    )


def first_divergence(ids: Sequence[int], baseline_ids: Sequence[int]) -> int | None:
    """Index of the first token that differs, or is there in one output only; None for equal outputs."""
    for index, (one, other) in enumerate(zip(ids, baseline_ids, strict=False)):
        if one != other:
            return index
    return None if len(ids) == len(baseline_ids) else min(len(ids), len(baseline_ids))


@torch.inference_mode()
def teacher_force(decoder: Decoder, prompt_ids: Tensor, ids: Sequence[int]) -> list[Step]:
    """The target's view of each output token, N steps of one row as the baseline would take them."""
    logits = decoder.prefill(prompt_ids)
    steps = [_step(logits[0], ids[0])]
    for offset, token in enumerate(ids[:-1]):
        row = torch.tensor([token], device=prompt_ids.device)
        logits = decoder.step(row, prompt_ids.numel() + offset)
        steps.append(_step(logits[0], ids[offset + 1]))
    return steps


@torch.inference_mode()
def reference_nll(decoder: Decoder, prompt_ids: Tensor, ids: Sequence[int]) -> float:
    """Negative log-likelihood of an output under the target in nats, summed over its N tokens.

    One teacher-forced pass: a likelihood, unlike a verdict, does not hang on the order of summation.
    """
    tokens = torch.tensor(ids, device=prompt_ids.device)
    whole = torch.cat([prompt_ids, tokens[:-1]])
    decoder.cache.truncate(0)
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
