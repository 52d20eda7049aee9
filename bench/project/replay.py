"""A run's rounds on another device: what each pass would cost there, and what that gives.

The tokens of a run, and how many each round drafted and accepted, belong to the model and the method; the
time of a pass belongs to the device. So every round is priced anew with the passes of the other device, see
`bench.project.passes`. Drafting and committing keep the share that they had of a one-row pass where the run
was measured. Every number is a projection: acceptance differs between models, and no kernel reaches a data
sheet.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.errors import UserError
from bench.project.passes import Passes
from bench.records.model import Sample, Timing


@dataclass(frozen=True, slots=True)
class Source:
    """What the run's own machine says about its method.

    Args:
        step_s: Seconds of a token of plain decoding there.
        depth: Layers of its model.
        several_tokens_per_row: Passes read one row whatever a round emits.
    """

    step_s: float
    depth: int
    several_tokens_per_row: bool = False

    @classmethod
    def of(cls, baseline: Sequence[Sample], depth: int, *, several_tokens_per_row: bool) -> Source:
        """From the samples of the baseline.

        Raises:
            UserError: If they hold no decoding time.
        """
        timed = [(sample.timing.decode_s, len(sample.ids) - 1) for sample in baseline if sample.timing]
        tokens = sum(count for _, count in timed)
        if not tokens:
            raise UserError("the run's baseline has decoded nothing", "finish the run first")
        return cls(sum(seconds for seconds, _ in timed) / tokens, depth, several_tokens_per_row)


def projected(samples: Sequence[Sample], passes: Passes, source: Source, batch: int = 1) -> list[Sample]:
    """The samples with the times that they would have on the device, per sequence of a batch."""
    return [_priced(sample, passes, source, batch) for sample in samples if sample.timing is not None]


def _priced(sample: Sample, passes: Passes, source: Source, batch: int) -> Sample:
    timing, rounds = sample.timing, sample.rounds
    assert timing is not None
    context = sample.prompt_tokens + len(sample.ids) // 2
    one_row = passes.seconds(1, context, batch)
    drafting = sum(timing.phases_s.get(phase, 0.0) for phase in ("draft", "search", "commit"))
    decode_s = drafting / source.step_s * one_row
    beside = round(sample.counts.get("lookahead_rows", 0) / max(1, len(rounds)))  # rows that draft nothing
    for step in rounds:
        rows = 1 if source.several_tokens_per_row else step.drafted + 1 + beside
        left = 1.0 if step.exit_layer is None else 1 - step.exit_layer / source.depth
        decode_s += left * passes.seconds(rows, context, batch) + passes.round_s * (step.drafted > 0)
    prefill_s = passes.seconds(max(1, sample.prompt_tokens), 0, batch)
    return replace(sample, timing=Timing(prefill_s, decode_s, {}, prefill_s + decode_s, array("d")))
