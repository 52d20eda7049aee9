"""Which tier a run decodes on: the one that is configured, or for ``auto`` the fastest that works.

On a GPU ``auto`` starts as ``graph`` and is checked once the model is loaded (`soundest`): drivers, kernels
and memory differ from machine to machine, and a wrong answer must not look like a fast one. The same holds
for how recorded chains attend (`settle_attention`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder, Tier
from bench.runtime.tiers.compiled.library import Missing, library
from bench.runtime.tiers.eager import EagerDecoder
from bench.runtime.tiers.graph.decoder import GraphDecoder
from bench.runtime.tiers.graph.length_check import length_fault
from bench.runtime.tiers.graph.lengths import why_masked

CHECKED_TOKENS = 8
CHECKED_PROMPT = 16
LONGER_PROMPT = 124
"""With `CHECKED_TOKENS` more, a text crosses the end of the first bucket, at 128 slots."""
CHECKED_CHAIN = 9
"""Tokens at a text's end that are read once more, as one chain; its recording has a row of padding."""
SLACK = {torch.float32: 1e-3, torch.float64: 1e-3}
"""How far two tiers' logits for a token may lie apart, as a share of the largest logit, so that rounding does
not count as a fault; in other precisions `HALF_SLACK`."""
HALF_SLACK = 0.03
log = logging.getLogger(__name__)


def spread_over(count: int, tier: str, device: torch.device) -> tuple[torch.device, ...]:
    """The GPUs that a model's layers are spread over, the home first; empty for one device.

    Args:
        count: How many, the key ``runtime.devices``.
        tier: The key ``runtime.tier``.
        device: Of a model that is not spread.

    Raises:
        UserError: If there are fewer GPUs, or the tier runs on one device.
    """
    if count == 1:
        return ()
    found = torch.cuda.device_count() if device.type == "cuda" else 0
    if found < count:
        known = f"PyTorch finds {found} GPU{'s' * (found != 1)}" if found else "this run is on the CPU"
        fix = f"use runtime.devices={found}" if found > 1 else "leave out runtime.devices"
        raise UserError(f"runtime.devices={count}, but {known}", fix)
    if tier in ("graph", "compiled"):
        what = f"runtime.tier={tier} runs on one device"
        raise UserError(what, "use runtime.tier=static with several GPUs")
    return tuple(torch.device("cuda", index) for index in range(count))


def choose_tier(
    name: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    is_spread: bool = False,
    has_experts: bool = False,
) -> Tier:
    """The tier called `name`; for ``auto`` the fastest one that runs on this device in this precision.

    Logs a line if ``auto`` is slower only because the C library is missing, or because the model has mixtures
    of experts, which are run kernel by kernel. So is a model whose layers are spread over several devices.

    Raises:
        UserError: If ``graph`` is chosen without CUDA, or ``compiled`` where compiled passes cannot run, or
            either for a model with mixtures of experts.
    """
    if has_experts and name in ("graph", "compiled"):
        raise UserError(
            f"runtime.tier={name} does not run mixtures of experts, and this model has some",
            "use runtime.tier=auto, which takes the tier static, or runtime.tier=eager",
        )
    if has_experts and name == "auto":
        log.info("runtime.tier=auto takes static: the faster tiers do not run mixtures of experts yet")
        return "static"
    if name == "graph" and device.type != "cuda":
        raise UserError(
            "runtime.tier=graph replays CUDA graphs, and this run is on the CPU",
            "use runtime.tier=auto, the fastest there, or runtime.device=cuda",
        )
    if name == "compiled":
        _require_compiled(device, dtype)
    tiers: dict[str, Tier] = {tier: tier for tier in get_args(Tier)}
    if name != "auto":
        return tiers[name]
    return "static" if is_spread else _fastest(device, dtype)


