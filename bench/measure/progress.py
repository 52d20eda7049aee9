"""The live figures beside the progress bar: speed of every arm and acceptance length so far."""

from __future__ import annotations

from bench.records.model import Arm, Sample


class LiveFigures:
    """Running sums over the samples of this attempt."""

    def __init__(self) -> None:
        self._tokens = dict.fromkeys(Arm, 0)
        self._seconds = dict.fromkeys(Arm, 0.0)
        self._rounds = 0
        self._failed = 0

    def add(self, sample: Sample) -> None:
        """Count one sample."""
        if sample.timing is None:
            self._failed += 1
            return
        self._tokens[sample.arm] += len(sample.ids) - 1
        self._seconds[sample.arm] += sample.timing.decode_s
        if sample.arm is Arm.METHOD:
            self._rounds += len(sample.rounds)

    def text(self) -> str:
        """Such as ``baseline 310 tok/s, method 450 tok/s, 3.1 tokens/round``."""
        parts = [
            f"{arm.value} {self._tokens[arm] / seconds:.0f} tok/s"
            for arm, seconds in self._seconds.items()
            if seconds
        ]
        if self._rounds:
            parts.append(f"{self._tokens[Arm.METHOD] / self._rounds:.2f} tokens/round")
        if self._failed:
            parts.append(f"{self._failed} failed")
        return ", ".join(parts)
