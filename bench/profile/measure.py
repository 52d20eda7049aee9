"""Measuring a profile: every context's passes, and every method's rounds beside the baseline's.

Shapes: P prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.measure.meters import MemoryMeter, energy_meter, turn_clock
from bench.measure.probes import Turns, measure_costs, measure_ranges, read_bandwidth, weight_bytes
from bench.metrics import counts as metrics
from bench.metrics import roofline
from bench.metrics.roofline import Costs
from bench.profile.records import Bandwidth, Level, MethodCost
from bench.records.model import PHASES, Arm, Sample
from bench.records.rounds import Rounds
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler, Sampling
from methods.core.autoregressive import Autoregressive
from methods.core.base import Budget, Method, traits_of


def measure_bandwidth(decoder: Decoder, buffer_bytes: int, turns: Turns) -> Bandwidth:
    """Read bandwidth of the memory, and over as many bytes as the model's weights."""
    dtype, device = decoder.dtype, decoder.device
    own = min(weight_bytes(decoder), buffer_bytes)
    return Bandwidth(
        memory=read_bandwidth(buffer_bytes, dtype, device, turns),
        buffer_bytes=buffer_bytes,
        resident=read_bandwidth(own, dtype, device, turns),
    )


def measure_level(decoder: Decoder, context: int, rows: Sequence[int], turns: Turns) -> Level:
    """Time of passes and layer ranges with `context` tokens in the cache, and the memory they needed."""
    memory = MemoryMeter(decoder.cache.devices)
    memory.reset()
    costs = measure_costs(decoder, context, rows, turns)
    ranges = measure_ranges(decoder, context, turns)
    return Level(costs, ranges, memory.peak_bytes(), memory.peak_reserved_bytes())


def measure_method(
    name: str, method: Method, decoder: Decoder, prompts: Sequence[Tensor], tokens: int, costs: Costs
) -> MethodCost:
    """Decode every prompt greedily by the baseline, then by the method, to exactly `tokens` tokens.

    Args:
        name: Of the method.
        method: Attached to `decoder`.
        decoder: The target.
        prompts: Prompt ids, each shape [P].
        tokens: Tokens of every answer; end tokens are ignored, so that both sides decode as many.
        costs: Of target passes, for the prediction.
    """
    baseline = Autoregressive()
    baseline.attach(decoder)
    memory, energy = MemoryMeter(decoder.cache.devices), energy_meter(decoder.cache.devices)
    _decode(baseline, decoder, prompts[0], tokens, Arm.BASELINE)  # warms up, and is not counted
    _decode(method, decoder, prompts[0], tokens, Arm.METHOD)
    memory.reset()
    energies: list[float | None] = []
    theirs, ours = [], []
    for ids in prompts:
        theirs.append(_decode(baseline, decoder, ids, tokens, Arm.BASELINE))
        energy.start()
        ours.append(_decode(method, decoder, ids, tokens, Arm.METHOD))
        energies.append(energy.joules())
    rounds = metrics.all_rounds(ours)
    timings = [sample.timing for sample in ours if sample.timing is not None]
    phases = {phase: sum(timing.phases_s[phase] for timing in timings) for phase in PHASES}
    return MethodCost(
        name=name,
        prompts=len(prompts),
        tokens=sum(metrics.decode_work(sample).tokens for sample in ours),
        rounds=len(rounds),
        drafted=int(rounds.drafted.sum()),
        decode_s=sum(metrics.decode_work(sample).seconds for sample in ours),
        draft_s=phases["draft"],
        verify_s=phases["verify"],
        commit_s=phases["commit"],
        baseline_tokens=sum(metrics.decode_work(sample).tokens for sample in theirs),
        baseline_s=sum(metrics.decode_work(sample).seconds for sample in theirs),
        predicted=roofline.predict(
            costs, ours, several_tokens_per_row=traits_of(method).several_tokens_per_row
        ),
        peak_allocated_bytes=memory.peak_bytes(),
        energy_j=None if None in energies else sum(joules for joules in energies if joules is not None),
    )


@torch.inference_mode()
def _decode(method: Method, decoder: Decoder, ids: Tensor, tokens: int, arm: Arm) -> Sample:
    clock = turn_clock(decoder.device)
    budget = Budget(min(tokens, decoder.capacity - ids.numel()), frozenset())
    sampler = Sampler(Sampling(), decoder.device, 0)
    with clock:
        got = method.generate(ids, budget, sampler, clock)
    sampler.require_finite()
    got = got.cut(budget.max_new_tokens, budget.eos_ids)
    return Sample("", "", 0, 0, arm, 0, ids=got.ids, rounds=Rounds.of(got.rounds), timing=clock.timing())
