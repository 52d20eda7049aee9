"""A run's rounds on another device: what each pass would cost there, by a roofline, and what that gives.

The tokens of a run, and how many each round drafted and accepted, belong to the model and the method; the
time of a pass belongs to the device. So a round is priced anew: a pass of M rows reads all weights and the
cache once and multiplies M rows, whichever takes longer. Drafting and committing keep the share that they had
of a one-row pass where the run was measured. Every number is a projection: no kernel reaches the data sheet,
and acceptance differs between models.

Shapes: M rows of a pass, B sequences of a batch.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.errors import UserError
from bench.plan.devices import Gpu
from bench.records.model import Sample, Timing


@dataclass(frozen=True, slots=True)
class Loop:
    """What the host adds that the device does not hide, in seconds.

    Args:
        pass_s: To every pass: launching its kernels one by one.
        round_s: To every round that drafts.
    """

    pass_s: float
    round_s: float


LOOPS = {"recorded": Loop(0.0, 0.0), "eager": Loop(0.0183, 0.0057)}
"""``recorded`` replays whole passes, as the tier ``graph`` does. ``eager`` is the loop of Spec-Bench's board
for Vicuna 7B on an A100. Its two numbers were set by that board: the first by plain decoding at 40 tokens/s,
the second by Token Recycling alone; set by prompt lookup or Medusa, it would miss others by a fifth.
"""


@dataclass(frozen=True, slots=True)
class Passes:
    """Cost of a model's passes on a device.

    Args:
        gpu: The device.
        parameters: Weights that a pass reads.
        width: Bytes of a number.
        token_bytes: Keys and values of a token in the cache.
        loop: What the host adds.
    """

    gpu: Gpu
    parameters: int
    width: int
    token_bytes: int
    loop: Loop

    def seconds(self, rows: int, context: int, batch: int = 1) -> float:
        """A pass of so many rows of each sequence, with so many tokens of each in the cache."""
        read = self.parameters * self.width + batch * context * self.token_bytes
        products = 2.0 * self.parameters * batch * rows
        return max(read / self.gpu.bytes_per_s, products / self.gpu.flops_per_s) + self.loop.pass_s


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
        decode_s += left * passes.seconds(rows, context, batch) + passes.loop.round_s * (step.drafted > 0)
    prefill_s = passes.seconds(max(1, sample.prompt_tokens), 0, batch)
    return replace(sample, timing=Timing(prefill_s, decode_s, {}, prefill_s + decode_s, array("d")))
