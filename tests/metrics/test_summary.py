from dataclasses import fields, replace

import pytest

from bench.metrics.run_figures import Summary
from bench.metrics.summary import predicted, summarise
from bench.records.model import Arm, Equivalence, Round, Run, Sample, Timing, Verdict
from bench.records.rounds import Rounds
from bench.show.layout import COLUMNS
from bench.show.table import run_table


def run(**labels: object) -> Run:
    return Run("kangaroo-spec_bench-tiny-0badcafe", "kangaroo", "spec_bench", "tiny", {}, {}, labels=labels)


def baseline(prompt: int, repeat: int, slow: float = 1.0) -> Sample:
    rounds = Rounds.of(Round(0, 0, 1, 0, "length") for _ in range(8))
    timing = Timing(0.5 * slow, 4.0 * slow, {"verify": 3.0 * slow}, 4.5 * slow)
    return _sample(prompt, repeat, Arm.BASELINE, rounds, timing)


def method(prompt: int, repeat: int, verdict: Verdict = Verdict.EXACT) -> Sample:
    rounds = Rounds.of(Round(4, 3, 4, 4, "length") for _ in range(2))
    judged = Equivalence(verdict, None if verdict is Verdict.EXACT else 5)
    timing = Timing(0.5, 2.0, {"draft": 0.5, "verify": 1.0, "commit": 0.1}, 2.0)
    return replace(_sample(prompt, repeat, Arm.METHOD, rounds, timing), equivalence=judged)


def eager(prompt: int, slow: float = 2.0) -> Sample:
    return replace(baseline(prompt, 0, slow), arm=Arm.EAGER)


def _sample(prompt: int, repeat: int, arm: Arm, rounds: Rounds, timing: Timing) -> Sample:
    subtask = "qa" if prompt % 2 else "translation"
    made = Sample(f"q{prompt}", subtask, 0, repeat, arm, 0, ids=tuple(range(9)), rounds=rounds, timing=timing)
    return replace(made, text_tokens=10)


def failure(sample: Sample, reason: str) -> Sample:
    return Sample(sample.prompt_id, sample.subtask, sample.turn, sample.repeat, sample.arm, 0, error=reason)


def both(prompts: int = 12, repeats: int = 2) -> list[Sample]:
    return [make(p, r) for p in range(prompts) for r in range(repeats) for make in (baseline, method)]


def summary(samples: list[Sample], **labels: object) -> Summary:
    return summarise(run(**labels), samples)


def row(text: str, label: str) -> str:
    (line,) = [line for line in text.splitlines() if line.strip().startswith(label)]
    return line


