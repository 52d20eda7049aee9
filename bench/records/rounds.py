"""What every round did: an object a round while it is decoded, an array a field once it is stored.

Also what many samples of a file have in common, so that a run of a thousand answers fits into memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from operator import attrgetter
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Round:
    """One draft-then-verify round: one target pass.

    Args:
        drafted: Tokens sent to verification, without the root.
        accepted: Drafted tokens that the target agreed to, along one path.
        emitted: Tokens committed; ``accepted + 1`` unless the harness cut the output inside the round.
        depth: Longest drafted path; equals `drafted` for a chain.
        stop: Why drafting stopped: ``length``, ``confidence``, ``match``, ``budget``, or a method's own word.
        exit_layer: Layer after which the draft left the target, where that varies.
    """

    drafted: int
    accepted: int
    emitted: int
    depth: int
    stop: str
    exit_layer: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.accepted <= self.depth <= self.drafted:
            raise ValueError(f"need 0 <= accepted <= depth <= drafted, got {self}")
        if not 0 <= self.emitted <= self.accepted + 1:
            raise ValueError(f"a round emits at most accepted + 1 tokens, got {self}")


ROUND_FIELDS = tuple(named.name for named in fields(Round))
DEFAULTS = {named.name: named.default for named in fields(Round) if named.default is not MISSING}
"""Of fields that were added after the first records."""
_COUNTS = ("drafted", "accepted", "emitted", "depth")
_row = attrgetter(*ROUND_FIELDS)


@dataclass(frozen=True, slots=True, eq=False)
class Rounds(Sequence[Round]):
    """The rounds of a sample, an array a field: some 30 bytes a round instead of 200, and quick sums.

    A sequence of `Round`, which are made when they are looked at.

    Args:
        drafted: Shape [rounds], as the other counts; see `Round` for what each holds.
        exit_layer: -1 where a round has none.

    Raises:
        ValueError: If a round's counts contradict each other, as `Round` says.
    """

    drafted: Counts
    accepted: Counts
    emitted: Counts
    depth: Counts
    stop: tuple[str, ...]
    exit_layer: Counts

    def __post_init__(self) -> None:
        is_nested = (self.accepted >= 0) & (self.accepted <= self.depth) & (self.depth <= self.drafted)
        is_right = is_nested & (self.emitted >= 0) & (self.emitted <= self.accepted + 1)
        if not is_right.all():
            self[int(is_right.argmin())]  # making that round raises, and says what is wrong with it

    @classmethod
    def of(cls, rounds: Iterable[Round] = ()) -> Self:
        """Rounds from an object each."""
        columns = zip(*map(_row, rounds), strict=True)
        return cls.from_columns(dict(zip(ROUND_FIELDS, columns, strict=False)) or dict.fromkeys(_COUNTS, ()))

    @classmethod
    def from_columns(cls, columns: Mapping[str, Sequence[Any]]) -> Self:
        """Rounds from lists of equal length, one a field of `Round`."""
        layers = columns.get("exit_layer", ())
        has_layers = list(layers).count(None) < len(layers)
        numbers = [-1 if layer is None else layer for layer in layers] if has_layers else [-1] * len(layers)
        counts = {name: np.fromiter(columns[name], np.int32) for name in _COUNTS}
        layers_left = np.fromiter(numbers, np.int32)
        return cls(**counts, stop=tuple(columns.get("stop", ())), exit_layer=layers_left)

    @classmethod
    def joined(cls, parts: Iterable[Rounds]) -> Self:
        """The rounds of several samples, one after the other."""
        listed = [*parts]
        if not listed:
            return cls.of()
        names = (*_COUNTS, "exit_layer")
        counts = {name: np.concatenate([getattr(part, name) for part in listed]) for name in names}
        return cls(**counts, stop=tuple(stop for part in listed for stop in part.stop))

    def columns(self) -> dict[str, list[Any]]:
        """The inverse of `from_columns`."""
        counts = {name: getattr(self, name).tolist() for name in _COUNTS}
        layers = [None if layer < 0 else layer for layer in self.exit_layer.tolist()]
        return counts | {"stop": list(self.stop), "exit_layer": layers}

    @property
    def is_cut(self) -> npt.NDArray[np.bool_]:
        """Shape [rounds]: whether the output ended inside the round, or before its pass gave a token."""
        return self.emitted < self.accepted + 1

    def __len__(self) -> int:
        return len(self.drafted)

    @overload
    def __getitem__(self, place: int) -> Round: ...
    @overload
    def __getitem__(self, place: slice) -> Rounds: ...
    def __getitem__(self, place: int | slice) -> Round | Rounds:
        counts = {name: getattr(self, name)[place] for name in _COUNTS}
        layer = self.exit_layer[place]
        if isinstance(place, slice):
            return Rounds(**counts, stop=self.stop[place], exit_layer=layer)
        plain = {name: int(count) for name, count in counts.items()}
        return Round(**plain, stop=self.stop[place], exit_layer=None if layer < 0 else int(layer))

    def __iter__(self) -> Iterator[Round]:
        return (Round(*row) for row in zip(*self.columns().values(), strict=True))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rounds):
            return NotImplemented
        same = (
            np.array_equal(getattr(self, name), getattr(other, name)) for name in (*_COUNTS, "exit_layer")
        )
        return self.stop == other.stop and all(same)

    def __hash__(self) -> int:
        raise TypeError("rounds are arrays and can't be hashed")


@dataclass(frozen=True, slots=True)
class Shared:
    """What many samples of a file have in common, held once: exact methods all put out the same answer."""

    parts: dict[bytes, Any] = field(default_factory=dict)
    """Token ids and rounds, by the digest of how a line writes them."""
    words: dict[str, str] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)

    def ids(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Token ids."""
        return tuple(map(self.numbers.setdefault, ids, ids))

    def texts(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Texts, such as an answer or why each round stopped."""
        for text in set(texts):
            self.words.setdefault(text, text)
        return tuple(map(self.words.__getitem__, texts))
