"""Real conversations to train modules on, such as ShareGPT's, in the model's own chat format.

Rows are read from where the data is published or from a local file, in any format of
`bench.tasks.prompt_files`, among them ShareGPT's and OpenAI's, which `bench.train.answers` writes. Only text
is kept on disk: the frozen model computes the hidden rows during training.

Shapes: T tokens of a dialogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bench.compose.components import require_least
from bench.errors import UserError
from bench.records.model import Message
from bench.tasks.chat import RAW_SEPARATOR, VICUNA_END, ChatFormat, Template
from bench.tasks.messages import said
from bench.tasks.prompt_files.conversation import ASSISTANT, USER, Conversation
from bench.tasks.prompt_files.faults import NumberedRow, at_row
from bench.tasks.prompt_files.files import PromptFile, read_rows
from bench.tasks.prompt_files.reader import conversation_of
from bench.tasks.rows import PublishedRows


@dataclass(frozen=True, slots=True)
class Conversations:
    """A set of conversations.

    Args:
        source: Where it is published; None if there is only a local file.
        path: Local file or folder in its place.
        draw: Number of conversations drawn at random; None takes all.
        seed: Seed of that draw. The order in training follows the recipe's seed.
        keeps_system: Whether the system message at the start of a conversation is part of its prompts;
            otherwise it is left out.
        column: The key or column that holds a conversation; None finds it by the usual names.
    """

    source: PublishedRows | None = None
    path: str | None = None
    draw: int | None = None
    seed: int = 42
    keeps_system: bool = False
    column: str | None = None

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

    def require_readable(self) -> None:
        """Read the local file, if there is one, so that a mistake in it shows before a training begins.

        Raises:
            UserError: If it cannot be read, or a row is malformed.
        """
        if self.path is not None:
            for row in self._rows():
                conversation_of(row, self._file)

    def _chosen(self) -> list[NumberedRow]:
        rows = self._rows()
        return [
            rows[int(place)] for place in np.random.default_rng(self.seed).permutation(len(rows))[: self.draw]
        ]

    def _dialogues(
        self, chat: ChatFormat, rows: Sequence[NumberedRow]
    ) -> Iterator[tuple[list[int], list[bool]]]:
        count = 0
        for row in rows:
            conversation = conversation_of(row, self._file)
            turns, answers = exchanges(conversation)
            if turns:
                count += 1
                system = (conversation.system or "") if self.keeps_system else ""
                is_cut = row.fields.get("ended") is False
                yield dialogue_ids(chat, turns, answers, system, is_cut=is_cut)
        if not count:
            raise UserError(
                f"{self.location} holds no conversation of a question and an answer",
                'Write rows such as {"conversations": [{"from": "human", "value": "Hi"}, '
                '{"from": "gpt", "value": "Hello."}]}.',
            )

    @property
    def _file(self) -> PromptFile:
        return PromptFile(self.location, "data.path", column=self.column, has_settings=True)

    def _rows(self) -> Sequence[NumberedRow]:
        if self.path is not None:
            return read_rows(self._file).rows
        assert self.source is not None  # see `__post_init__`
        rows = self.source.fetch(self.source.split)
        return [NumberedRow(n, at_row(self.location, n), row) for n, row in enumerate(rows, start=1)]


def exchanges(conversation: Conversation) -> tuple[list[str], list[str]]:
    """Questions and their answers; messages that are not a question with its answer are left out."""
    pairs = [
        (question.text, answer.text.strip())
        for question, answer in pairwise(conversation.messages)
        if (question.role, answer.role) == (USER, ASSISTANT) and question.text.strip() and answer.text.strip()
    ]
    return [question for question, _ in pairs], [answer for _, answer in pairs]


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
        messages = [*said(turns, answers[:-1]), Message(ASSISTANT, answers[-1])]
        return chat.text_of(messages, system, is_prompt=False)
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
