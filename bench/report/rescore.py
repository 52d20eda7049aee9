"""Answer files of other harnesses scored twice: as their own script does, and with its known biases removed.

As theirs: speed is the mean over questions of reported tokens per second; a speedup is the ratio of two such
means. Spec-Bench and Kangaroo count the baseline's tokens anew from its text, less one per turn, for which a
tokenizer is needed; SWIFT takes the reported tokens on both sides. Mean accepted tokens is the mean of all
entries of ``accept_lengths``.

Corrected: reported tokens on both sides, only questions that both files answered, ratio of seconds per token
over all of them, with an interval; acceptance length is tokens per target pass with the prefill as a pass,
whether or not the file counts it as a step. Answers that raised (their numbers are another answer's) are
left out of both. What a file does not tell cannot be corrected: tokens counted behind the end token, the
engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.metrics.intervals import Interval, Totals, paired_speedup
from bench.report.answers import Answer

OVERALL = "overall"


@dataclass(frozen=True, slots=True)
class Score:
    """Figures of one subtask or of all questions; None where the files do not determine one.

    Args:
        subtask: Its name, or ``overall``.
        questions: Questions of the method's file that count.
        their_speedup: By the original script, with the baseline's text counted anew.
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
    resamples: int = 10_000,
) -> list[Score]:
    """A score per subtask, in the file's order, and the overall one last.

    Args:
        method: Answers of the method.
        baseline: Answers of plain decoding; without them there are no speedups.
        count_tokens: Length of a text in tokens, as the original script counts it.
        resamples: Of the bootstrap.
    """
    good = [one for one in method if not one.has_failed]
    plain = [one for one in baseline if not one.has_failed]
    subtasks = list(dict.fromkeys(one.subtask for one in good))
    groups = [(name, [one for one in good if one.subtask == name]) for name in subtasks] + [(OVERALL, good)]
    return [
        _score(name, part, [one for one in plain if name in (OVERALL, one.subtask)], count_tokens, resamples)
        for name, part in groups
        if part
    ]


def warnings(method: Sequence[Answer], baseline: Sequence[Answer]) -> list[str]:
    """What a reader must know about these files, one line each."""
    found = []
    for name, answers in (("method", method), ("baseline", baseline)):
        if failed := [one.question_id for one in answers if one.has_failed]:
            found.append(f"{name}: {len(failed)} answers raised and are left out ({', '.join(failed[:5])})")
    odd = [one.question_id for one in method if one.accept_lengths and _prefill_passes(one) is None]
    if odd:
        found.append(
            f"method: accept_lengths of {len(odd)} answers do not add up to their new_tokens "
            f"({', '.join(odd[:5])}); their acceptance length is left as it is"
        )
    apart = {one.question_id for one in method} ^ {one.question_id for one in baseline}
    if baseline and apart:
        found.append(f"{len(apart)} questions are in one file only; the corrected speedup leaves them out")
    return found


def render(found: Sequence[Score], notes: Sequence[str]) -> str:
    """Both scorings as a plain table, at most 100 columns."""
    head = f"{'':<24}{'speedup':^44}{'acceptance length':^22}".rstrip()
    columns = _row("subtask", "n", "Spec-Bench", "SWIFT", "corrected", "theirs", "corrected")
    return "\n".join([head, columns, *map(_score_row, found), *(f"note: {one}" for one in notes)])


def _score_row(one: Score) -> str:
    speedups = (_text(one.their_speedup, "x"), _text(one.swift_speedup, "x"), _interval(one.speedup))
    lengths = (_text(one.their_accepted), _text(one.acceptance_length))
    return _row(one.subtask, str(one.questions), *speedups, *lengths)


def _row(first: str, *cells: str) -> str:
    widths = (6, 11, 8, 25, 10, 12)
    return f"{first:<18}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _score(
    name: str,
    method: Sequence[Answer],
    baseline: Sequence[Answer],
    count_tokens: Callable[[str], int] | None,
    resamples: int,
) -> Score:
    speed = _mean([sum(one.new_tokens) / sum(one.wall_s) for one in method])
    swift = _mean([sum(one.new_tokens) / sum(one.wall_s) for one in baseline])
    theirs = (
        _mean([_recounted(one, count_tokens) / sum(one.wall_s) for one in baseline]) if count_tokens else None
    )
    return Score(
        subtask=name,
        questions=len(method),
        their_speedup=speed / theirs if speed and theirs else None,
        swift_speedup=speed / swift if speed and swift else None,
        speedup=_paired(method, baseline, resamples),
        their_accepted=_mean([float(length) for one in method for length in one.accept_lengths]),
        acceptance_length=_acceptance_length(method),
    )


def _recounted(answer: Answer, count_tokens: Callable[[str], int]) -> int:
    return sum(count_tokens(text) - 1 for text in answer.texts)


def _paired(method: Sequence[Answer], baseline: Sequence[Answer], resamples: int) -> Interval | None:
    by_id = {one.question_id: one for one in baseline}
    pairs = [(by_id[one.question_id], one) for one in method if one.question_id in by_id]
    if not pairs:
        return None
    arms = [_totals([pair[side] for pair in pairs]) for side in (0, 1)]
    return paired_speedup(arms[0], arms[1], resamples=resamples)


def _totals(answers: Sequence[Answer]) -> Totals:
    return Totals(
        np.array([sum(one.wall_s) for one in answers], dtype=np.float64),
        np.array([sum(one.new_tokens) for one in answers], dtype=np.float64),
    )


def _acceptance_length(answers: Sequence[Answer]) -> float | None:
    """Tokens per target pass, the prefill being a pass of one token, whichever way the file counts it."""
    told = [one for one in answers if one.accept_lengths]
    passes = sum(len(one.accept_lengths) + (_prefill_passes(one) or 0) for one in told)
    tokens = sum(sum(one.accept_lengths) + (_prefill_passes(one) or 0) for one in told)
    return tokens / passes if passes else None


def _prefill_passes(answer: Answer) -> int | None:
    """Prefills that the list of steps leaves out; None if its sum fits neither way of counting."""
    missing = sum(answer.new_tokens) - sum(answer.accept_lengths)
    return missing if missing in (0, len(answer.new_tokens)) else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _text(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.3f}{unit}"


def _interval(one: Interval | None) -> str:
    if one is None:
        return "-"
    return f"{one.estimate:.3f}x" + (f" [{one.low:.3f}, {one.high:.3f}]" if one.is_known else "")
