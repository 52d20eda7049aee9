"""What a fault cost: the records of a harmed run beside those of an undisturbed one.

Compared is all that does not depend on time: ids, text, rounds, counts, verdicts. Times differ between any
two runs, and so do the start that measured a sample and its place within a pair that an interrupt cut in two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records.codec import encode_sample, from_line
from bench.records.model import Key, Sample
from bench.records.store import load_samples

MEASURED = (
    *("timing", "attempt", "order", "after", "started_at", "clock_s"),
    *("peak_memory_bytes", "peak_reserved_bytes", "energy_j"),
)
PROPERTY = "fault"

Contents = Mapping[Key, Mapping[str, Any]]


@dataclass(frozen=True)
class Damage:
    """Samples compared, and those that a fault cost."""

    samples: int
    lost: int
    doubled: int
    changed: int

    @property
    def is_none(self) -> bool:
        return self.samples > 0 and not (self.lost or self.doubled or self.changed)


def contents(folder: Path) -> Contents:
    """What the good samples of a run say, by their keys."""
    return {sample.key: content(sample) for sample in load_samples(folder) if sample.error is None}


def content(sample: Sample) -> Mapping[str, Any]:
    """A sample without what is measured."""
    return {name: value for name, value in encode_sample(sample).items() if name not in MEASURED}


def damage(folder: Path, undisturbed: Contents) -> Damage:
    """What is wrong with the records of a run that came to its end."""
    stored = contents(folder)
    lines = (folder / "samples.jsonl").read_bytes().split(b"\n")
    good = Counter(sample.key for sample in map(from_line, filter(None, lines)) if sample.error is None)
    return Damage(
        samples=len(undisturbed),
        lost=len(undisturbed.keys() - stored.keys()),
        doubled=sum(times - 1 for times in good.values()) + len(stored.keys() - undisturbed.keys()),
        changed=sum(stored[key] != undisturbed[key] for key in stored.keys() & undisturbed.keys()),
    )


class Ledger:
    """Judges a run and enters the verdict into the table at the end of the test session.

    Args:
        undisturbed: Records of the same command without a fault.
        enter: Takes a row of the table; pytest's ``record_property``.
    """

    def __init__(self, undisturbed: Contents, enter: Callable[[str, object], None]) -> None:
        self.undisturbed = undisturbed
        self._enter = enter

    def judge(self, fault: str, tried: int, *folders: Path, undisturbed: Contents | None = None) -> None:
        """Assert that `tried` faults cost nothing in these runs."""
        damages = [damage(folder, undisturbed or self.undisturbed) for folder in folders]
        sums = [
            sum(getattr(damaged, name) for damaged in damages)
            for name in ("samples", "lost", "doubled", "changed")
        ]
        self._enter(PROPERTY, [fault, tried, *sums])
        assert all(damaged.is_none for damaged in damages), damages


def table(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of the table, rows of the same fault added up."""
    added: dict[str, list[int]] = {}
    for fault, *numbers in rows:
        added[fault] = [
            number + other for number, other in zip(added.get(fault, [0] * 5), numbers, strict=True)
        ]
    added["all"] = [sum(column) for column in zip(*added.values(), strict=True)]
    head = ("fault", "tried", "samples", "lost", "doubled", "changed")
    return [
        f"{fault:<52}" + "".join(f"{number:>9}" for number in numbers)
        for fault, *numbers in (head, *((name, *sums) for name, sums in added.items()))
    ]
