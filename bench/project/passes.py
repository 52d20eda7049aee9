"""What passes of a model cost on another device: by a roofline of its data sheet, or by a measured profile.

A batch of B sequences, M rows each, reads the weights once and B caches, and multiplies B times M rows.

Shapes: M rows of each sequence, B sequences of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from bench.plan.devices import Gpu
from bench.profile.records import Level, Profile


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


class Passes(Protocol):
    """Seconds and bytes of a model's passes on a device."""

    @property
    def round_s(self) -> float:
        """What the host adds to a round that drafts."""

    @property
    def memory_bytes(self) -> int | None:
        """Memory of the device; None if it is not known."""

    def seconds(self, rows: int, context: int, batch: int = 1) -> float:
        """A pass of so many rows of each sequence, with so many tokens of each in the cache."""

    def needed_bytes(self, tokens: int, batch: int, rows: int = 0) -> int:
        """Weights; keys and values of a batch of sequences of so many tokens, and logits of so many rows."""

    def describe(self) -> str:
        """What the prices rest on, for the table's title."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """Prices by a data sheet: reading or multiplying, whichever takes longer.

    Args:
        gpu: The device.
        model: What the title calls the model.
        parameters: Weights that a pass reads.
        width: Bytes of a number.
        token_bytes: Keys and values of a token in the cache.
        loop: What the host adds.
        weight_bytes: All weights in memory; those that a pass reads if not given.
        row_bytes: Logits of one row.
    """

    gpu: Gpu
    model: str
    parameters: int
    width: int
    token_bytes: int
    loop: Loop
    weight_bytes: int | None = None
    row_bytes: int = 0

    @property
    def round_s(self) -> float:
        """What the host adds to a round that drafts."""
        return self.loop.round_s

    @property
    def memory_bytes(self) -> int:
        """Memory of the device."""
        return self.gpu.memory_bytes

    def seconds(self, rows: int, context: int, batch: int = 1) -> float:
        """A pass of so many rows of each sequence, with so many tokens of each in the cache."""
        read = self.parameters * self.width + batch * context * self.token_bytes
        products = 2.0 * self.parameters * batch * rows
        return max(read / self.gpu.bytes_per_s, products / self.gpu.flops_per_s) + self.loop.pass_s

    def needed_bytes(self, tokens: int, batch: int, rows: int = 0) -> int:
        """See `Passes.needed_bytes`."""
        weights = self.parameters * self.width if self.weight_bytes is None else self.weight_bytes
        return weights + batch * (tokens * self.token_bytes + rows * self.row_bytes)

    def describe(self) -> str:
        """The device, the model and the roofline."""
        loop = next(name for name, known in LOOPS.items() if known == self.loop)
        return f"{self.model} on {self.gpu.title}: a roofline of its data sheet, {loop} loop"


@dataclass(frozen=True, slots=True)
class Measured:
    """Prices by a profile that `bench.profile` measured there.

    A pass of B times M rows was measured with one cache. The other B - 1 caches are added at the measured
    bandwidth. Launching is within the measured passes.

    Args:
        profile: The profile.
        place: Its file.
    """

    profile: Profile
    place: Path

    round_s = 0.0

    @property
    def memory_bytes(self) -> int | None:
        """Memory of the GPU, or of the machine; None if the profile holds neither."""
        environment = self.profile.environment
        known = environment.get("gpu") or environment.get("cpu") or {}
        size = known.get("memory_bytes") if isinstance(known, dict) else None
        return None if size is None else int(size)

    def seconds(self, rows: int, context: int, batch: int = 1) -> float:
        """A pass of so many rows of each sequence, with so many tokens of each in the cache."""
        others = (batch - 1) * context * self.profile.token_bytes / self.profile.bandwidth.memory
        return self._one_cache(rows * batch, context) + others

    def needed_bytes(self, tokens: int, batch: int, rows: int = 0) -> int:
        """See `Passes.needed_bytes`; without logits, since a profile does not say how long they are."""
        return self.profile.weight_bytes + batch * tokens * self.profile.token_bytes

    def describe(self) -> str:
        """The model, the device and the file of the profile."""
        return f"{self.profile.model} on {self.profile.device}: passes measured there ({self.place.name})"

    def _one_cache(self, rows: int, context: int) -> float:
        """On a straight line between two contexts that were measured; outside, the nearest one's."""
        levels = self.profile.levels
        for low, high in pairwise(levels):
            start, end = low.costs.context, high.costs.context
            if start <= context <= end:
                share = (context - start) / (end - start)
                return _pass_s(low, rows) * (1 - share) + _pass_s(high, rows) * share
        nearest = levels[0] if context < levels[0].costs.context else levels[-1]
        return _pass_s(nearest, rows)


def _pass_s(level: Level, rows: int) -> float:
    return level.costs.passes.at(rows)
