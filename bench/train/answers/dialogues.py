"""Lets an engine answer batches of requests, turn after turn, and reports how fast that goes.

Prompts of a batch are of similar length: padding is wasted work, and CTranslate2 reads what exceeds the
shortest prompt of a batch token by token. Batches depend on the requests and the settings only, so that a
restart forms the same ones. Their order is random, so that an unfinished file holds prompts of all lengths.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.records.model import Message, Prompt
from bench.show.waiting import Wait
from bench.tasks.chat import ChatFormat
from bench.tasks.messages import said
from bench.tasks.prompt_files.conversation import ASSISTANT, SYSTEM
from bench.train.answers.answer_file import AnswerFile
from bench.train.answers.engines import Engine

log = logging.getLogger(__name__)
EXCESS = 0.25
"""Most tokens by which prompts of a batch differ, as a share of ``max_new_tokens``: CTranslate2 spends a pass
on each of them, as on an answer's token."""


@dataclass(frozen=True, slots=True)
class Answering:
    """What turns requests into rows of the file.

    Args:
        engine: The model.
        chat: Its chat format.
        ends: Tokens that end an answer.
        context: Most tokens of a prompt with its answer.
        max_new_tokens: Most tokens of an answer.
        sampling: Name of the sampling, for the rows.
        seed: Of the sampling.
    """

    engine: Engine
    chat: ChatFormat
    ends: frozenset[int]
    context: int
    max_new_tokens: int
    sampling: str
    seed: int

    def answer(self, batch: Sequence[Prompt]) -> list[dict[str, Any]]:
        """Answer every turn of some requests; a turn that is too long ends its dialogue with an error."""
        dialogues = [_Dialogue(self._with_system(request)) for request in batch]
        for turn in range(max(len(request.turns) for request in batch)):
            prompts = {}
            for place, dialogue in enumerate(dialogues):
                ids = self._prompt(dialogue, turn)
                if ids is not None:
                    prompts[place] = ids
            if prompts:
                seed = _seed(self.seed, batch[0].id, turn)
                answers = self.engine.answer(list(prompts.values()), seed)
                for (place, ids), answer in zip(prompts.items(), answers, strict=True):
                    dialogues[place].add(len(ids), answer, self.chat.text(answer), self.ends)
        return [dialogue.row(self.sampling) for dialogue in dialogues]

    def _with_system(self, request: Prompt) -> Prompt:
        """The request with the system message that it is asked with, so that its row holds that."""
        return replace(request, system=request.system or self.chat.system)

    def first_length(self, request: Prompt) -> int:
        """Tokens of the first prompt."""
        return len(self.chat.ids_of(request))

    def _prompt(self, dialogue: _Dialogue, turn: int) -> list[int] | None:
        """The ids of a turn; None if the dialogue has no such turn, or has ended with an error."""
        request = dialogue.request
        if dialogue.error or turn >= len(request.turns):
            return None
        ids = self.chat.ids_of(request, dialogue.answers)
        if len(ids) + self.max_new_tokens > self.context:
            dialogue.error = (
                f"turn {turn + 1}: a prompt of {len(ids)} tokens and {self.max_new_tokens} more exceed the "
                f"context of {self.context}"
            )
            log.warning("skipped %s: %s", request.id, dialogue.error)
            return None
        return ids


@dataclass(slots=True)
class _Dialogue:
    """A request and what was answered so far."""

    request: Prompt
    answers: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    answer_tokens: int = 0
    is_cut: bool = False
    error: str = ""

    def add(self, prompt_tokens: int, ids: Sequence[int], text: str, ends: frozenset[int]) -> None:
        self.answers.append(text.strip())
        self.prompt_tokens = prompt_tokens
        self.answer_tokens += len(ids)
        self.is_cut |= not ids or ids[-1] not in ends

    def row(self, sampling: str) -> dict[str, Any]:
        request = self.request
        return {
            "id": request.id,
            **({"category": request.subtask} if request.subtask else {}),
            "sampling": sampling,
            "ended": not (self.is_cut or self.error),
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
            **({"error": self.error} if self.error else {}),
            **({"tools": list(request.tools)} if request.tools else {}),
            "messages": [
                {"role": message.role, "content": message.text, **message.extra}
                for message in self._messages()
            ],
        }

    def _messages(self) -> list[Message]:
        """All that was said; after an error, up to the turn that was not answered."""
        request, answers = self.request, self.answers
        system = [Message(SYSTEM, request.system)] if request.system else []
        if self.error:
            return [*system, *said(request.turns[: len(answers) + 1], answers, request.opening)]
        asked = said(request.turns[: len(answers)], answers[:-1], request.opening)
        return [*system, *asked, Message(ASSISTANT, answers[-1])]


@dataclass
class Tally:
    """What this process did.

    Args:
        rows: Dialogues written.
        tokens: Answer tokens.
        cut: Dialogues with an answer that reached ``max_new_tokens``, or that an error ended.
        errors: Dialogues that an error ended.
        seconds: Time of generating.
    """

    rows: int = 0
    tokens: int = 0
    cut: int = 0
    errors: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Answer tokens per second, reading of prompts included."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def add(self, rows: Sequence[Mapping[str, Any]], seconds: float) -> None:
        """Count the rows of a batch."""
        self.rows += len(rows)
        self.tokens += sum(row["answer_tokens"] for row in rows)
        self.cut += sum(not row["ended"] for row in rows)
        self.errors += sum("error" in row for row in rows)
        self.seconds += seconds


def answer_all(answering: Answering, requests: Sequence[Prompt], size: int, file: AnswerFile) -> Tally:
    """Answer what the file lacks, batch by batch.

    Args:
        answering: Answers a batch.
        requests: All requests, with those that the file has.
        size: Requests per batch.
        file: Where the rows go.
    """
    tally, missing = Tally(), {request.id for request in file.missing(requests)}
    with Wait("answering", len(requests), "prompt", done=len(requests) - len(missing)) as wait:
        for whole in batches(requests, size, answering):
            batch = [request for request in whole if request.id in missing]
            if not batch:
                continue
            start = time.perf_counter()
            rows = answering.answer(batch)
            file.append(rows)
            tally.add(rows, time.perf_counter() - start)
            wait.add(len(rows))
            wait.tell(f"{tally.tokens_per_s:.0f} tokens/s")
    return tally


def batches(requests: Sequence[Prompt], size: int, answering: Answering) -> list[list[Prompt]]:
    """Requests in groups of at most `size`, of similar lengths, in random order.

    A group ends early where the next prompt exceeds the first by more than `EXCESS` of an answer's length.
    """
    lengths = {request.id: answering.first_length(request) for request in requests}
    groups: list[list[Prompt]] = []
    for request in sorted(requests, key=lambda request: lengths[request.id]):
        group = groups[-1] if groups else []
        excess = lengths[request.id] - lengths[group[0].id] if group else 0
        if not group or len(group) == size or excess > EXCESS * answering.max_new_tokens:
            groups.append([])
        groups[-1].append(request)
    random.Random(0).shuffle(groups)
    return groups


def _seed(seed: int, first: str, turn: int) -> int:
    """A seed of its own for every batch and turn, the same after a restart."""
    return int.from_bytes(hashlib.sha256(f"{seed} {first} {turn}".encode()).digest()[:4], "big")
