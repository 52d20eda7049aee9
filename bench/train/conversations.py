"""Real conversations to train modules on, such as ShareGPT's, in the words of the model's own chat format.

Rows are read from where the data is published or from a local file, in ShareGPT's format: ``conversations``
is a list of messages ``{"from": "human" or "gpt", "value": text}``. Hidden rows of the frozen model follow
from the ids as training goes; nothing but the text lies on the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bench.compose.components import require_least
from bench.errors import UserError
from bench.tasks.chat import ChatFormat
from bench.tasks.rows import PublishedRows, Row, read_rows

USER, MODEL = ("human", "user"), ("gpt", "assistant")


@dataclass(frozen=True, slots=True)
class Conversations:
    """A set of conversations.

    Args:
        source: Where it is published.
        path: Local file in its place: JSON, JSONL or parquet.
        draw: Conversations drawn from it at random; None takes all.
        seed: Of the draw. The order of training follows the recipe's seed.
    """

    source: PublishedRows
    path: str | None = None
    draw: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        require_least("data.draw", self.draw, 1)
        require_least("data.seed", self.seed, 0)

    @property
    def location(self) -> str:
        """What provenance calls it."""
        return self.path or self.source.location

    def stream(self, chat: ChatFormat, seed: int) -> Iterator[tuple[list[int], list[bool]]]:
        """Endless epochs over the conversations, each in an order of its own; the same for a seed.

        Yields:
            Token ids, length T, and which of them are answers.

        Raises:
            UserError: If the rows cannot be had, or none holds a question with an answer.
        """
        rows = (
            self.source.fetch(self.source.split)
            if self.path is None
            else read_rows(self.path, "data.path")[0]
        )
        chosen = np.random.default_rng(self.seed).permutation(len(rows))[: self.draw]
        order = np.random.default_rng(seed)
        while True:
            count = 0
            for place in order.permutation(chosen):
                turns, answers = exchanges(rows[int(place)])
                if turns:
                    count += 1
                    yield chat.dialogue_ids(turns, answers)
            if not count:
                raise UserError(
                    f"{self.location} holds no conversation of a question and an answer",
                    'Write rows such as {"conversations": [{"from": "human", "value": "Hi"}, '
                    '{"from": "gpt", "value": "Hello."}]}.',
                )


def exchanges(row: Row) -> tuple[list[str], list[str]]:
    """Questions and their answers; whatever does not follow in turn is left out."""
    messages = row.get("conversations") or row.get("messages") or []
    said = [
        (str(one.get("from") or one.get("role")), str(one.get("value") or one.get("content") or "").strip())
        for one in messages
    ]
    pairs = [
        (question, answer)
        for (first, question), (second, answer) in pairwise(said)
        if first in USER and second in MODEL and question and answer
    ]
    return [question for question, _ in pairs], [answer for _, answer in pairs]
