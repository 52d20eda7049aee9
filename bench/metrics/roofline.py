"""The least time that a pass can take, and the speedup that a round should give.

A decode step reads every weight and every cached key and value once, so memory bandwidth bounds it: the
roofline. The speedup of a round is the time its tokens would have taken by plain decoding, over the time of
the round. All of it is for one sequence at a time. With a batch of B sequences a step reads the weights once
and B caches, and a round verifies B times its rows: the same curve t(M) is then read at B M rows, and the
gain of speculation ends where t(B M) grows with M.

Shapes: M rows of a pass.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.metrics.counts import UndefinedError
from bench.records.model import Run, Sample
from bench.records.rounds import Rounds


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds of a pass by its number of rows.

    Args:
        rows: Row counts measured, ascending.
        seconds: What each took.
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.rows or len(self.rows) != len(self.seconds) or list(self.rows) != sorted(set(self.rows)):
            raise ValueError(f"need ascending rows with a time each, got {self.rows} and {self.seconds}")

    @classmethod
    def of(cls, seconds: Mapping[int, float]) -> Curve:
        """From seconds by row count, in any order."""
        rows = sorted(seconds)
        return cls(tuple(rows), tuple(seconds[count] for count in rows))

    def at(self, rows: int) -> float:
        """Seconds of a pass of that many rows: as measured, between two measurements on a straight line.

        Below the first measurement it is the first one; above the last one it grows with the rows.
        """
        place = bisect_left(self.rows, rows)
        if place == len(self.rows):
            return self.seconds[-1] * rows / self.rows[-1]
        if self.rows[place] == rows or place == 0:
            return self.seconds[place]
        low, high = self.rows[place - 1 : place + 1]
        share = (rows - low) / (high - low)
        return self.seconds[place - 1] * (1 - share) + self.seconds[place] * share


@dataclass(frozen=True, slots=True)
class Costs:
    """What passes of one model cost on one machine at one context.

    Args:
        context: Tokens in the cache before the rows.
        depth: Layers of the model (L).
        passes: Through all layers and the head: t(M).
        head: Final norm and LM head alone.
        dispatch_s: A one-row pass of a model that is as deep but only a few numbers wide: the part of t(1)
            that the host needs to launch operations.
    """

    context: int
    depth: int
    passes: Curve
    head: Curve
    dispatch_s: float

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Costs:
        """The inverse of `dataclasses.asdict`, from JSON."""
        passes, head = (
            Curve(tuple(record[name]["rows"]), tuple(record[name]["seconds"])) for name in ("passes", "head")
        )
        return cls(**{**record, "passes": passes, "head": head})

    @property
    def step_s(self) -> float:
        """t(1): a token of plain decoding, without what a loop adds around it."""
        return self.passes.at(1)

    @property
    def dispatch_share(self) -> float:
        """Share of t(1) that the host needs to launch the operations; on a CPU nothing hides it."""
        return min(1.0, self.dispatch_s / self.step_s)

    def verify_s(self, rows: int, resumed_at: int | None = None) -> float:
        """A verification of that many rows, by the layers from `resumed_at` on and the head."""
        whole = self.passes.at(rows)
        if resumed_at is None:
            return whole
        head = min(whole, self.head.at(rows))
        return head + (whole - head) * (self.depth - resumed_at) / self.depth


@dataclass(frozen=True, slots=True)
class Probe:
    """What a run measured of its model and machine before it decoded.

    Args:
        costs: Of passes with as many rows as the rounds of the warm-up verified.
        weight_bytes: Bytes of weights that a pass reads.
        token_bytes: Bytes of keys and values of one token.
        read_bytes_per_s: Bandwidth of reading as many bytes as the weights have, over and over.
    """

    costs: Costs
    weight_bytes: int
    token_bytes: int
    read_bytes_per_s: float

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Probe:
        """The inverse of `dataclasses.asdict`, from JSON."""
        return cls(**{**record, "costs": Costs.of_record(record["costs"])})

    @classmethod
    def of_run(cls, run: Run) -> Probe | None:
        """The probe of the run's last start that made one; None where none did."""
        probes = [attempt["probe"] for attempt in run.attempts if "probe" in attempt]
        return cls.of_record(probes[-1]) if probes else None

    def bytes_per_s(self, tokens_per_s: float) -> float:
        """Bytes that plain decoding reads per second at this speed, with the probe's context in the cache."""
        return tokens_per_s * step_bytes(self.weight_bytes, self.token_bytes, self.costs.context)


def step_bytes(weight_bytes: int, token_bytes: int, context: int) -> int:
    """Bytes that one decode step reads: the weights, and keys and values of every token so far."""
    return weight_bytes + token_bytes * context


def ceiling_tokens_per_s(read_bytes: int, bytes_per_s: float) -> float:
    """The roofline: tokens per second if a step took no longer than reading its bytes."""
    return bytes_per_s / read_bytes


def achieved_share(read_bytes: int, seconds: float, bytes_per_s: float) -> float:
    """Share of the bandwidth that a step of that duration used (MBU); above 1, a cache holds the weights."""
    return read_bytes / seconds / bytes_per_s


def predicted_speedup(
    tokens_per_round: float, step_s: float, verify_s: float, draft_s: float, other_s: float
) -> float:
    """Speedup over plain decoding that a round's costs give: ``AL t(1) / (t(M) + t_draft + t_other)``.

    Args:
        tokens_per_round: Tokens that a round emits (AL).
        step_s: A pass of one row, t(1).
        verify_s: The round's verification, t(M).
        draft_s: Its draft.
        other_s: Its commit, and the host's time between phases.

    Raises:
        ValueError: If the round takes no time.
    """
    round_s = verify_s + draft_s + other_s
    if round_s <= 0:
        raise ValueError(f"a round must take time, got {round_s} s")
    return tokens_per_round * step_s / round_s


def predict(costs: Costs, samples: Sequence[Sample], *, several_tokens_per_row: bool = False) -> float:
    """Decode speedup that `costs` predict for the rounds of these samples, pooled over all rounds.

    Target passes count with the time they take when measured alone. Draft, commit and host time are the
    samples' own, less the share in which other work kept the thread off its core (wall over CPU time). A
    measured speedup below the prediction lost time inside verification (further rows, masks, the acceptance
    rule); one above it had a baseline whose loop is slower than its passes.

    Args:
        costs: Of the target's passes.
        samples: Of the method.
        several_tokens_per_row: Each pass reads one row, see `methods.core.base.Traits`; otherwise it reads
            the drafted tokens and the root.

    Raises:
        UndefinedError: If there is no round, or the samples were timed without phases.
    """
    rounds = Rounds.joined(sample.rounds for sample in samples)
    timings = [sample.timing for sample in samples if sample.timing is not None]
    if not rounds or not all(timing.phases_s for timing in timings):
        raise UndefinedError("a prediction needs rounds, and times by phase")
    count = len(rounds)
    passes = Counter((1 if several_tokens_per_row else step.drafted + 1, step.exit_layer) for step in rounds)
    verify_s = sum(times * costs.verify_s(rows, layer) for (rows, layer), times in passes.items())
    wall_s = sum(timing.prefill_s + timing.decode_s for timing in timings)
    own = min(1.0, sum(timing.cpu_s for timing in timings) / wall_s)
    draft_s = own * sum(timing.phases_s.get("draft", 0.0) for timing in timings)
    other_s = own * sum(timing.phases_s.get("commit", 0.0) + timing.host_s for timing in timings)
    tokens = int(rounds.emitted.sum())
    return predicted_speedup(tokens / count, costs.step_s, verify_s / count, draft_s / count, other_s / count)
