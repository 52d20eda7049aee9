"""What stands above the numbers: an invalid run, a busy machine, few questions, each with what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.metrics.arena import arena_figures
from bench.metrics.experts import ExpertFigures
from bench.metrics.run_figures import Summary
from bench.metrics.summary import summarise
from bench.records.model import Run, Verdict
from bench.show.alarms import BUSY, arena_alarms, run_alarms
from bench.show.arena_table import arena_table
from bench.show.table import run_table
from tests.report.boards import ArenaPlan, Plan, stored, stored_arena


def summary_of(plan: Plan, **changes: object) -> Summary:
    run = stored(plan)
    return summarise(replace(run.run, **changes), run.samples)


@pytest.fixture(scope="module")
def sound() -> Summary:
    return summary_of(Plan("kangaroo"))


def names(summary: Summary) -> list[str]:
    return [alarm.name for alarm in run_alarms(summary)]


def test_a_sound_run_has_none(sound: Summary) -> None:
    assert run_alarms(sound) == []


def test_an_invalid_run_says_so_first_and_what_to_do() -> None:
    shown = run_table(summary_of(Plan("draft_verify", drift=0.25))).splitlines()
    assert shown[2].startswith("INVALID: the baseline differs from itself")
    assert (
        shown[3]
        == "  fix: end other programs, then measure anew into another folder: results_dir=results/again"
    )


def test_a_processor_that_was_held_by_other_work_is_a_busy_machine(sound: Summary) -> None:
    busy = replace(sound, method=replace(sound.method, contention=BUSY + 0.05))
    (alarm,) = run_alarms(busy)
    assert alarm.name == "BUSY MACHINE"
    assert "took 1.20 times as long as it computed" in alarm.what
    loading = ExpertFigures(0.5, 0.2, 0.1, 1e6, 0.003, 0.4, 24, 48)
    assert names(replace(busy, experts=loading)) == []  # it waits for experts, not for other work
    on_gpu: Run = replace(busy.run, attempts=({"gpu": {"name": "H200"}},))
    assert names(replace(busy, run=on_gpu)) == []  # the decoding thread waits for a GPU


def test_a_shared_gpu_is_a_busy_machine() -> None:
    assert names(summary_of(Plan("kangaroo", is_shared=True))) == ["BUSY MACHINE"]


def test_passes_that_were_recorded_late_are_counted(sound: Summary) -> None:
    gpu = {"gpu": {"name": "H200"}}
    started = (
        {**gpu, "graphs": {"recorded_while_measuring": 2}},
        {**gpu, "graphs": {"recorded_while_measuring": 1}},
    )
    run: Run = replace(sound.run, attempts=started)
    (alarm,) = run_alarms(replace(sound, run=run))
    assert alarm.name == "LATE RECORDINGS"
    assert alarm.what.startswith("3 passes were recorded while answers were timed")


def test_few_questions_say_how_to_ask_more() -> None:
    few = Plan("kangaroo", subtasks=("qa",), questions=4)
    assert names(summary_of(few)) == ["FEW QUESTIONS"]
    (alarm,) = run_alarms(summary_of(few))
    assert alarm.fix == "task.limit=null asks all of this task's"
    (whole,) = run_alarms(summary_of(replace(few, limit=None)))
    assert whole.fix == "choose a task with more of them"


def test_a_run_without_a_control_says_so() -> None:
    assert names(summary_of(Plan("kangaroo", repeats=1))) == ["NO CONTROL"]


def test_a_broken_promise_is_told_with_the_command_that_shows_it(sound: Summary) -> None:
    (alarm,) = run_alarms(replace(sound, verdicts={**sound.verdicts, Verdict.VIOLATION: 2}))
    assert alarm.name == "VIOLATION"
    assert alarm.fix.endswith("python -m bench.prove method=kangaroo")


def test_a_run_of_several_methods_says_the_same_above_its_ranks() -> None:
    run = stored_arena(ArenaPlan({"sam": 1.4, "medusa": 1.2}, questions=6, control=1.3))
    arena = arena_figures(run.run, run.samples)
    found = [alarm.name for alarm in arena_alarms(arena.lossless, arena.methods)]
    assert found == ["NOT RANKED", "UNSTEADY MACHINE", "FEW QUESTIONS"]
    lines = arena_table(arena).splitlines()
    assert lines[2].startswith("NOT RANKED: ")
    assert lines[3].startswith("  fix: ")
    assert lines[6].startswith("FEW QUESTIONS: only 6 complete")
