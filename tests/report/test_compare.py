"""Two runs question by question: drift of the machine cancels, unlike things are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.metrics.intervals import Interval
from bench.records.model import Timing
from bench.report.__main__ import main
from bench.report.compare import Paired, compare_runs, comparison_text
from bench.report.stored_runs import StoredRun
from tests.report.boards import Plan, save, stored


def slowed(run: StoredRun, factor: float) -> StoredRun:
    """The same run on a machine that was slower throughout."""

    def slow(timing: Timing | None) -> Timing | None:
        return timing and replace(timing, decode_s=timing.decode_s * factor)

    return replace(run, samples=tuple(replace(sample, timing=slow(sample.timing)) for sample in run.samples))


def test_a_run_equals_itself() -> None:
    run = stored(Plan("kangaroo"))
    paired = compare_runs(run, run)
    assert paired.relative.estimate == pytest.approx(1.0)
    assert "on the 72 questions that both answered" in paired.sentence()
    assert paired.sentence().endswith("they cannot be told apart.")


def test_every_figure_is_the_speed_of_b_over_a_whichever_is_faster() -> None:
    paired = compare_runs(stored(Plan("slow", 1.5)), stored(Plan("fast", 1.8)))
    assert paired.relative.estimate == pytest.approx(1.2, rel=0.02)
    assert paired.sentence().startswith("B (fast) decodes 1.204x as fast as A (slow)")
    assert paired.sentence().endswith("B (fast) is faster.")
    back = compare_runs(stored(Plan("fast", 1.8)), stored(Plan("slow", 1.5)))
    assert back.relative.estimate == pytest.approx(1 / 1.2, rel=0.02)
    assert back.sentence().startswith("B (slow) decodes 0.830x as fast as A (fast)")
    assert back.sentence().endswith("A (fast) is faster.")
    assert "speed of B over A (above 1: B is faster)" in comparison_text(back)


def test_only_the_common_questions_count() -> None:
    paired = compare_runs(stored(Plan("a", 1.5)), stored(Plan("b", 1.8, questions=5)))
    assert (paired.questions, paired.others) == (30, (42, 0))
    assert paired.relative.estimate == pytest.approx(1.2, rel=0.03)
    assert comparison_text(paired).endswith("left out: 42 questions complete in A only, 0 in B only")
    with pytest.raises(UserError, match="no question that is complete in both: 12 in A, 12 in B"):
        compare_runs(stored(Plan("a", subtasks=("qa",))), stored(Plan("b", subtasks=("rag",))))


def test_a_slower_machine_during_one_run_cancels_out() -> None:
    first, second = stored(Plan("a", 1.5)), slowed(stored(Plan("b", 1.5)), 1.3)
    paired = compare_runs(first, second)
    assert paired.relative.estimate == pytest.approx(1.0, abs=0.02)
    assert paired.raw.estimate == pytest.approx(1 / 1.3, rel=0.02)
    assert "the machine was not equally fast" in comparison_text(paired)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Plan("b", device="H100"), "device is 'NVIDIA A100-SXM4-80GB' and 'H100'"),
        (Plan("b", dtype="float16"), "dtype is 'bfloat16' and 'float16'"),
        (Plan("b", template="other"), "template is '6b7c8b8f' and 'other'"),
        (Plan("b", runtime={"tier": "compiled"}), "runtime is "),
    ],
)
def test_unlike_runs_are_refused(other: Plan, message: str) -> None:
    with pytest.raises(UserError) as error:
        compare_runs(stored(Plan("a")), stored(other))
    assert message in error.value.what


def test_questions_that_failed_in_one_run_are_left_out_of_both() -> None:
    paired = compare_runs(stored(Plan("a")), stored(Plan("b", fail=2)))
    assert paired.questions == 71


def test_the_sentence_holds_the_interval() -> None:
    sure = Interval(1.25, 1.2, 1.3, 0.95)
    text = Paired(("x", "y"), 40, sure, sure, sure).sentence()
    shown = "on the 40 questions that both answered (95% interval 1.20 to 1.30): B (y) is faster."
    assert text == f"B (y) decodes 1.250x as fast as A (x) {shown}"


def test_the_command_prints_the_sentence_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [save(stored(plan), tmp_path) for plan in (Plan("a", 1.5), Plan("b", 1.8))]
    assert main(["compare", *map(str, folders)]) == 0
    assert capsys.readouterr().out.startswith("B (b) decodes 1.198x as fast as A (a) on the 72 questions")
    assert main(["compare", str(tmp_path), str(folders[0])]) == 2
