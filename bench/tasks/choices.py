"""Multiple choice: the options of a row in a random order that never changes, and the right letter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

import numpy as np

RIGHT, WRONG = "Correct Answer", "Incorrect Answer"


@dataclass(frozen=True, slots=True)
class ShuffledChoices:
    """Rows of GPQA, whose right answer stands first, with their options shuffled.

    A row that names its options itself (``options`` or ``choices``, and the letter or place of the right one
    as ``answer``) keeps their order.

    Args:
        seed: Of the shuffle, which depends on the question and not on its place.
    """

    seed: int = 0

    def __call__(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row with ``question``, ``options`` (texts) and ``letter``.

        Raises:
            ValueError: If it has no options, or no right one.
        """
        question = str(row.get("Question", row.get("question", ""))).strip()
        if RIGHT not in row:
            options = [str(option) for option in row.get("options", row.get("choices")) or ()]
            return {**row, "question": question, "options": options, "letter": _letter(row, options)}
        wrong = [str(value).strip() for key, value in row.items() if key.startswith(WRONG) and value]
        right = str(row[RIGHT]).strip()
        digest = hashlib.sha256(f"{self.seed}\n{question}".encode()).digest()
        order = np.random.default_rng(int.from_bytes(digest[:8])).permutation(1 + len(wrong))
        options = [[right, *wrong][place] for place in order]
        return {
            **row,
            "question": question,
            "options": options,
            "letter": ascii_uppercase[options.index(right)],
        }


def _letter(row: Mapping[str, Any], options: list[str]) -> str:
    """The letter of the right option, which the row gives as a letter or as a place from 0."""
    answer = row.get("answer")
    letters = ascii_uppercase[: len(options)]
    if isinstance(answer, int) and 0 <= answer < len(options):
        return letters[answer]
    if isinstance(answer, str) and answer.strip().upper() in tuple(letters):
        return answer.strip().upper()
    raise ValueError(f"answer must be one of {', '.join(letters) or 'its options'}, got {answer!r}")
