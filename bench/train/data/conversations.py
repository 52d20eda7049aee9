"""Real conversations to train modules on, such as ShareGPT's, in the model's own chat format.

Rows are read from where the data is published or from a local file, in ShareGPT's format: ``conversations``
is a list of messages ``{"from": "human" or "gpt", "value": text}``. Only text is kept on disk: the frozen
model computes the hidden rows during training.

Shapes: T tokens of a dialogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bench.compose.components import require_least
from bench.errors import UserError
from bench.tasks.chat import RAW_SEPARATOR, VICUNA_END, ChatFormat, Template
from bench.tasks.rows import PublishedRows, Row, read_rows

USER, MODEL = ("human", "user"), ("gpt", "assistant")


@dataclass(frozen=True, slots=True)
class Conversations:
    """A set of conversations.

    Args:
        source: Where it is published.
        path: Local file in its place: JSON, JSONL or parquet.
        draw: Number of conversations drawn at random; None takes all.
        seed: Seed of that draw. The order in training follows the recipe's seed.
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
        """Name of the data in a module's provenance."""
        return self.path or self.source.location

    def stream(self, chat: ChatFormat, seed: int) -> Iterator[tuple[list[int], list[bool]]]:
        """Endless epochs over the conversations, each in another random order; determined by `seed`.

        Yields:
            Token ids, length T, and which of them are answers.

        Raises:
            UserError: If the rows cannot be read or fetched, or none holds a question with an answer.
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
                    yield dialogue_ids(chat, turns, answers)
            if not count:
                raise UserError(
                    f"{self.location} holds no conversation of a question and an answer",
                    'Write rows such as {"conversations": [{"from": "human", "value": "Hi"}, '
                    '{"from": "gpt", "value": "Hello."}]}.',
                )


def exchanges(row: Row) -> tuple[list[str], list[str]]:
    """Questions and their answers; messages that are not a question with its answer are left out."""
    messages = row.get("conversations") or row.get("messages") or []
    spoken = [
        (
            str(message.get("from") or message.get("role")),
            str(message.get("value") or message.get("content") or "").strip(),
        )
        for message in messages
    ]
    pairs = [
        (question, answer)
        for (first, question), (second, answer) in pairwise(spoken)
        if first in USER and second in MODEL and question and answer
    ]
    return [question for question, _ in pairs], [answer for _, answer in pairs]


def dialogue_ids(
    chat: ChatFormat, turns: Sequence[str], answers: Sequence[str]
) -> tuple[list[int], list[bool]]:
    """A whole dialogue, written as the benchmark writes its prompts.

    Args:
        chat: The model's chat format.
        turns: User messages.
        answers: The answer to each.

    Returns:
        Ids, length T, and a mask of length T that is true on answer tokens and the end token after each
        answer.

    Raises:
        ValueError: If there is not one answer per turn.
        UserError: If the template rejects the dialogue, or writes past turns differently than prompts.
    """
    if len(turns) != len(answers) or not turns:
        raise ValueError(f"need one answer per turn, got {len(turns)} turns, {len(answers)} answers")
    answers = [answer.strip() for answer in answers]
    text = _dialogue_text(chat, turns, answers)
    spans = [_answer_span(chat, text, turns[: i + 1], answers[: i + 1]) for i in range(len(turns))]
    encoded = chat.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = [int(token) for token in encoded["input_ids"]]
    offsets = [(int(start), int(end)) for start, end in encoded["offset_mapping"]]
    mask = [any(first <= start and end <= last for first, last in spans) for start, end in offsets]
    start = chat.missing_start(ids)
    return [*start, *ids], [*[False] * len(start), *mask]


def _dialogue_text(chat: ChatFormat, turns: Sequence[str], answers: Sequence[str]) -> str:
    """All turns and answers, and the text that ends an answer after the last."""
    if chat.template == Template.AUTO:
        messages = [text for exchange in zip(turns, answers, strict=True) for text in exchange]
        return chat.apply_template(messages, is_prompt=False)
    is_vicuna = chat.template == Template.VICUNA
    separator, end = (" ", VICUNA_END) if is_vicuna else (RAW_SEPARATOR, _end_text(chat))
    return f"{chat.prompt_text(turns, answers[:-1])}{separator}{answers[-1]}{end}"


def _answer_span(
    chat: ChatFormat, text: str, turns: Sequence[str], answers: Sequence[str]
) -> tuple[int, int]:
    """Where the last of these answers begins and ends in a dialogue's text, its end token included."""
    prompt = chat.prompt_text(turns, answers[:-1])
    place = text.find(answers[-1], len(prompt))
    if not text.startswith(prompt) or place < 0:
        raise UserError(
            "the chat template writes past turns of a dialogue differently than its prompts",
            "Train with model.template=raw, or another checkpoint's template.",
        )
    end = place + len(answers[-1])
    return len(prompt), end + len(_end_text(chat)) * text.startswith(_end_text(chat), end)


def _end_text(chat: ChatFormat) -> str:
    return str(chat.tokenizer.eos_token or "")
