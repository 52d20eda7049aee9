"""What guessing experts ahead gave, and its file: ``results/routing/<model>-<8 hex>.json``.

Counts only; shares are computed here. Distances count layers with experts: 1 is the next of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.records.files import write_text

SCHEMA_VERSION = 1
"""Raised whenever a stored field changes its meaning."""
ROUTER, CHANGE, PREVIOUS = "later router", "m2r2_moe", "previous token"
GUESSERS = {
    ROUTER: "the later layer's router, asked about the rows of the present layer",
    CHANGE: "the same, after the change of the rows that m2r2_moe has trained for this distance",
    PREVIOUS: "the experts that the later layer used for the previous token",
}
"""Ways to guess, and what they are."""


@dataclass(frozen=True, slots=True)
class Guesses:
    """How often one way to guess named the experts that a later layer then chose.

    Args:
        guesser: One of `GUESSERS`.
        layer: Where the guess is made.
        later: The layer that it is about.
        needed: Experts that rows chose there, summed over rows.
        named: Of these, the ones that were guessed.
    """

    guesser: str
    layer: int
    later: int
    needed: int
    named: int


@dataclass(frozen=True, slots=True)
class Routing:
    """The guesses about one model.

    Args:
        model: Its name.
        identity: What sets this record apart: hashes of the weights and of the changes, and the settings.
        layers: Layers with experts, ascending.
        experts: Experts of a layer.
        top_k: Experts that a row uses.
        candidates: Experts that a guess names for a row.
        rows: Decoded tokens that were guessed for.
        changes: What is stored beside the trained changes, by their distance as text.
        guesses: By way to guess, layer and later layer.
    """

    model: str
    identity: Mapping[str, Any]
    layers: tuple[int, ...]
    experts: int
    top_k: int
    candidates: int
    rows: int
    changes: Mapping[str, Mapping[str, Any]]
    guesses: tuple[Guesses, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def chance(self) -> float:
        """Share that any `candidates` experts would name."""
        return self.candidates / self.experts

    @property
    def distances(self) -> range:
        """From one layer with experts to a later one."""
        return range(1, len(self.layers))

    def share(self, guesser: str, distance: int) -> float | None:
        """Share of the chosen experts that were guessed so many layers ahead, summed over layers; None where
        nothing was.
        """
        found = [
            guess
            for guess in self.guesses
            if guess.guesser == guesser
            and self.layers.index(guess.later) - self.layers.index(guess.layer) == distance
        ]
        needed = sum(guess.needed for guess in found)
        return sum(guess.named for guess in found) / needed if needed else None


def routing_rows(routing: Routing) -> list[tuple[str, ...]]:
    """A header, and a row per distance with the share of each way to guess."""
    header = ("layers ahead", *GUESSERS, "chance")
    return [
        header,
        *(
            (
                str(distance),
                *(_percent(routing.share(guesser, distance)) for guesser in GUESSERS),
                _percent(routing.chance),
            )
            for distance in routing.distances
        ),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def save_routing(results: Path, routing: Routing) -> Path:
    """Write the record, whole or not at all; one of the same identity is replaced.

    Raises:
        UserError: If the folder cannot be written.
    """
    digest = hashlib.sha256(json.dumps(routing.identity, sort_keys=True).encode()).hexdigest()[:8]
    path = results / "routing" / f"{routing.model}-{digest}.json"
    facts = {key: value for key, value in asdict(routing).items() if key != "guesses"}
    head = json.dumps(facts, indent=1, allow_nan=False).removesuffix("\n}")
    lines = ",\n".join(f"  {json.dumps(asdict(guess))}" for guess in routing.guesses)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, f'{head},\n "guesses": [\n{lines}\n ]\n}}\n')
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror}", "set results_dir to a folder that can be"
        ) from error
    return path


def load_routing(path: Path) -> Routing:
    """Read a stored record.

    Raises:
        UserError: If the file is none, or of a schema version that this code does not know.
    """
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if (version := stored["schema_version"]) != SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema version {version}, this code knows {SCHEMA_VERSION}",
                "measure again: python -m bench.routing model=...",
            )
        guesses = tuple(Guesses(**record) for record in stored["guesses"])
        return Routing(**{**stored, "layers": tuple(stored["layers"]), "guesses": guesses})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no record of guesses: {error!r}", "measure again") from error
