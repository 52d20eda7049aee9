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
    assert "cannot be told apart on the same 72 questions" in paired.sentence()


def test_the_faster_method_is_named_with_its_factor() -> None:
    paired = compare_runs(stored(Plan("slow", 1.5)), stored(Plan("fast", 1.8)))
    assert paired.relative.estimate == pytest.approx(1.2, rel=0.02)
    assert paired.sentence().startswith("fast decodes 1.2")
    back = compare_runs(stored(Plan("fast", 1.8)), stored(Plan("slow", 1.5)))
    assert back.sentence().startswith("fast decodes 1.2")


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
        (Plan("b", questions=5), "42 only in A, 0 only in B, 30 in both"),
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
    text = Paired(("A", "B"), 40, sure, sure, sure).sentence()
    assert text == "B decodes 1.250x as fast as A on the same 40 questions (95% interval 1.20 to 1.30)."


def test_the_command_prints_the_sentence_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [save(stored(plan), tmp_path) for plan in (Plan("a", 1.5), Plan("b", 1.8))]
    assert main(["compare", *map(str, folders)]) == 0
    assert capsys.readouterr().out.startswith("b decodes 1.198x as fast as a on the same 72 questions")
    assert main(["compare", str(tmp_path), str(folders[0])]) == 2
