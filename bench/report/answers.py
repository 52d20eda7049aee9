"""Answer files of Spec-Bench's harness, written and read: JSON lines, one per question.

A line holds ``question_id``, ``category``, ``answer_id``, ``model_id``, ``tstamp`` and ``choices``; a
choice holds ``turns``, ``decoding_steps`` (older forks: ``idxs``), ``new_tokens`` and ``wall_time`` per
turn, and ``accept_lengths`` per step, all turns in one list. Later lines replace earlier ones of the same
question.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.records.model import Arm, Sample
from bench.report.entries import StoredRun
from bench.tasks.spec_bench import MT_BENCH_CATEGORIES

MT_BENCH = "mt_bench"
FAILED_TEXT = "ERROR"
"""What the original harness writes for an answer that raised; its numbers are the previous answer's."""
_FIRST_MT_BENCH_ID, _PER_CATEGORY = 81, 10


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
        accept_lengths: Tokens per step, turns in one list; empty where the file has none.
    """

    question_id: str
    subtask: str
    texts: tuple[str, ...]
    steps: tuple[int, ...]
    new_tokens: tuple[int, ...]
    wall_s: tuple[float, ...]
    accept_lengths: tuple[int, ...]

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


def read_answers(path: Path) -> list[Answer]:
    """The answers of a file, the last one per question; only the first choice counts, as in the original.

    Raises:
        UserError: If the file cannot be read or a line is no answer, with its number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read: {error}", "give an answer file of Spec-Bench's harness"
        ) from error
    answers: dict[str, Answer] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            answer = _parse(line, path, number)
            answers[answer.question_id] = answer
    if not answers:
        raise UserError(f"{path} holds no answers", "give an answer file of Spec-Bench's harness")
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
        "question_id": int(prompt) if prompt.isdecimal() else prompt,
        "category": _category(prompt, turns[0].subtask),
        "answer_id": f"{model_id}-{prompt}",
        "model_id": model_id,
        "tstamp": 0.0,
        "choices": [choice],
    }


def _category(prompt: str, subtask: str) -> str:
    """The question's category in Spec-Bench; MT-bench questions of other files get the first category."""
    if subtask != MT_BENCH:
        return subtask
    place = (int(prompt) - _FIRST_MT_BENCH_ID) // _PER_CATEGORY if prompt.isdecimal() else 0
    return MT_BENCH_CATEGORIES[place] if 0 <= place < len(MT_BENCH_CATEGORIES) else MT_BENCH_CATEGORIES[0]


def _write(path: Path, lines: Iterable[str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error}", "choose another folder with --output"
        ) from error


def _parse(line: str, path: Path, number: int) -> Answer:
    try:
        record: Mapping[str, Any] = json.loads(line)
        choice = record["choices"][0]
        steps = choice["decoding_steps"] if "decoding_steps" in choice else choice["idxs"]
        answer = Answer(
            question_id=str(record["question_id"]),
            subtask=MT_BENCH if (category := str(record["category"])) in MT_BENCH_CATEGORIES else category,
            texts=tuple(str(value) for value in choice["turns"]),
            steps=tuple(int(value) for value in steps),
            new_tokens=tuple(int(value) for value in choice["new_tokens"]),
            wall_s=tuple(float(value) for value in choice["wall_time"]),
            accept_lengths=tuple(int(value) for value in choice.get("accept_lengths", ())),
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{path}, line {number} is no answer: {error!r}", "give an answer file of Spec-Bench's harness"
        ) from error
    if not len(answer.texts) == len(answer.new_tokens) == len(answer.wall_s):
        raise UserError(
            f"{path}, line {number}: turns, new_tokens and wall_time differ in length", "mend that line"
        )
    return answer
