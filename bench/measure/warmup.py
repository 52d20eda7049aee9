"""Warming up: every arm decodes two prompts until its timing is steady, before anything is measured."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bench.compose.schema import WarmupConfig
from bench.compose.workbench import Workbench
from bench.errors import UserError
from bench.measure.meters import turn_clock
from bench.records.model import Prompt, Round
from bench.runtime.sampling import Sampler
from bench.show.waiting import Wait
from methods.core.base import Budget, Method, Stateful

log = logging.getLogger(__name__)
_WARMUP_TOKENS = 32


def warm_up(
    bench: Workbench, prompts: Sequence[Prompt], settings: WarmupConfig, max_new_tokens: int
) -> set[int]:
    """Decode first turns with every arm: the first prompt's until two timings agree, the others' once.

    The long prompts among them size the buffers that longer turns need. A prompt that does not fit the
    context is left out: its failure is recorded when it is measured. A method that learns from prompts
    forgets these. Then the decoder prepares for the longest conversation.

    Returns:
        The numbers of rows, the root's included, that the rounds had.
    """
    rows = {1}
    with Wait("warm-up", len(bench.arms), "arm") as wait:
        for label, method in bench.arms.items():
            wait.tell(label)
            rows |= _warm(bench, method, prompts, settings, max_new_tokens)
            wait.add()
    bench.decoder.prepare(_longest(bench, max_new_tokens))
    return rows


def _warm(
    bench: Workbench,
    method: Method,
    prompts: Sequence[Prompt],
    settings: WarmupConfig,
    max_new_tokens: int,
) -> set[int]:
    """Warm up with one arm; the numbers of rows that its rounds had."""
    rows: set[int] = set()
    for place, prompt in enumerate(prompts):
        ids = torch.tensor(first_prompt(bench, prompt), device=bench.decoder.device)
        room = bench.decoder.capacity - ids.numel()
        if room >= 1:
            budget = Budget(min(_WARMUP_TOKENS, max_new_tokens, room), bench.eos_ids)
            limit = settings if place == 0 else replace(settings, max_rounds=1)
            rounds = _decode_until_steady(bench, method, ids, budget, limit)
            rows |= {step.drafted + 1 for step in rounds}
    if isinstance(method, Stateful):
        method.reset()
    return rows


def first_prompt(bench: Workbench, prompt: Prompt) -> list[int]:
    """Token ids of a conversation's first turn."""
    return bench.chat.ids_of(prompt)


def _longest(bench: Workbench, max_new_tokens: int) -> int:
    """Tokens of the conversation with the most characters, its answers included; at most the context."""
    longest = max(
        bench.task.prompts, key=lambda prompt: prompt.first_characters + sum(map(len, prompt.turns[1:]))
    )
    later = [bench.chat.prompt_ids((turn,), (), longest.system) for turn in longest.turns[1:]]
    tokens = sum(len(ids) + max_new_tokens for ids in (bench.chat.ids_of(longest), *later))
    return min(tokens, bench.decoder.capacity)


def _decode_until_steady(
    bench: Workbench, method: Method, prompt_ids: Tensor, budget: Budget, settings: WarmupConfig
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
        except Exception as error:
            is_mistake = isinstance(error, UserError)
            log.warning("warm-up failed; the measurement will record why", exc_info=not is_mistake)
            return ()
        seconds = timing.prefill_s + timing.decode_s
        if abs(seconds - before) <= settings.tolerance * seconds:
            break
        before = seconds
    return rounds
