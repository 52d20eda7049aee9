"""Answer files of other harnesses scored twice: as their own script does, and with its known biases removed.

By their own script: speed is the mean over questions of reported tokens per second; a speedup is the ratio of
two such means. Spec-Bench and Kangaroo count the baseline's tokens anew from its text, less one per turn, for
which a tokenizer is needed; SWIFT takes the reported tokens on both sides. Mean accepted tokens is the mean
of all entries of ``accept_lengths``.

Corrected: reported tokens on both sides, only questions that both files answered, ratio of seconds per token
over all of them, with an interval; acceptance length is tokens per target pass with the prefill as a pass,
whether or not the file lists it as a step (`lists_prefill`). Answers that raised (their numbers are another
answer's) are left out of both. What a file does not say cannot be corrected: whether tokens after the end
token were counted, and how fast the engine is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.metrics.counts import Work
from bench.metrics.intervals import Costs, Interval
from bench.metrics.run_figures import number, speedup
from bench.metrics.speedups import faster_by_total
from bench.report.answers import Answer
from bench.show.layout import text_table

OVERALL = "overall"
_TWO_TOKENS = 2
_ROUNDING = 1e-6  # of lists that hold means


@dataclass(frozen=True, slots=True)
class Score:
    """Figures of one subtask or of all questions; None where the files do not determine one.

    Args:
        subtask: Its name, or ``overall``.
        questions: Questions of the method's file that count.
        their_speedup: By the original script, which counts the tokens of the baseline's text anew.
        swift_speedup: By SWIFT's copy of it, with reported tokens on both sides.
        speedup: Corrected.
        their_accepted: Mean accepted tokens by the original script.
        acceptance_length: Corrected.
    """

    subtask: str
    questions: int
    their_speedup: float | None
    swift_speedup: float | None
    speedup: Interval | None
    their_accepted: float | None
    acceptance_length: float | None


def scores(
    method: Sequence[Answer],
    baseline: Sequence[Answer] = (),
    count_tokens: Callable[[str], int] | None = None,
    *,
    is_prefill_listed: bool | None = None,
) -> list[Score]:
    """A score per subtask, in the file's order, and the overall one last.

    Args:
        method: Answers of the method.
        baseline: Answers of plain decoding; without them there are no speedups.
        count_tokens: Length of a text in tokens, as the original script counts it.
        is_prefill_listed: Whether the prefill is a step of the method's lists; None: see `lists_prefill`.
    """
    is_listed = lists_prefill(method) if is_prefill_listed is None else is_prefill_listed
    good = [answer for answer in method if not answer.has_failed]
    plain = [answer for answer in baseline if not answer.has_failed]
    subtasks = list(dict.fromkeys(answer.subtask for answer in good))
    groups = [(name, [answer for answer in good if answer.subtask == name]) for name in subtasks] + [
        (OVERALL, good)
    ]
    return [
        _score(
            name,
            part,
            [answer for answer in plain if name in (OVERALL, answer.subtask)],
            count_tokens,
            is_listed=is_listed,
        )
        for name, part in groups
        if part
    ]


def lists_prefill(answers: Sequence[Answer]) -> bool:
    """Whether the prefill is a step of a file's lists: no answer's list then begins with two tokens or more.

    Lists of EAGLE, Medusa and Hydra leave it out, although they add up to ``new_tokens``: the last token that
    the target picked is not put out. Where the prefill itself verifies a draft (prompt lookup and two models
    in transformers), this guess is wrong.
    """
    return not any(answer.accept_lengths and answer.accept_lengths[0] >= _TWO_TOKENS for answer in answers)


def warnings(method: Sequence[Answer], baseline: Sequence[Answer]) -> list[str]:
    """What a reader must know about these files, one sentence each."""
    notes = []
    for name, answers in (("method", method), ("baseline", baseline)):
        if failed := [answer.question_id for answer in answers if answer.has_failed]:
            notes.append(f"{name}: {len(failed)} answers raised and are left out ({', '.join(failed[:5])})")
    odd = [
        answer.question_id for answer in method if answer.accept_lengths and _unlisted_tokens(answer) is None
    ]
    if odd:
        notes.append(
            f"method: accept_lengths of {len(odd)} answers do not add up to their new_tokens "
            f"({', '.join(odd[:5])}); their acceptance length is taken from the list as it stands"
        )
    if not lists_prefill(method):
        notes.append(
            "method: lists begin with more than one token, so the prefill counts as a step that they leave "
            "out, as in files of EAGLE, Medusa and Hydra; if it verified a draft, give --prefill listed"
        )
    unpaired = {answer.question_id for answer in method} ^ {answer.question_id for answer in baseline}
    if baseline and unpaired:
        notes.append(f"{len(unpaired)} questions are in one file only; the corrected speedup leaves them out")
    return notes


def scores_text(rows: Sequence[Score], notes: Sequence[str]) -> str:
    """Both scorings as a plain table, with the notes under it."""
    header = (
        ("", "", "speedup by", "speedup by", "speedup,", "accepted by", "acceptance"),
        ("subtask", "questions", "Spec-Bench", "SWIFT", "corrected", "their script", "length, corrected"),
    )
    return "\n".join(
        [*text_table([*header, *map(_cells, rows)], align="right"), *(f"note: {note}" for note in notes)]
    )


def load_counter(model: str) -> Callable[[str], int]:
    """A function that counts the tokens of a text as the original script does, start token included.

    Raises:
        UserError: If the model cannot be found.
    """
    from bench.runtime.checkpoint_files import COMPANIONS, fetch  # loads torch
    from bench.tasks.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(fetch(model, None, COMPANIONS))
    return lambda text: len(tokenizer(text).input_ids)


def _cells(score: Score) -> tuple[str, ...]:
    return (
        score.subtask,
        str(score.questions),
        number(score.their_speedup, ".3f", "x"),
        number(score.swift_speedup, ".3f", "x"),
        speedup(score.speedup, 3),
        number(score.their_accepted, ".3f"),
        number(score.acceptance_length, ".3f"),
    )


def _score(
    name: str,
    method: Sequence[Answer],
    baseline: Sequence[Answer],
    count_tokens: Callable[[str], int] | None,
    *,
    is_listed: bool,
) -> Score:
    speed = _mean([sum(answer.new_tokens) / sum(answer.wall_s) for answer in method])
    swift = _mean([sum(answer.new_tokens) / sum(answer.wall_s) for answer in baseline])
    theirs = (
        _mean([_recounted(answer, count_tokens) / sum(answer.wall_s) for answer in baseline])
        if count_tokens
        else None
    )
    return Score(
        subtask=name,
        questions=len(method),
        their_speedup=speed / theirs if speed and theirs else None,
        swift_speedup=speed / swift if speed and swift else None,
        speedup=_paired(method, baseline),
        their_accepted=_mean([float(length) for answer in method for length in answer.accept_lengths]),
        acceptance_length=_acceptance_length(method, is_listed=is_listed),
    )


def _recounted(answer: Answer, count_tokens: Callable[[str], int]) -> int:
    return sum(count_tokens(text) - 1 for text in answer.texts)


def _paired(method: Sequence[Answer], baseline: Sequence[Answer]) -> Interval | None:
    by_id = {answer.question_id: answer for answer in baseline}
    pairs = [(by_id[answer.question_id], answer) for answer in method if answer.question_id in by_id]
    if not pairs:
        return None
    plain, ours = ([_work(pair[side]) for pair in pairs] for side in (0, 1))
    return faster_by_total(Costs.by_question({"baseline": plain, "method": ours}), "method", "baseline")


def _work(answer: Answer) -> Work:
    return Work(sum(answer.new_tokens), sum(answer.wall_s))


def _acceptance_length(answers: Sequence[Answer], *, is_listed: bool) -> float | None:
    """Tokens per target pass, the prefill being a pass, whichever way the file counts it."""
    passes = tokens = 0.0
    for answer in answers:
        if answer.accept_lengths:
            unlisted = _unlisted_tokens(answer) or 0
            passes += len(answer.accept_lengths) + (unlisted or (0 if is_listed else len(answer.new_tokens)))
            tokens += sum(answer.accept_lengths) + unlisted
    return tokens / passes if passes else None


def _unlisted_tokens(answer: Answer) -> int | None:
    """Tokens of prefills that the list of steps leaves out, one per turn or none; None if it fits neither."""
    missing = sum(answer.new_tokens) - sum(answer.accept_lengths)
    counts = (0, len(answer.new_tokens))
    return next((count for count in counts if abs(missing - count) < _ROUNDING), None)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