def _require_compiled(device: torch.device, dtype: torch.dtype) -> None:
    if device.type != "cpu" or dtype != torch.float32:
        raise UserError(
            "runtime.tier=compiled is not possible: "
            f"it decodes in float32 on a CPU, not in {dtype} on {device.type}",
            "use runtime.tier=auto",
        )
    built = library()
    if isinstance(built, Missing):
        raise UserError(
            f"runtime.tier=compiled is not possible: {built.reason}",
            "install gcc or clang with OpenMP, or use runtime.tier=static",
        )


def _fastest(device: torch.device, dtype: torch.dtype) -> Tier:
    if device.type == "cuda":
        return "graph"
    if device.type != "cpu" or dtype != torch.float32:
        return "static"
    built = library()
    if isinstance(built, Missing):
        log.warning("passes run operation by operation, several times slower: %s; install gcc", built.reason)
        return "static"
    return "compiled"


@dataclass(frozen=True, slots=True)
class Trial:
    """A few tokens decoded on one tier.

    Args:
        decoder: The decoder.
        logits: Its logits by step, each on the same tokens, shape [T, V] on the host; None if it failed.
        fault: What is wrong with it, if anything.
    """

    decoder: Decoder
    logits: Tensor | None
    fault: str | None


@torch.inference_mode()
def soundest(decoder: GraphDecoder) -> Decoder:
    """The fastest of the tiers graph, static and eager that agrees with another one; same weights and cache.

    Logs one line if that is not the given one, with the reason. Empties the cache.

    Args:
        decoder: The model on the tier ``graph``.

    Raises:
        UserError: If no tier gives finite logits.
    """
    parts = (decoder.weights, decoder.cache, decoder.placement)
    tiers: list[Decoder] = [decoder, Decoder(*parts), EagerDecoder(*parts)]
    tokens = _tokens(decoder, CHECKED_PROMPT)
    trials = [_trial(tier, tokens) for tier in tiers]
    decoder.cache.truncate(0)
    finite = [trial for trial in trials if trial.fault is None]
    agreed = [
        trial for trial in finite if any(_agree(trial, other) for other in finite if other is not trial)
    ]
    if not finite:
        raise UserError(
            f"the model decodes on no tier of this GPU: {_faults(trials)}",
            "check the weights for NaN and infinity, the driver and the free memory; "
            "if float16 overflows, use runtime.dtype=bfloat16",
        )
    chosen = agreed[0] if agreed else finite[-1]
    left = trials[: trials.index(chosen)]
    if left:
        log.warning("runtime.tier=auto takes %s: %s", chosen.decoder.tier, _faults(left))
    return chosen.decoder


def settled(decoder: Decoder, attention: str, *, is_tier_free: bool) -> Decoder:
    """The model as it decodes here: on a tier that works, with chains that attend as they can.

    Args:
        decoder: The model, as it was loaded.
        attention: The key ``runtime.attention``.
        is_tier_free: Whether another tier may be taken, see `soundest`.

    Raises:
        UserError: If no tier works, or chains cannot attend as the key says.
    """
    if is_tier_free and isinstance(decoder, GraphDecoder):
        decoder = soundest(decoder)
    settle_attention(decoder, attention)
    return decoder


def require_recorded(attention: str, tier: str) -> None:
    """Refuse ``runtime.attention=lengths`` on a tier that records nothing.

    Raises:
        UserError: If it is asked for there.
    """
    if attention == "lengths" and tier != "graph":
        raise UserError(
            f"runtime.attention=lengths is about recorded passes, and this run decodes on the tier {tier}",
            "use runtime.attention=auto, or a GPU and runtime.tier=graph",
        )


