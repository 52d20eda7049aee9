from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from bench.measure.verdicts import check_counts
from bench.metrics import counts as metrics
from bench.metrics.counts import Position, UndefinedError, accepted_per_step
from bench.metrics.speedups import speed_ratio
from bench.records.model import Arm, Equivalence, Round, Sample, Timing, Verdict
from bench.records.rounds import Rounds


def chain(drafted: int, accepted: int, emitted: int | None = None) -> Round:
    return Round(drafted, accepted, accepted + 1 if emitted is None else emitted, drafted, "length")


def sample(
    *rounds: Round,
    prompt: str = "q1",
    turn: int = 0,
    repeat: int = 0,
    prefill_s: float = 1.0,
    decode_s: float = 2.0,
) -> Sample:
    ids = tuple(range(1 + sum(round_.emitted for round_ in rounds)))
    timing = Timing(prefill_s, decode_s, {"draft": decode_s / 4, "verify": decode_s / 2}, cpu_s=2.0)
    return Sample(prompt, "qa", turn, repeat, Arm.METHOD, 0, ids=ids, rounds=Rounds.of(rounds), timing=timing)


PLAIN = sample(chain(0, 0), chain(0, 0), chain(0, 0))  # autoregressive: 4 tokens in 4 passes
CUT = sample(chain(4, 3), chain(4, 0), chain(4, 2, emitted=1))  # 7 tokens in 4 passes, the last round cut
PREFILL_ONLY = sample(decode_s=0.0)


def judged(verdict: Verdict, first_divergence: int | None = None) -> Sample:
    return replace(PLAIN, equivalence=Equivalence(verdict, first_divergence))


@pytest.mark.parametrize("good", [PLAIN, CUT, PREFILL_ONLY], ids=["plain", "last round cut", "prefill only"])
def test_identities_hold_for_what_the_harness_cuts(good: Sample) -> None:
    check_counts(good)


def test_identities_refuse_ids_that_no_round_emitted() -> None:
    with pytest.raises(ValueError, match="emitted 4 of 5 ids"):
        check_counts(replace(PLAIN, ids=(1, 2, 3, 4, 5)))


def test_identities_refuse_a_cut_before_the_last_round() -> None:
    with pytest.raises(ValueError, match=r"only the last round may be cut, got rounds \[0\]"):
        check_counts(sample(chain(4, 3, emitted=1), chain(4, 1)))


def test_the_three_acceptance_lengths_differ_as_defined() -> None:
    samples = [PLAIN, CUT]
    assert metrics.acceptance_length(samples) == pytest.approx((4 + 7) / (4 + 4))
    assert metrics.acceptance_length_request_mean(samples) == pytest.approx((4 / 4 + 7 / 4) / 2)
    assert metrics.acceptance_length_steady(samples) == pytest.approx((3 * 1 + 4 + 1) / 5)


def test_plain_decoding_has_acceptance_length_one() -> None:
    assert metrics.acceptance_length([PLAIN]) == metrics.acceptance_length_steady([PLAIN]) == 1.0


def test_steady_length_needs_an_uncut_round() -> None:
    with pytest.raises(UndefinedError, match="not cut"):
        metrics.acceptance_length_steady([sample(chain(4, 2, emitted=1))])


def test_acceptance_by_position_is_conditional_and_counts_cut_rounds() -> None:
    # accepted 3, 0, 2 of 4 drafted, and 1 of 1: a full short draft does not reach position 1
    got = metrics.acceptance_by_position([CUT, sample(chain(1, 1))])
    assert got == (Position(0, 4, 3), Position(1, 2, 2), Position(2, 2, 1), Position(3, 1, 0))
    assert got[2].rate == 0.5


def test_positions_nobody_reached_are_left_out() -> None:
    assert metrics.acceptance_by_position([sample(chain(4, 0))]) == (Position(0, 1, 0),)
    assert metrics.acceptance_by_position([PLAIN]) == ()


def test_histogram_and_shares() -> None:
    assert metrics.accepted_counts(CUT.rounds) == (1, 0, 1, 1)
    assert metrics.accepted_counts(Rounds.of()) == ()
    assert metrics.accepted_per_drafted([CUT]) == pytest.approx(5 / 12)
    assert metrics.accepted_per_verified([CUT]) == pytest.approx(6 / 15)  # what follows the end is none


def test_speeds_count_the_first_token_only_with_the_prefill() -> None:
    assert metrics.decode_speed([PLAIN, CUT]) == pytest.approx((3 + 6) / (2 + 2))
    assert metrics.end_to_end_speed([PLAIN, CUT]) == pytest.approx((4 + 7) / (3 + 3))
    assert metrics.output_tokens([PLAIN, CUT]) == 11


def test_turns_of_a_question_add_up_and_repeats_do_not() -> None:
    samples = [PLAIN, replace(CUT, turn=1), replace(PLAIN, repeat=1)]
    assert metrics.decode_per_question(samples) == {
        ("q1", 0): metrics.Work(9, 4.0),
        ("q1", 1): metrics.Work(3, 2.0),
    }
    assert metrics.end_to_end_per_question(samples)["q1", 0] == metrics.Work(11, 6.0)


