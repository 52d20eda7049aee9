"""A run of several methods on a random model: order, stored fields, resume, sessions, failures, memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from bench.compose.cells import cells_of
from bench.errors import UserError
from bench.measure.runner import Session, execute
from bench.records.model import Arm, Sample, Verdict
from bench.records.store import load_run, load_samples
from bench.tasks.jsonl import JsonlTask
from methods.early_exit.layerskip import LayerSkip
from tests.harness import arena_for, save_prompts, settings_for

METHODS = "[prompt_lookup,{layerskip: {exit_layer: 2}},sam]"
LABELS = ("prompt_lookup", "layerskip[exit_layer=2]", "sam")
ARMS = {"baseline", "control", *LABELS}
TURNS = 3
"""Of the questions of this file together."""


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "prompts.jsonl"
    return save_prompts(path, ["Tell me a story.", "And another?"], ["What is the capital?"])


@pytest.fixture(scope="module")
def undisturbed(model: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """The samples of a run that nothing interrupts, two repeats."""
    return list(samples_of(model, questions, tmp_path_factory.mktemp("undisturbed")))


def samples_of(model: Path, questions: Path, results: Path, *overrides: str) -> Sequence[Sample]:
    return load_samples(execute(arena_for(model, questions, results, METHODS, *overrides)).run_dir)


def decoded(samples: Sequence[Sample]) -> dict[Any, Any]:
    """What must not depend on how often a run was interrupted."""
    return {sample.key: (sample.ids, sample.rounds, sample.counts) for sample in samples}


def test_every_arm_answers_every_turn_once_per_repeat(undisturbed: list[Sample]) -> None:
    assert Counter(sample.label for sample in undisturbed) == dict.fromkeys(ARMS, 2 * TURNS)
    assert len({sample.key for sample in undisturbed}) == len(undisturbed)
    assert {sample.method for sample in undisturbed} == {"", *LABELS}
    assert {sample.arm for sample in undisturbed if sample.method} == {Arm.METHOD}


def test_the_order_stored_is_that_of_the_latin_square(undisturbed: list[Sample], questions: Path) -> None:
    prompts = JsonlTask(name="jsonl", path=str(questions), limit=None).load().prompts
    arms = ["baseline", *LABELS, "control"]
    for cell in cells_of(prompts, arms, repeats=2, sessions=[0], seed=0):
        where = (cell.prompt.id, cell.turn, cell.repeat)
        placed = {sample.order: sample.label for sample in undisturbed if sample.key[:3] == where}
        assert tuple(label for _, label in sorted(placed.items())) == cell.labels


def test_a_sample_names_the_arm_before_it_and_when_it_began(undisturbed: list[Sample]) -> None:
    in_time = sorted(undisturbed, key=lambda sample: sample.clock_s or 0.0)
    assert in_time[0].after == ""
    for before, sample in pairwise(in_time):
        assert sample.after == before.label
        assert before.started_at is not None
        assert sample.started_at is not None
        assert before.started_at <= sample.started_at
    assert {sample.session for sample in undisturbed} == {0}


def test_every_method_is_exact(undisturbed: list[Sample]) -> None:
    verdicts = Counter(
        sample.equivalence.verdict for sample in undisturbed if sample.method and sample.equivalence
    )
    assert verdicts == {Verdict.EXACT: len(LABELS) * 2 * TURNS}
    ids = {(sample.prompt_id, sample.turn, sample.ids) for sample in undisturbed}
    assert len(ids) == TURNS


@pytest.mark.parametrize("label", LABELS)
def test_a_method_decodes_what_it_decodes_alone(
    label: str, undisturbed: list[Sample], model: Path, questions: Path, results_dir: Path
) -> None:
    alone = load_samples(
        execute(settings_for(model, questions, results_dir, method=label.partition("[")[0])).run_dir
    )
    beside = [sample for sample in undisturbed if sample.label == label]
    assert {(*key[:3], label): value for key, value in decoded(alone).items() if key[3] == Arm.METHOD} == (
        decoded(beside)
    )


def test_an_interrupted_run_is_resumed_as_if_nothing_had_happened(
    undisturbed: list[Sample],
    model: Path,
    questions: Path,
    results_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decode, calls = Session._decode, count()

    def interrupted(self: Session, *arguments: Any) -> Sample:
        if next(calls) == 13:  # within a cell
            raise KeyboardInterrupt
        return decode(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_decode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            samples_of(model, questions, results_dir)
    (folder,) = (results_dir / "runs").iterdir()
    assert len(load_samples(folder)) == 10
    resumed = samples_of(model, questions, results_dir)
    assert decoded(resumed) == decoded(undisturbed)
    assert Counter(sample.attempt for sample in resumed) == {0: 10, 1: 20}
    assert [sample.label for sample in resumed if sample.attempt == 1 and not sample.after] != []


def test_the_rest_of_a_cell_keeps_its_places(
    undisturbed: list[Sample], model: Path, questions: Path, results_dir: Path
) -> None:
    samples_of(model, questions, results_dir)
    (file,) = results_dir.glob("runs/*/samples.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for number, line in enumerate(lines) if number not in (5, 8)))  # of cell 1
    resumed = samples_of(model, questions, results_dir)
    assert {sample.key: sample.order for sample in resumed} == {
        sample.key: sample.order for sample in undisturbed
    }


def test_a_method_that_fails_leaves_the_others_sound(
    undisturbed: list[Sample],
    model: Path,
    questions: Path,
    results_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> Tensor:
        raise RuntimeError("out of memory (simulated)")

    monkeypatch.setattr(LayerSkip, "verify", broken)
    outcome = execute(arena_for(model, questions, results_dir, METHODS))
    samples = load_samples(outcome.run_dir)
    failed = [sample for sample in samples if sample.error is not None]
    assert outcome.failures == len(failed) == 2 * TURNS
    assert {sample.label for sample in failed} == {"layerskip[exit_layer=2]"}
    assert {sample.key for sample in samples} == {sample.key for sample in undisturbed}
    others = {key: value for key, value in decoded(undisturbed).items() if key[3] != failed[0].label}
    assert decoded([sample for sample in samples if sample.error is None]) == others
    lines = outcome.table.splitlines()
    assert [line for line in lines if line.startswith("FAILED: ")] == [
        "FAILED: 6 sample(s) of layerskip[exit_layer=2] or its baseline "
        "(method: RuntimeError: out of memory (simulated))"
    ]
    assert "nan" not in outcome.table


def test_sessions_are_numbered_and_their_repeats_count_on(
    model: Path, questions: Path, results_dir: Path
) -> None:
    overrides = ["measure.sessions=2", "measure.repeats=1"]
    settings = arena_for(model, questions, results_dir, METHODS, *overrides)
    first = load_samples(execute(settings, session=0).run_dir)
    assert {(sample.session, sample.repeat) for sample in first} == {(0, 0)}
    both = load_samples(execute(settings, session=1).run_dir)
    assert {(sample.session, sample.repeat) for sample in both} == {(0, 0), (1, 1)}
    assert len(both) == 2 * len(first) == 2 * TURNS * len(ARMS)
    assert {(sample.session, sample.attempt) for sample in both} == {(0, 0), (1, 1)}


def test_other_repeats_than_those_of_earlier_sessions_are_refused(
    model: Path, questions: Path, results_dir: Path
) -> None:
    sessions = "measure.sessions=2"
    execute(arena_for(model, questions, results_dir, METHODS, sessions, "measure.repeats=1"))
    with pytest.raises(UserError) as caught:
        execute(arena_for(model, questions, results_dir, METHODS, sessions, "measure.repeats=2"))
    assert "was measured with another measure.repeats than 2" in caught.value.what
    assert caught.value.fix.startswith("set the same repeats per session")


def test_methods_that_do_not_fit_into_memory_together_are_refused_with_the_sum(
    model: Path, questions: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.plan.empty_model.memory_bytes", lambda device: 1000)
    with pytest.raises(UserError, match=r"the 3 methods need .* together \(.* of weights, ") as caught:
        execute(arena_for(model, questions, results_dir, METHODS))
    assert "name fewer methods" in caught.value.fix
    assert not list(results_dir.rglob("run.json"))


def test_the_record_lists_the_methods_and_the_code_of_each(
    model: Path, questions: Path, results_dir: Path
) -> None:
    folder = execute(arena_for(model, questions, results_dir, METHODS, "measure.repeats=1")).run_dir
    run = load_run(folder)
    assert (run.method, tuple(run.methods)) == ("arena", LABELS)
    assert set(run.attempts[0]["sources"]) == set(LABELS)
