"""Real conversations to train modules on, such as ShareGPT's, in the model's own chat format.

Rows are read from where the data is published or from a local file, in ShareGPT's format: ``conversations``
is a list of messages ``{"from": "human" or "gpt", "value": text}``; or in OpenAI's: ``messages``, each with
``role`` and ``content``, as `bench.train.answers` writes them. Only text is kept on disk: the frozen
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

USER, MODEL, SYSTEM = ("human", "user"), ("gpt", "assistant"), ("system", "developer")


@dataclass(frozen=True, slots=True)
class Conversations:
    """A set of conversations.

    Args:
        source: Where it is published; None if there is only a local file.
        path: Local file in its place: JSON, JSONL or parquet.
        draw: Number of conversations drawn at random; None takes all.
        seed: Seed of that draw. The order in training follows the recipe's seed.
        keeps_system: Whether the system message at the start of a conversation is part of its prompts;
            otherwise it is left out.
    """

    source: PublishedRows | None = None
    path: str | None = None
    draw: int | None = None
    seed: int = 42
    keeps_system: bool = False

    def __post_init__(self) -> None:
        if self.source is None and self.path is None:
            raise UserError(
                "these data need a file of conversations",
                "Add data.path=FILE; 'python -m bench.train.answers' writes one.",
            )
        require_least("data.draw", self.draw, 1)
        require_least("data.seed", self.seed, 0)

    @property
    def location(self) -> str:
        """Name of the data in a module's provenance."""
        return self.path or ("" if self.source is None else self.source.location)

    def stream(self, chat: ChatFormat, seed: int) -> Iterator[tuple[list[int], list[bool]]]:
        """Endless epochs over the conversations, each in another random order; determined by `seed`.

        Yields:
            Token ids, length T, and which of them are answers.

        Raises:
            UserError: If the rows cannot be read or fetched, or none holds a question with an answer.
        """
        rows = self._chosen()
        order = np.random.default_rng(seed)
        while True:
            yield from self._dialogues(chat, [rows[place] for place in order.permutation(len(rows))])

    def dialogues(self, chat: ChatFormat) -> Iterator[tuple[list[int], list[bool]]]:
        """Every conversation once, always in the same order; yields as `stream` does."""
        return self._dialogues(chat, self._chosen())

    def _chosen(self) -> list[Row]:
        rows = self._rows()
        return [
            rows[int(place)] for place in np.random.default_rng(self.seed).permutation(len(rows))[: self.draw]
        ]

    def _dialogues(self, chat: ChatFormat, rows: Sequence[Row]) -> Iterator[tuple[list[int], list[bool]]]:
        count = 0
        for row in rows:
            turns, answers = exchanges(row)
            if turns:
                count += 1
                system = system_message(row) if self.keeps_system else ""
                yield dialogue_ids(chat, turns, answers, system, is_cut=row.get("ended") is False)
        if not count:
            raise UserError(
                f"{self.location} holds no conversation of a question and an answer",
                'Write rows such as {"conversations": [{"from": "human", "value": "Hi"}, '
                '{"from": "gpt", "value": "Hello."}]}.',
            )

    def _rows(self) -> Sequence[Row]:
        if self.path is not None:
            return read_rows(self.path, "data.path")[0]
        assert self.source is not None  # see `__post_init__`
        return self.source.fetch(self.source.split)


def exchanges(row: Row) -> tuple[list[str], list[str]]:
    """Questions and their answers; messages that are not a question with its answer are left out."""
    pairs = [
        (question, answer)
        for (first, question), (second, answer) in pairwise(_messages(row))
        if first in USER and second in MODEL and question and answer
    ]
    return [question for question, _ in pairs], [answer for _, answer in pairs]


def system_message(row: Row) -> str:
    """The system message that a conversation starts with; empty if there is none."""
    messages = _messages(row)
    return messages[0][1] if messages and messages[0][0] in SYSTEM else ""


def _messages(row: Row) -> list[tuple[str, str]]:
    """Who speaks, and the text without white space around it."""
    return [
        (
            str(message.get("from") or message.get("role")),
            str(message.get("value") or message.get("content") or "").strip(),
        )
        for message in row.get("conversations") or row.get("messages") or []
    ]


def dialogue_ids(
    chat: ChatFormat, turns: Sequence[str], answers: Sequence[str], system: str = "", *, is_cut: bool = False
) -> tuple[list[int], list[bool]]:
    """A whole dialogue, written as the benchmark writes its prompts.

    Args:
        chat: The model's chat format.
        turns: User messages.
        answers: The answer to each.
        system: System message; empty leaves it to the template.
        is_cut: Whether an answer was cut off before its end, so that end tokens are not to be learnt.

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
    text = _dialogue_text(chat, turns, answers, system)
    end = "" if is_cut else _end_text(chat)
    spans = [
        _answer_span(chat, text, turns[: i + 1], answers[: i + 1], system, end) for i in range(len(turns))
    ]
    encoded = chat.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = [int(token) for token in encoded["input_ids"]]
    offsets = [(int(start), int(end)) for start, end in encoded["offset_mapping"]]
    mask = [any(first <= start and end <= last for first, last in spans) for start, end in offsets]
    start = chat.missing_start(ids)
    return [*start, *ids], [*[False] * len(start), *mask]


def _dialogue_text(chat: ChatFormat, turns: Sequence[str], answers: Sequence[str], system: str) -> str:
    """All turns and answers, and the text that ends an answer after the last."""
    if chat.template == Template.AUTO:
        messages = [text for exchange in zip(turns, answers, strict=True) for text in exchange]
        return chat.apply_template(messages, is_prompt=False, system=system)
    is_vicuna = chat.template == Template.VICUNA
    separator, end = (" ", VICUNA_END) if is_vicuna else (RAW_SEPARATOR, _end_text(chat))
    return f"{chat.prompt_text(turns, answers[:-1], system)}{separator}{answers[-1]}{end}"


def _answer_span(
    chat: ChatFormat, text: str, turns: Sequence[str], answers: Sequence[str], system: str, end_text: str
) -> tuple[int, int]:
    """Where the last of these answers begins and ends in a dialogue's text, with `end_text` after it."""
    prompt = chat.prompt_text(turns, answers[:-1], system)
    place = text.find(answers[-1], len(prompt))
    if not text.startswith(prompt) or place < 0:
        raise UserError(
            "the chat template writes past turns of a dialogue differently than its prompts",
            "Train with model.template=raw, or another checkpoint's template.",
        )
    end = place + len(answers[-1])
    return len(prompt), end + len(end_text) * text.startswith(end_text, end)


def _end_text(chat: ChatFormat) -> str:
    return str(chat.tokenizer.eos_token or "")