def test_repeats_that_are_not_finished_do_not_take_a_complete_run_off_the_board() -> None:
    complete, third = both(repeats=2), [sample for sample in both(repeats=3) if sample.repeat == 2]
    got = summary([*complete, *third[: len(third) // 2]])
    assert (got.speedup, got.repeats, got.excluded) == (summary(complete).speedup, 2, ())
    assert "1 further repeats are not finished and do not count" in got.notes
    assert summary([*complete, *third]).repeats == 3


def test_with_a_control_one_finished_repeat_counts_while_the_next_is_measured() -> None:
    def with_control(repeats: int) -> list[Sample]:
        pairs = both(repeats=repeats)
        return pairs + [replace(part, arm=Arm.CONTROL) for part in pairs if part.arm is Arm.BASELINE]

    first, second = with_control(1), [sample for sample in with_control(2) if sample.repeat == 1]
    got = summary([*first, *second[: len(second) // 2]])
    assert (got.speedup, got.repeats, got.excluded) == (summary(first).speedup, 1, ())


def test_a_run_in_its_first_start_counts_its_complete_prompts() -> None:
    got = summary(both(prompts=6)[:-2])
    assert (got.repeats, got.speedup.prompts, got.excluded) == (2, 5, ("q5",))


def test_speedups_come_from_paired_prompts() -> None:
    got = summary(both())
    assert got.speedup.decode is not None
    assert got.speedup.decode.estimate == pytest.approx(2.0)
    assert got.speedup.end_to_end is not None
    assert got.speedup.end_to_end.estimate == pytest.approx(4.5 / 2.5)
    assert got.speedup.spec_bench == pytest.approx(4.5 / 2.5)
    assert (got.speedup.prompts, got.repeats, got.excluded) == (12, 2, ())
    assert [(subtask.name, subtask.speedup.prompts) for subtask in got.subtasks] == [
        ("translation", 6),
        ("qa", 6),
    ]


def test_acceptance_speed_and_split_are_the_methods() -> None:
    got = summary(both())
    assert got.acceptance.pooled == pytest.approx(9 / 3)
    assert got.acceptance.steady == pytest.approx(4.0)
    assert [position.rate for position in got.acceptance.positions] == [1.0, 1.0, 1.0, 0.0]
    assert (got.baseline.decode_tokens_per_s, got.method.decode_tokens_per_s) == (2.0, 4.0)
    expected = {"draft": 0.25, "verify": 0.5, "commit": 0.05, "search": 0.0, "host": 0.2}
    assert got.time_split == pytest.approx(expected)
    assert got.method.contention == pytest.approx(1.25)


@pytest.mark.parametrize("gone", [Arm.BASELINE, Arm.METHOD])
def test_a_prompt_incomplete_in_one_arm_leaves_the_comparison_and_is_named(gone: Arm) -> None:
    samples = [
        sample for sample in both() if (sample.prompt_id, sample.repeat, sample.arm) != ("q3", 1, gone)
    ]
    got = summary(samples)
    assert got.excluded == ("q3",)
    assert got.speedup.prompts == 11
    assert "1, incomplete: q3" in row(run_table(got), "excluded prompts")


def test_a_missing_second_turn_excludes_the_whole_question() -> None:
    samples = [*both(), replace(baseline(3, 0), turn=1)]
    assert summary(samples).excluded == ("q3",)


def test_failures_are_counted_by_reason_and_leave_no_numbers() -> None:
    samples = both()
    samples[1] = failure(samples[1], "CUDA out of memory\ntraceback")
    samples[5] = failure(samples[5], "CUDA out of memory\ntraceback")
    got = summary(samples)
    assert got.failures == {"method: CUDA out of memory": 2}
    assert got.excluded == ("q0", "q1")
    assert "2 x method: CUDA out of memory" in row(run_table(got), "FAILED")
    assert got.speedup.decode is not None
    assert got.speedup.decode.estimate == pytest.approx(2.0)


def test_a_violation_in_an_excluded_prompt_is_still_seen() -> None:
    broken = method(3, 0, Verdict.VIOLATION)
    samples = [sample for sample in both() if sample.key != ("q3", 0, 0, "baseline")]
    samples = [broken if sample.key == broken.key else sample for sample in samples]
    got = summary(samples, exactness="greedy-exact")
    assert got.verdicts[Verdict.VIOLATION] == 1
    assert "VIOLATION: 1 output" in run_table(got)
    assert "first difference at token 5" in row(run_table(got), "answers")


def test_a_baseline_unlike_itself_makes_the_run_invalid() -> None:
    slow = [baseline(p, r, 1.5 if (p + r) % 2 == 0 else 1.0) for p in range(12) for r in range(2)]
    got = summary([*slow, *[method(p, r) for p in range(12) for r in range(2)]])
    assert got.is_valid is False
    assert run_table(got).splitlines()[2].startswith("INVALID: ")
    assert row(run_table(got), "A/A").split()[4] == "1.500x"
    assert row(run_table(got), "A/A").endswith("[99% interval] FAILS")


def test_a_steady_baseline_passes_the_control() -> None:
    assert summary(both()).is_valid is True
    line = row(run_table(summary(both())), "A/A")
    assert "  1.000x [1.000, 1.000]  " in line
    assert line.endswith("[99% interval] holds")


def test_one_repeat_cannot_be_controlled_and_says_so() -> None:
    got = summary(both(repeats=1))
    assert got.is_valid is None
    assert "not possible" in row(run_table(got), "A/A")


@pytest.mark.parametrize("prompts", [1, 3])
def test_few_prompts_stand_above_the_numbers(prompts: int) -> None:
    text = run_table(summary(both(prompts=prompts)))
    assert f"FEW QUESTIONS: only {prompts} complete" in text
    assert "nan" not in text


def test_a_lossy_method_is_called_lossy() -> None:
    text = run_table(summary(both(), exactness="lossy"))
    assert "LOSSY: " in text
    assert "LOSSY" not in run_table(summary(both(), exactness="greedy-exact"))


def test_labels_become_notes() -> None:
    got = summary(both(), partial=True, prompts="builtin", trained_by=None, exactness="greedy-exact")
    assert got.notes == ("a part of the task's questions", "built-in questions")
    assert row(run_table(got), "note").endswith("a part of the task's questions; built-in questions")


def test_what_the_chat_template_was_given_is_noted() -> None:
    got = summary(both(), exactness="greedy-exact", chat='chat.system="Be {brief}."')
    assert got.notes == ('prompts with chat.system="Be {brief}."',)


def test_an_autoregressive_run_has_a_control_and_no_speedup() -> None:
    got = summary([sample for sample in both() if sample.arm is Arm.BASELINE])
    assert got.is_valid is True
    assert got.speedup.decode is None
    assert got.baseline.decode_tokens_per_s == 2.0
    text = run_table(got)
    assert row(text, "acceptance length").split()[2] == "-"
    assert row(text, "speedup").split()[1] == "-"
    assert row(text, "method tokens/s").split()[2] == "-"


def test_plain_decoding_against_itself_is_a_speedup_of_one() -> None:
    again = [replace(baseline(p, r), arm=Arm.METHOD) for p in range(12) for r in range(2)]
    got = summary([*[baseline(p, r) for p in range(12) for r in range(2)], *again])
    assert got.speedup.decode is not None
    assert got.speedup.decode.estimate == 1.0
    assert got.acceptance.pooled == 1.0
    assert got.acceptance.per_drafted is None
    assert row(run_table(got), "accepted by draft position").split()[-1] == "-"


@pytest.mark.parametrize(
    "samples",
    [
        [],
        [failure(sample, "boom") for sample in both()],
        [sample for sample in both() if sample.arm is Arm.METHOD],
    ],
    ids=["nothing yet", "all failed", "method only"],
)
def test_a_run_without_a_comparison_prints_dashes_and_no_zeros(samples: list[Sample]) -> None:
    text = run_table(summary(samples))
    assert row(text, "speedup").split()[1] == "-"
    assert "0.000x" not in text


def test_prompts_that_end_at_the_first_token_have_no_decode_speedup() -> None:
    nothing = Timing(0.5, 0.0, {}, 0.5)
    ended = [replace(sample, ids=(1,), rounds=Rounds.of(), timing=nothing) for sample in both()]
    got = summary(ended)
    assert got.speedup.decode is None
    assert got.speedup.end_to_end is not None
    assert got.speedup.end_to_end.estimate == 1.0
    run_table(got)


def test_the_table_fits_a_terminal() -> None:
    samples = [
        replace(sample, subtask=f"subtask_{int(sample.prompt_id[1:]) % 12}") for sample in both(prompts=36)
    ]
    samples += [failure(method(100 + i, 0), f"reason {i} " + "long " * 40) for i in range(9)]
    text = run_table(summary(samples, exactness="lossy", prompts="built-in", long="word " * 50))
    assert max(len(line) for line in text.splitlines()) <= COLUMNS
    assert len(text.splitlines()) <= 36  # the worst of everything, with the quality rows of lossy output
    assert "and 6 more" in text


def test_what_a_certificate_says_takes_the_place_of_the_declaration() -> None:
    declared = run(exactness="greedy-exact")
    assert "greedy-exact; " in run_table(summarise(declared, []))
    proved = summarise(declared, [], evidence="greedy-exact: proved")
    assert "greedy-exact: proved; " in run_table(proved)


def test_a_cost_only_run_says_so_and_shows_no_acceptance() -> None:
    labels = {"exactness": "lossy", "cost only": True, "draft cost": "heads"}
    given = replace(run(**labels), identity={"method": {"acceptance": [0.8, 0.7]}})
    got = summarise(given, both())
    text = run_table(got)
    assert text.splitlines()[2].startswith("COST ONLY: ")
    assert row(text, "acceptance").split() == ["acceptance", "given:", "0.80", "0.70"]
    assert got.acceptance.pooled is None
    assert all(subtask.acceptance_length is None for subtask in got.subtasks)
    assert "cost only; draft cost: heads" in text


def probed(**labels: object) -> Run:
    costs = {
        "context": 10,
        "depth": 4,
        "passes": {"rows": [1, 5], "seconds": [0.5, 0.75]},
        "head": {"rows": [1, 5], "seconds": [0.1, 0.1]},
        "dispatch_s": 0.1,
    }
    probe = {"costs": costs, "weight_bytes": 10**9, "token_bytes": 0, "read_bytes_per_s": 4e9}
    attempts = ({"device": "cpu", "probe": probe}, {"device": "cpu"})
    return replace(run(**labels), attempts=attempts)


def test_a_probed_run_predicts_its_speedup_and_compares_the_baseline_with_the_machine() -> None:
    got = summarise(probed(), both())
    # 8 tokens in 2 rounds of 5 rows; draft 0.5 s, commit 0.1 s, host 0.4 s, of which 2.0 / 2.5 on the core
    assert predicted(got) == pytest.approx(8 * 0.5 / (2 * 0.75 + 1.0 * 2.0 / 2.5))
    assert row(run_table(got), "predicted").split()[4] == f"{predicted(got):.3f}x"
    assert row(run_table(got), "baseline reads").split()[4:8] == ["2.0", "GB/s,", "50%", "of"]


def test_the_level_widens_the_intervals() -> None:
    noisy = [sample for p in range(12) for sample in (baseline(p, 0, 1 + p / 10), method(p, 0))]

    def width(level: float) -> float:
        interval = summarise(run(), noisy, level=level).speedup.decode
        assert interval is not None
        assert interval.level == level
        return interval.high - interval.low

    assert width(0.5) < width(0.99)


def test_rounds_of_several_tokens_per_row_are_predicted_with_passes_of_one_row() -> None:
    got = summarise(probed(**{"several tokens per row": True}), both())
    assert predicted(got) == pytest.approx(8 * 0.5 / (2 * 0.5 + 1.0 * 2.0 / 2.5))


def test_the_method_is_compared_with_the_eager_loop_by_prompt_in_the_first_repeat() -> None:
    samples = [
        replace(sample, timing=Timing(9.0, 9.0, {}, 9.0)) if sample.repeat else sample for sample in both()
    ]
    got = summary([*samples, *(eager(prompt) for prompt in range(12))]).against_eager
    assert got is not None
    assert got.prompts == 12
    assert got.decode is not None
    assert got.decode.estimate == pytest.approx(4.0)
    assert got.end_to_end is not None
    assert got.end_to_end.estimate == pytest.approx(9.0 / 2.5)


def test_the_line_over_an_eager_loop_says_that_it_is_not_the_headline() -> None:
    text = run_table(summary([*both(), *(eager(prompt) for prompt in range(12))]))
    line = row(text, "over an eager loop")
    assert "  4.000x [4.000, 4.000]  3.600x [3.600, 3.600]  " in line
    assert line.endswith("[not the headline]")
    assert len(line) <= COLUMNS


def test_nothing_but_that_line_depends_on_the_eager_arm() -> None:
    with_arm = [*both(), *(eager(prompt) for prompt in range(9)), failure(eager(9), "boom")]
    plain, more = summary(both()), summary(with_arm)
    changed = {"against_eager", "eager_failures", "notes"}
    names = {field.name for field in fields(Summary)} - changed
    assert {name for name in names if getattr(plain, name) != getattr(more, name)} == set()
    assert more.notes == ("speedup over an eager loop: 9 of 12 prompts",)
    assert more.eager_failures == {"eager: boom": 1}
    kept = [
        line for line in run_table(more).splitlines() if line.split()[0] not in ("over", "FAILED", "note")
    ]
    assert kept == run_table(plain).splitlines()


@pytest.mark.parametrize("arm", [Arm.EAGER, Arm.METHOD])
def test_without_a_pair_the_line_has_dashes(arm: Arm) -> None:
    samples = [*both(), *(eager(prompt) for prompt in range(12))]
    got = summary([failure(sample, "boom") if sample.arm is arm else sample for sample in samples])
    assert got.against_eager is not None
    assert (got.against_eager.prompts, got.against_eager.decode) == (0, None)
    assert row(run_table(got), "over an eager loop").split()[4] == "-"


def test_runs_without_the_arm_have_no_such_line() -> None:
    got = summary(both())
    assert got.against_eager is None
    assert "eager" not in run_table(got)