def settle_attention(decoder: Decoder, wanted: str) -> None:
    """Choose how recorded chains attend: by their length, if that agrees with the mask here, else masked.

    Logs one line if ``auto`` leaves the mask in place, with the reason. Empties the cache.

    Args:
        decoder: The model, to which no method is attached yet.
        wanted: The key ``runtime.attention``.

    Raises:
        UserError: If ``lengths`` is chosen where chains cannot attend so.
    """
    require_recorded(wanted, decoder.tier)
    if wanted == "masked" or not isinstance(decoder, GraphDecoder):
        return
    unsuited = why_masked(decoder)
    fault = unsuited or length_fault(decoder) or _short_decode_fault(decoder)
    if fault is None:
        return
    if wanted == "lengths":
        raise UserError(
            f"runtime.attention=lengths is not possible: {fault}", "use runtime.attention=auto or masked"
        )
    log.log(logging.INFO if unsuited else logging.WARNING, "runtime.attention=auto takes masked: %s", fault)


@torch.inference_mode()
def _short_decode_fault(decoder: GraphDecoder) -> str | None:
    """Let chains attend by length, and compare a short decode with the masked one; masked if they differ."""
    tokens = _tokens(decoder, LONGER_PROMPT)
    masked = _trial(decoder, tokens, CHECKED_CHAIN)
    decoder.attend_by("lengths")
    trial = _trial(decoder, tokens, CHECKED_CHAIN)
    decoder.cache.truncate(0)
    fault = trial.fault or masked.fault
    if fault is None and not _agree(trial, masked):
        fault = "a short decode has other tokens than with the mask"
    if fault is not None:
        decoder.attend_by("masked")
    return fault


def tier_labels(decoder: Decoder) -> dict[str, str]:
    """What records say of how passes run: the tier, and where they differ from the usual, how recorded chains
    attend and how the head that drafts is held.
    """
    by_length = isinstance(decoder, GraphDecoder) and decoder.attention == "lengths"
    head = {"draft_head": "int8"} if decoder.drafts_in_int8 else {}
    return {"tier": decoder.tier, **({"attention": "lengths"} if by_length else {}), **head}


def _tokens(decoder: Decoder, prompt: int) -> Tensor:
    """A fixed text: the prompt, then the tokens that every tier reads one by one, on the device."""
    length = min(prompt + CHECKED_TOKENS, decoder.capacity)
    numbers = torch.arange(length, dtype=torch.int64, device=decoder.device)
    return (numbers * 7919 + 17) % decoder.config.vocab


def _trial(decoder: Decoder, tokens: Tensor, chain: int = 0) -> Trial:
    """Decode the text on one tier, the last `chain` tokens of it a second time in one pass."""
    steps = min(CHECKED_TOKENS, tokens.numel() - 1)
    start = tokens.numel() - steps
    try:
        logits = [decoder.prefill(tokens[:start])]
        logits += [decoder.step(tokens[place : place + 1], place) for place in range(start, tokens.numel())]
        if chain:
            first = max(1, tokens.numel() - chain)
            logits.append(decoder.step(tokens[first:], first))
        read = torch.cat(logits).float().cpu()
    except (UserError, RuntimeError) as error:  # what CUDA and the recorder raise
        return Trial(decoder, None, f"{decoder.tier} fails ({str(error).splitlines()[0]})")
    is_sound = bool(read.isfinite().all())
    return Trial(decoder, read, None if is_sound else f"{decoder.tier} gives logits that are not finite")


def _agree(trial: Trial, other: Trial) -> bool:
    """Whether two tiers choose the same tokens, or tokens that the other finds as good up to rounding."""
    if trial.logits is None or other.logits is None:
        return False
    slack = SLACK.get(trial.decoder.dtype, HALF_SLACK) * other.logits.abs().amax(dim=-1)
    chosen = trial.logits.argmax(dim=-1, keepdim=True)
    lost = other.logits.amax(dim=-1) - other.logits.gather(1, chosen)[:, 0]
    return bool((lost <= slack).all())


def _faults(trials: Sequence[Trial]) -> str:
    return "; ".join(
        trial.fault or f"{trial.decoder.tier} chooses other tokens than the others" for trial in trials
    )
