"""Answer files of Spec-Bench's harness, written and read: JSON lines, one per question.

A line holds ``question_id``, ``category``, ``answer_id``, ``model_id``, ``tstamp`` and ``choices``; a
choice holds ``turns``, ``decoding_steps`` (older forks: ``idxs``), ``new_tokens`` and ``wall_time`` per
turn, and ``accept_lengths`` per step, all turns in one list. Later lines replace earlier ones of the same
question.

SWIFT's files have neither ids nor categories: their questions are numbered by line, in one subtask. There
``turns`` is the text of the only turn, and the last line holds figures of the whole file, which are not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.compose.schema import NAME
from bench.errors import UserError
from bench.records.files import write_text
from bench.records.model import Arm, Sample
from bench.report.stored_runs import StoredRun
from bench.tasks.prompt_files.faults import SURROGATE
from bench.tasks.spec_bench import MT_BENCH_CATEGORIES

MT_BENCH = "mt_bench"
FAILED_TEXT = "ERROR"
"""What the original harness writes for an answer that raised; its numbers are the previous answer's."""
OTHER = "all"
"""Subtask of answers without a category."""
_FIRST_MT_BENCH_ID, _PER_CATEGORY = 81, 10
_SWIFT_SUMMARY = "Mean accepted tokens"
_MOST, _LONGEST_NUMBER = 1e15, 16
_FIX = "give an answer file of Spec-Bench's harness, or mend the line"


class _LineError(ValueError):
    """The fault of one line; the caller adds the file and the line number."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One question's answer as such a file holds it.

    Args:
        question_id: As in the file.
        subtask: Its category, with MT-bench's eight put together.
        texts: Answer per turn.
        steps: Decoding steps per turn.
        new_tokens: Tokens per turn, as the method reported them.
        wall_s: Seconds per turn, prefill included.
        accept_lengths: Tokens per step, turns in one list; empty where the file has none. Whole numbers,
            unless the file holds means.
    """

    question_id: str
    subtask: str
    texts: tuple[str, ...]
    steps: tuple[int, ...]
    new_tokens: tuple[int, ...]
    wall_s: tuple[float, ...]
    accept_lengths: tuple[float, ...]

    @property
    def has_failed(self) -> bool:
        """Whether a turn raised in the original harness."""
        return FAILED_TEXT in self.texts


def write_answers(stored: StoredRun, folder: Path) -> list[Path]:
    """Write a run as answer files, for each repeat ``run_1/<method>.jsonl`` and ``run_1/vanilla.jsonl``.

    Only questions that both arms answered in full in every repeat are written; the eager arm, which decodes
    one repeat only, is left out. The first token of a turn counts as a step of one token, so that the mean of
    ``accept_lengths`` is `bench.metrics.counts.acceptance_length`.

    Raises:
        UserError: If there is no such question, or the folder cannot be written.
    """
    if not re.fullmatch(NAME, stored.run.method):
        raise UserError(
            f"method {stored.run.method!r} of {stored.run.run_id} cannot be part of a file name",
            "restore the run's run.json",
        )
    both = [sample for sample in stored.samples if sample.arm is not Arm.EAGER]
    failed = {sample.prompt_id for sample in both if sample.error is not None}
    samples = [sample for sample in both if sample.prompt_id not in failed]
    if not samples:
        raise UserError(f"{stored.run.run_id} holds no complete answer", "let the run finish")
    names = {Arm.BASELINE: "vanilla", Arm.METHOD: stored.run.method}
    paths = []
    for repeat in sorted({sample.repeat for sample in samples}):
        for arm in sorted({sample.arm for sample in samples}):
            part = [sample for sample in samples if sample.arm is arm and sample.repeat == repeat]
            path = folder / f"run_{repeat + 1}" / f"{names[arm]}.jsonl"
            _write(path, _lines(part, f"{stored.run.model}-{names[arm]}"))
            paths.append(path)
    return paths