def test_time_split_adds_up_to_one_with_the_host() -> None:
    got = metrics.time_split([PLAIN, PREFILL_ONLY])
    assert got == {"draft": 0.25, "verify": 0.5, "commit": 0.0, "search": 0.0, "host": 0.25}


def test_contention_is_wall_over_cpu() -> None:
    assert metrics.contention([PLAIN]) == pytest.approx(3.0 / 2.0)


def test_a_sample_that_was_never_compared_counts_as_unchecked() -> None:
    samples = [judged(Verdict.EXACT), judged(Verdict.EXACT), judged(Verdict.TIE_EXPLAINED, 7), PLAIN]
    assert metrics.verdict_counts(samples) == {
        Verdict.EXACT: 2,
        Verdict.TIE_EXPLAINED: 1,
        Verdict.VIOLATION: 0,
        Verdict.UNCHECKED: 1,
    }


def test_first_divergences_are_sorted() -> None:
    samples = [judged(Verdict.VIOLATION, 9), judged(Verdict.EXACT), judged(Verdict.TIE_EXPLAINED, 0)]
    assert metrics.first_divergences(samples) == (0, 9)


def test_spec_benchs_speedup_is_a_ratio_of_mean_rates_over_the_baselines_text() -> None:
    slow, fast = (
        replace(sample(chain(0, 0), decode_s=1.0), text_tokens=3),
        replace(sample(chain(0, 0), prompt="q2", decode_s=3.0), text_tokens=2),  # its end token has no text
    )  # 2 tokens in 2 s, 1 token in 4 s: 1 and 0.25 tokens/s
    half = [replace(answer, timing=Timing(0.5, 0.5, {}, 1.0)) for answer in (slow, fast)]  # 2 tokens/s
    assert speed_ratio([slow, fast], half) == pytest.approx(2 / 0.625)
    assert speed_ratio([slow, fast], [slow, fast]) == pytest.approx(0.75 / 0.625)  # their own A/A is not 1
    with pytest.raises(UndefinedError, match="length of the baseline's texts"):
        speed_ratio([replace(slow, text_tokens=None)], half)


def test_spec_benchs_acceptance_length_follows_the_list_that_the_method_keeps_there() -> None:
    whole = sample(chain(4, 3), chain(4, 1))  # 7 tokens in 3 passes
    assert accepted_per_step([whole, CUT], "Kangaroo") == metrics.acceptance_length([whole, CUT]) == 14 / 7
    # no prefill step, and the cut round counts in full: 4 + 2 of 2 rounds, 4 + 1 + 3 of 3 rounds
    assert accepted_per_step([whole, CUT], "TokenRecycling") == pytest.approx(14 / 5)
    assert accepted_per_step([whole, CUT], "Medusa") == pytest.approx(
        15 / 6
    )  # `whole` ends on a token of its own
    with pytest.raises(UndefinedError, match="needs a round"):
        accepted_per_step([PREFILL_ONLY], "TokenRecycling")


EVERY_METRIC: list[Callable[[Sequence[Sample]], object]] = [
    metrics.output_tokens,
    metrics.decode_speed,
    metrics.end_to_end_speed,
    metrics.decode_per_question,
    metrics.end_to_end_per_question,
    metrics.acceptance_length,
    metrics.acceptance_length_request_mean,
    metrics.acceptance_length_steady,
    metrics.acceptance_by_position,
    metrics.accepted_per_drafted,
    metrics.accepted_per_verified,
    metrics.time_split,
    metrics.verdict_counts,
    metrics.first_divergences,
    metrics.contention,
]


@pytest.mark.parametrize("metric", EVERY_METRIC, ids=lambda one: one.__name__)
def test_no_metric_has_a_value_for_no_sample(metric: Callable[[Sequence[Sample]], object]) -> None:
    with pytest.raises(UndefinedError):
        metric([])


@pytest.mark.parametrize("metric", EVERY_METRIC, ids=lambda one: one.__name__)
def test_a_failed_sample_is_refused_and_never_a_zero(metric: Callable[[Sequence[Sample]], object]) -> None:
    failed = Sample("q1", "qa", 0, 0, Arm.METHOD, 0, error="out of memory")
    with pytest.raises(ValueError, match="failed samples hold no numbers"):
        metric([PLAIN, failed])


@pytest.mark.parametrize(
    ("metric", "given"),
    [
        (metrics.accepted_per_drafted, PLAIN),
        (metrics.accepted_per_verified, PREFILL_ONLY),
        (metrics.time_split, PREFILL_ONLY),
        (metrics.decode_speed, PREFILL_ONLY),
        (metrics.contention, replace(PLAIN, timing=Timing(1.0, 1.0, {}, 0.0))),
    ],
    ids=["nothing drafted", "no round", "no decode time", "no time", "no cpu time"],
)
def test_an_undefined_number_is_an_error(metric: Callable[[Sequence[Sample]], object], given: Sample) -> None:
    with pytest.raises(UndefinedError):
        metric([given])
