"""Decode until timings settle, so that no first-time cost enters a measurement."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from bench.config import WarmupConfig
from bench.errors import UserError
from bench.meters import turn_clock
from bench.records import Prompt
from bench.runtime.sampling import Sampler
from bench.workbench import Workbench
from methods.base import Budget, Method, Stateful

log = logging.getLogger(__name__)
_TOKENS = 32


def warm_up(bench: Workbench, prompts: Sequence[Prompt], settings: WarmupConfig, max_new_tokens: int) -> None:
    """Let every arm decode each prompt's first turn until two successive timings agree, up to the cap.

    A prompt that does not fit the context is left out: its failure is recorded when it is measured. A method
    that learns from prompts forgets these.
    """
    for method in bench.arms.values():
        for prompt in prompts:
            ids = torch.tensor(bench.chat.prompt_ids(prompt.turns[:1], ()), device=bench.decoder.device)
            room = bench.decoder.capacity - ids.numel()
            if room >= 1:
                _settle(
                    bench, method, ids, Budget(min(_TOKENS, max_new_tokens, room), bench.eos_ids), settings
                )
        if isinstance(method, Stateful):
            method.reset()


def _settle(
    bench: Workbench, method: Method, prompt_ids: torch.Tensor, budget: Budget, settings: WarmupConfig
) -> None:
    clock = turn_clock(bench.decoder.device)
    before = float("inf")
    for _ in range(settings.max_rounds):
        sampler = Sampler(bench.sampling, bench.decoder.device, 0)
        try:
            with torch.inference_mode(), clock:
                method.generate(prompt_ids, budget, sampler, clock)
        except (RuntimeError, UserError):
            log.warning("warm-up failed; the measurement will record why", exc_info=True)
            return
        timing = clock.timing()
        seconds = timing.prefill_s + timing.decode_s
        if abs(seconds - before) <= settings.tolerance * seconds:
            return
        before = seconds