def text_of(path: Path, fix: str) -> str:
    """The text of a regular file, without its byte order mark.

    Raises:
        UserError: If it cannot be read, with this fix.
    """
    if path.exists() and not path.is_file():  # reading a pipe or a device may never end
        raise UserError(f"{path} is not a regular file", fix)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", fix) from error


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file, the last one per question; only the first choice counts, as in the original.

    Raises:
        UserError: If the file cannot be read or a line is no answer, with its number and the field.
    """
    text = text_of(path, _FIX)
    answers: dict[str, Answer] = {}
    # not splitlines(), which would also split at U+2028 inside a JSON string
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                answer = _answer(line, number)
            except _LineError as error:
                raise UserError(f"{path}, line {number} is no answer: {error}", _FIX) from error
            if answer is not None:
                answers[answer.question_id] = answer
    if not answers:
        raise UserError(f"{path} holds no answers", _FIX)
    return list(answers.values())


def _lines(samples: Sequence[Sample], model_id: str) -> Iterable[str]:
    questions: dict[str, list[Sample]] = {}
    for sample in samples:
        questions.setdefault(sample.prompt_id, []).append(sample)
    for prompt, turns in questions.items():
        turns.sort(key=lambda sample: sample.turn)
        yield json.dumps(_line(prompt, turns, model_id), ensure_ascii=False)


def _line(prompt: str, turns: Sequence[Sample], model_id: str) -> dict[str, Any]:
    timings = [sample.timing for sample in turns if sample.timing]
    choice = {
        "index": 0,
        "turns": [sample.text for sample in turns],
        "decoding_steps": [1 + len(sample.rounds) for sample in turns],
        "new_tokens": [len(sample.ids) for sample in turns],
        "wall_time": [timing.prefill_s + timing.decode_s for timing in timings],
        "accept_lengths": [
            length for sample in turns for length in (1, *(round_.emitted for round_ in sample.rounds))
        ],
    }
    return {
        "question_id": int(prompt) if _is_number(prompt) else prompt,
        "category": _category(prompt, turns[0].subtask),
        "answer_id": f"{model_id}-{prompt}",
        "model_id": model_id,
        "tstamp": 0.0,
        "choices": [choice],
    }


def _is_number(prompt: str) -> bool:
    """Whether an id is a number as JSON writes it: 7, but not 007, which would become the same."""
    return (
        prompt.isascii()
        and prompt.isdecimal()
        and len(prompt) < _LONGEST_NUMBER
        and str(int(prompt)) == prompt
    )


def _category(prompt: str, subtask: str) -> str:
    """The question's category in Spec-Bench; MT-bench questions of other files get the first category."""
    if subtask != MT_BENCH:
        return subtask
    place = (int(prompt) - _FIRST_MT_BENCH_ID) // _PER_CATEGORY if _is_number(prompt) else 0
    return MT_BENCH_CATEGORIES[place] if 0 <= place < len(MT_BENCH_CATEGORIES) else MT_BENCH_CATEGORIES[0]


def _write(path: Path, lines: Iterable[str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error}", "choose another folder with --output"
        ) from error


def _answer(line: str, number: int) -> Answer | None:
    """The answer of one line; None for the summary that ends a file of SWIFT's.

    Raises:
        _LineError: If it is none, naming the field.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _LineError(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise _LineError("it is no JSON object")
    if "choices" not in record and _SWIFT_SUMMARY in record:
        return None
    choice = _choice(record)
    answer = Answer(
        question_id=_name(record, "question_id", f"line {number}"),
        subtask=MT_BENCH if (name := _name(record, "category", OTHER)) in MT_BENCH_CATEGORIES else name,
        texts=_texts(choice),
        steps=tuple(map(int, _numbers(choice, "decoding_steps" if "decoding_steps" in choice else "idxs"))),
        new_tokens=tuple(map(int, _numbers(choice, "new_tokens"))),
        wall_s=_numbers(choice, "wall_time", is_whole=False),
        accept_lengths=_numbers(choice, "accept_lengths", is_whole=False)
        if "accept_lengths" in choice
        else (),
    )
    if not len(answer.texts) == len(answer.new_tokens) == len(answer.wall_s) > 0:
        raise _LineError("turns, new_tokens and wall_time differ in length, or are empty")
    if not answer.has_failed:
        for key, values in (("wall_time", answer.wall_s), ("new_tokens", answer.new_tokens)):
            if not all(values):
                raise _LineError(f"{key} must be above 0, got {list(values)}")
    return answer


def _choice(record: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = record.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise _LineError("choices must be a list of objects")
    return choices[0]


def _name(record: Mapping[str, Any], key: str, default: str) -> str:
    """An id or a category as text; `default` where the line has none."""
    value = record.get(key, default)
    if isinstance(value, bool) or not isinstance(value, str | int) or SURROGATE.search(str(value)):
        raise _LineError(f"{key} must be text or a whole number, got {value!r}")
    return str(value)


def _texts(choice: Mapping[str, Any]) -> tuple[str, ...]:
    turns = choice.get("turns")
    texts = [turns] if isinstance(turns, str) else turns
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _LineError(f"turns must be a list of texts, got {turns!r}")
    return tuple(texts)


def _numbers(choice: Mapping[str, Any], key: str, *, is_whole: bool = True) -> tuple[float, ...]:
    """Numbers that are finite and not negative, and whole where they count."""
    values = choice.get(key)
    if not isinstance(values, list):
        raise _LineError(f"{key} must be a list of numbers, got {values!r}")
    for value in values:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= _MOST or (is_whole and value != int(value)):
            kind = "whole numbers" if is_whole else "numbers"
            raise _LineError(f"{key} must hold {kind} of at least 0, got {value!r}")
    return tuple(values)
