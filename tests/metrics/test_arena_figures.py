"""Figures of a run of several methods: which samples make a cell, and what an unfinished run still says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bench.metrics.arena import PLAIN, Arena, arena_figures, contest, order_of
from bench.metrics.counts import end_to_end_work
from bench.metrics.speedups import costs_of
from bench.records.model import Arm, Sample, Timing
from tests.report.boards import ArenaPlan, stored_arena

ARMS = ["baseline", "control", "sam"]
PLAN = ArenaPlan({"kangaroo": 1.6, "sam": 1.2}, lossy=("kangaroo",), questions=6)


def answer(
    prompt: str, turn: int, repeat: int, label: str, *, session: int = 0, order: int = 0, after: str = ""
) -> Sample:
    """An answer of 3 tokens; decoding took 1 s, and 1 s more for every turn before."""
    arm = Arm(label) if label in ("baseline", "control") else Arm.METHOD
    return Sample(
        *(prompt, "qa", turn, repeat, arm, order),
        ids=(1, 2, 3),
        timing=Timing(0.5, 1.0 + turn, {}, 1.0),
        method=label if arm is Arm.METHOD else "",
        session=session,
        after=after,
        started_at=100.0 + order + 10 * turn,
    )


def by_arm(samples: list[Sample]) -> dict[str, list[Sample]]:
    """The samples of every arm."""
    return {label: [sample for sample in samples if sample.label == label] for label in ARMS}


def failed(sample: Sample) -> Sample:
    return replace(sample, ids=(), timing=None, started_at=None, error="out of memory")


def test_all_turns_of_a_question_make_one_cell() -> None:
    samples = [answer("q", turn, 0, label) for label in ARMS for turn in (0, 1)]
    costs, order = costs_of(by_arm(samples)), order_of(by_arm(samples))
    assert costs.seconds.shape == (3, 1, 1, 1)
    assert costs.seconds.ravel().tolist() == [3.0, 3.0, 3.0]
    assert costs.tokens.ravel().tolist() == [4.0, 4.0, 4.0]
    assert order.started_s.ravel().tolist() == [100.0, 100.0, 100.0]
    whole = costs_of(by_arm(samples), end_to_end_work)
    assert whole.seconds.ravel().tolist() == [4.0, 4.0, 4.0]


def test_a_missing_or_failed_turn_leaves_out_the_question_for_that_arm_alone() -> None:
    samples = [answer(name, turn, 0, label) for name in "pq" for label in ARMS for turn in (0, 1)]
    samples.remove(answer("p", 1, 0, "sam"))
    samples = [failed(sample) if sample.key == ("q", 0, 0, "control") else sample for sample in samples]
    costs, order = costs_of(by_arm(samples)), order_of(by_arm(samples))
    unknown = np.isnan(costs.seconds[:, :, 0, 0])
    assert unknown.tolist() == [[False, False], [False, True], [True, False]]
    assert (np.isnan(costs.tokens) == np.isnan(costs.seconds)).all()
    assert (order.place[:, :, 0, 0] == -1).tolist() == unknown.tolist()


def test_repeats_count_anew_in_each_session() -> None:
    samples = [
        answer("q", 0, 2 * session + repeat, "sam", session=session)
        for session in (0, 1)
        for repeat in (0, 1)
    ]
    costs = costs_of(by_arm(samples))
    assert costs.seconds.shape == (3, 1, 2, 2)
    assert np.isfinite(costs.seconds[2]).all()
    assert np.isnan(costs.seconds[:2]).all()


def test_place_and_the_arm_before_are_those_of_the_first_turn() -> None:
    samples = [
        answer("q", 0, 0, "baseline", order=1, after="sam"),
        answer("q", 1, 0, "baseline", order=1, after="control"),
        answer("q", 0, 0, "sam", after=""),
        answer("q", 1, 0, "sam", after="control"),
    ]
    order = order_of(by_arm(samples))
    assert order.place.ravel().tolist() == [1, -1, 0]
    assert order.before.ravel().tolist() == [2, -1, -1]


def figures(samples: tuple[Sample, ...]) -> Arena:
    return arena_figures(stored_arena(PLAN).run, samples)


def test_lossy_methods_are_compared_apart() -> None:
    whole = figures(stored_arena(PLAN).samples)
    assert list(whole.methods) == ["kangaroo", "sam"]
    assert set(whole.latencies) == {PLAIN, "kangaroo", "sam"}
    assert whole.lossless.pairs is not None
    assert whole.lossless.pairs.names == (PLAIN, "sam")
    assert whole.lossy is not None
    assert whole.lossy.pairs is not None
    assert whole.lossy.pairs.names == (PLAIN, "kangaroo")


def test_an_unfinished_run_has_figures_of_what_there_is() -> None:
    samples = stored_arena(PLAN).samples
    cut = figures(samples[: len(samples) // 2])
    assert cut.methods["sam"].speedup.prompts == 3
    assert cut.lossless.pairs is not None


def test_a_method_that_always_fails_has_no_rank_and_does_not_stop_the_others() -> None:
    samples = tuple(
        failed(sample) if sample.label == "sam" else sample for sample in stored_arena(PLAN).samples
    )
    made = figures(samples)
    assert made.latencies["sam"] is None
    assert sum(made.methods["sam"].failures.values()) == 12
    assert made.methods["kangaroo"].speedup.decode is not None


def test_without_a_second_baseline_there_are_no_ranks() -> None:
    samples = [sample for sample in stored_arena(PLAN).samples if sample.arm is not Arm.CONTROL]
    compared = contest(samples, ["sam"])
    assert (compared.ranks, compared.reason) == ({}, "the baseline was not measured twice")
    assert compared.pairs is not None


def test_costs_do_not_depend_on_the_order_of_the_records() -> None:
    samples = stored_arena(PLAN).samples
    there = costs_of(by_arm(samples))
    back = costs_of(by_arm(sorted(samples, key=lambda sample: sample.key[2:])))
    assert (there.seconds == back.seconds).all()
