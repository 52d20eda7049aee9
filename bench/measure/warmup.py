"""Decode until timings settle, so that no first-time cost enters a measurement."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from bench.compose.settings import WarmupConfig
from bench.compose.workbench import Workbench
from bench.measure.meters import turn_clock
from bench.records.model import Prompt, Round
from bench.runtime.sampling import Sampler
from methods.core.base import Budget, Method, Stateful

log = logging.getLogger(__name__)
_TOKENS = 32


def warm_up(
    bench: Workbench, prompts: Sequence[Prompt], settings: WarmupConfig, max_new_tokens: int
) -> set[int]:
    """Let every arm decode each prompt's first turn until two successive timings agree, up to the cap.

    A prompt that does not fit the context is left out: its failure is recorded when it is measured. A method
    that learns from prompts forgets these. Then the decoder prepares for the longest conversation.

    Returns:
        How many rows, the root's included, the rounds had.
    """
    rows = {1}
    for method in bench.arms.values():
        for prompt in prompts:
            ids = torch.tensor(bench.chat.prompt_ids(prompt.turns[:1], ()), device=bench.decoder.device)
            room = bench.decoder.capacity - ids.numel()
            if room >= 1:
                budget = Budget(min(_TOKENS, max_new_tokens, room), bench.eos_ids)
                rows |= {one.drafted + 1 for one in _settle(bench, method, ids, budget, settings)}
        if isinstance(method, Stateful):
            method.reset()
    bench.decoder.prepare(_longest(bench, max_new_tokens))
    return rows


def _longest(bench: Workbench, max_new_tokens: int) -> int:
    """Tokens of the longest conversation to come, by the questions' characters; it must fit the context."""
    turns = max((one.turns for one in bench.task.prompts), key=lambda turns: sum(map(len, turns)))
    tokens = sum(len(bench.chat.prompt_ids((turn,), ())) + max_new_tokens for turn in turns)
    return min(tokens, bench.decoder.capacity)


def _settle(
    bench: Workbench, method: Method, prompt_ids: torch.Tensor, budget: Budget, settings: WarmupConfig
) -> tuple[Round, ...]:
    """Rounds of the last decode; none if it failed."""
    clock = turn_clock(bench.decoder.device)
    before = float("inf")
    rounds: tuple[Round, ...] = ()
    for _ in range(settings.max_rounds):
        sampler = Sampler(bench.sampling, bench.decoder.device, 0)
        try:
            with torch.inference_mode(), clock:
                rounds = method.generate(prompt_ids, budget, sampler, clock).rounds
            timing = clock.timing()
        except Exception:
            log.warning("warm-up failed; the measurement will record why", exc_info=True)
            return ()
        seconds = timing.prefill_s + timing.decode_s
        if abs(seconds - before) <= settings.tolerance * seconds:
            break
        before = seconds
    return rounds
