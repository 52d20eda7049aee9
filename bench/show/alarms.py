"""What a reader must know before the numbers, each with what to do about it.

The tables that a run prints and the board say the same sentences: an invalid run, a busy machine, few
questions, output that is not what was promised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.metrics.arena import Contest
from bench.metrics.paired import few
from bench.metrics.run_figures import Summary
from bench.records.model import Run, Verdict

BUSY = 1.15
"""Wall time over CPU time of the decoding thread, above which other work held the processor."""
AGAIN = "end other programs, then measure anew into another folder: results_dir=results/again"
"""A complete run is never measured a second time: the same command only prints it again."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that a reader must know.

    Args:
        name: In capitals, such as ``BUSY MACHINE``.
        what: What is the matter, in words.
        fix: What to do about it.
    """

    name: str
    what: str
    fix: str

    @property
    def lines(self) -> tuple[str, str]:
        """The alarm as two lines of a table's heading."""
        return f"{self.name}: {self.what}", f"  fix: {self.fix}"


def run_alarms(summary: Summary) -> list[Alarm]:
    """The alarms of a run of one method."""
    return [*_validity(summary), *broken_promises({"": summary}), *machine_alarms([summary]), *_few(summary)]


def arena_alarms(contest: Contest, methods: Mapping[str, Summary]) -> list[Alarm]:
    """The alarms of a run of several methods.

    Args:
        contest: How the lossless methods compare.
        methods: Figures by label.
    """
    alarms = list(broken_promises(methods))
    if contest.reason:
        fix = "ask more questions (task.limit=null) or add sessions (measure.sessions=3), on a quiet machine"
        alarms.insert(0, Alarm("NOT RANKED", contest.reason, fix))
    if contest.moved is not None and contest.moved.warning:
        alarms.append(Alarm("UNSTEADY MACHINE", contest.moved.warning, AGAIN))
    alarms += machine_alarms(list(methods.values()))
    return [*alarms, *_few(max(methods.values(), key=lambda summary: summary.speedup.prompts))]


def machine_alarms(summaries: Sequence[Summary]) -> Iterator[Alarm]:
    """Other work on the processor or on the GPU while these were measured."""
    if any(_is_gpu_shared(summary.run) for summary in summaries):
        fix = f"nvidia-smi lists the other processes; {AGAIN}"
        yield Alarm("BUSY MACHINE", "other work was on the GPU when the run started", fix)
    if late := max((_late_recordings(summary.run) for summary in summaries), default=0):
        what = f"{late} passes were recorded while answers were timed: those answers took longer"
        fix = "measure.repeats=3 lets them weigh less; runtime.tier=static records none"
        yield Alarm("LATE RECORDINGS", what, fix)
    waits = [wait for summary in summaries if not is_on_gpu(summary.run) for wait in _waits(summary)]
    if max(waits, default=0.0) > BUSY:
        held = f"the decoding thread took {max(waits):.2f} times as long as it computed"
        yield Alarm("BUSY MACHINE", f"{held}: other work held the processor", AGAIN)


def broken_promises(methods: Mapping[str, Summary]) -> Iterator[Alarm]:
    """Outputs that a method promised to be the model's own, and that are not; samples that failed."""
    for label, summary in methods.items():
        whose = f" of {label}" if label else ""
        if not summary.is_lossy and (count := summary.verdicts[Verdict.VIOLATION]):
            what = f"{count} output(s){whose} neither the baseline's nor explained by a numerical tie"
            fix = f"its speed is worth nothing; see where: python -m bench.prove method={summary.run.method}"
            yield Alarm("VIOLATION", what, fix)
        if label and summary.failures:
            first = next(iter(summary.failures))
            what = f"{sum(summary.failures.values())} sample(s) of {label} or its baseline ({first})"
            yield Alarm("FAILED", what, "the same command measures them once more")


def is_on_gpu(run: Run) -> bool:
    """Whether a GPU decoded."""
    return any(attempt.get("gpu") for attempt in run.attempts)


def alarm_lines(alarms: Iterable[Alarm]) -> list[str]:
    """The alarms as lines of a table's heading."""
    return [line for alarm in alarms for line in alarm.lines]


def _validity(summary: Summary) -> Iterator[Alarm]:
    if summary.is_valid is False:
        what = "the baseline differs from itself (A/A below); do not use these speeds"
        yield Alarm("INVALID", what, AGAIN)
    if summary.is_valid is None and summary.speedup.prompts:
        what = "nothing says how far the baseline differs from itself"
        yield Alarm("NO CONTROL", what, "ask 2 questions or more, twice: task.limit=40 measure.repeats=2")


def _few(summary: Summary) -> Iterator[Alarm]:
    asked = summary.speedup.prompts
    if not few(asked):
        return
    what = f"only {asked} complete; other questions may give another result, intervals are wide"
    is_part = bool(summary.run.labels.get("partial"))
    fix = "task.limit=null asks all of this task's" if is_part else "choose a task with more of them"
    yield Alarm("FEW QUESTIONS", what, fix)


def _is_gpu_shared(run: Run) -> bool:
    return any(bool(attempt.get("gpu_shared")) for attempt in run.attempts)


def _late_recordings(run: Run) -> int:
    """Passes that the graph tier recorded after the first measured turn."""
    tallies = [attempt.get("graphs") or {} for attempt in run.attempts]
    return sum(int(tally.get("recorded_while_measuring", 0)) for tally in tallies)


def _waits(summary: Summary) -> list[float]:
    own = None if summary.experts else summary.method.contention  # loading experts is waiting, not other work
    arms = (summary.baseline.contention, own)
    return [wait for wait in arms if wait is not None]
