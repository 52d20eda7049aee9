"""A section of the board in words: where it was measured, what came of it, and what to doubt."""

from __future__ import annotations

from bench.metrics.intervals import Interval
from bench.report.board import Ranked, Section
from bench.show.alarms import Alarm, arena_alarms, machine_alarms, run_alarms

CPU_NAME = " Processor"
"""A word of processors' names that says nothing."""
EMBEDDED = Alarm(
    "MACHINERY ONLY",
    "the built-in questions suit the embedded model, whose text is very regular and easy to draft: these "
    "speedups say nothing about a method on a real model",
    "measure a real one: model=smollm2",
)


def place_words(section: Section) -> str:
    """Model, device, precision and questions: what every figure must name."""
    setting = section.setting
    return f"{setting.model} on {_device(section)}, {setting.dtype}; {section.questions}"


def short_title(section: Section) -> str:
    """Model, device, number of questions, a rounded draft head; what else sets it apart stands below it."""
    head = f", {section.draft_head}" if section.draft_head else ""
    return f"{section.setting.model} on {_device(section)}, {len(section.asked)} questions{head}"


def setting_words(section: Section) -> str:
    """What sets a section apart beside model and device, and how many of which questions were asked."""
    rest = section.title.removeprefix(f"{section.setting.model} on {section.setting.device}, ")
    kinds = len(section.subtasks)
    asked = f"{section.questions.partition(' (')[0]}, {kinds} kind{'s' if kinds > 1 else ''}"
    return f"{rest}; {asked}{session_words(section)}"


def session_words(section: Section) -> str:
    """In how many sessions it was measured, as the end of a clause; empty for one."""
    return f", in {section.sessions} sessions" if section.sessions > 1 else ""


def headline(section: Section) -> str:
    """The result in one sentence."""
    if not section.ranked:
        reasons = dict.fromkeys(row.reason for row in section.unranked)
        return f"No method has a rank: {'; '.join(reasons)}."
    lossy = [_lossy_words(max(section.lossy, key=_estimate))] if section.lossy else []
    return " ".join([*([_lossless_words(section)] if section.lossless else []), *lossy])


def section_alarms(section: Section) -> list[Alarm]:
    """What a reader must know before the numbers, with what to do about it."""
    return [*([EMBEDDED] if section.setting.prompts == "builtin" else []), *_alarms(section)]


def _alarms(section: Section) -> list[Alarm]:
    summaries = {label: entry.summary for label, entry in section.labelled.items()}
    if section.arena:
        return arena_alarms(section.contests[0], summaries)
    if len(summaries) == 1:
        return run_alarms(*summaries.values())
    found = [
        alarm
        for summary in summaries.values()
        for alarm in run_alarms(summary)
        if alarm.name == "FEW QUESTIONS"
    ]
    return [*machine_alarms(list(summaries.values())), *found[:1]]


def _device(section: Section) -> str:
    """The device's name without trade marks."""
    return section.setting.device.replace("(R)", "").replace("(TM)", "").replace(CPU_NAME, "")


def _lossless_words(section: Section) -> str:
    fastest = max(section.lossless, key=_estimate)
    speed = f"{fastest.label} decodes {_factor(_interval(fastest))}"
    total = len(section.lossless)
    if total == 1:
        return f"{speed}{_verdict(_interval(fastest))}."
    faster = sum(_interval(row).low > 1 for row in section.lossless)
    slower = sum(_interval(row).high < 1 for row in section.lossless)
    if not faster:
        return f"None of {total} lossless methods is faster than plain decoding for certain: {speed}."
    is_alone = [row for row in section.lossless if row.rank == 1] == [fastest]
    first = "it is the fastest" if is_alone else "too close to others to be called the fastest"
    others = f"{faster} are faster than plain decoding, {slower} slower"
    return f"{speed}; {first}. Of {total} lossless methods {others}."


def _lossy_words(row: Ranked) -> str:
    speed = _factor(_interval(row))
    return f"Of the lossy methods, whose text is not the model's own, {row.label} is the fastest: {speed}."


def _factor(speed: Interval) -> str:
    interval = f"{100 * speed.level:.0f} % interval {speed.low:.2f} to {speed.high:.2f}"
    return f"{speed.estimate:.2f} times as fast as plain decoding ({interval})"


def _verdict(speed: Interval) -> str:
    if speed.contains(1.0):
        return ", which cannot be told apart from plain decoding"
    return "" if speed.estimate > 1 else ": it loses time"


def _interval(row: Ranked) -> Interval:
    """The decode speedup of an entry with a rank, which always has one."""
    interval = row.entry.summary.speedup.decode
    if interval is None:
        raise ValueError(f"{row.label} has a rank and no speedup")
    return interval


def _estimate(row: Ranked) -> float:
    return _interval(row).estimate
