"""The second baseline: a textbook loop in the first repeat, which nothing else depends on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.measure.progress import LiveFigures
from bench.measure.runner import execute
from bench.plan.planning import plan
from bench.records.model import Arm
from bench.records.store import load_samples
from bench.runtime.loading import RuntimeOptions, load_decoder
from methods.core.autoregressive import EagerLoop
from tests.harness import composed_settings, settings_for
from tests.methods.small import run
from tests.runtime.tape import taped
from tests.runtime.tiny import built, tiny

EAGER = "measure.eager=true"


def test_on_the_embedded_model_its_ids_are_the_baselines(results_dir: Path) -> None:
    overrides = ["method=kangaroo", "task=mt_bench", "task.limit=1", "max_new_tokens=16", "measure=quick"]
    settings = composed_settings(*overrides, EAGER, "runtime.device=cpu", f"results_dir={results_dir}")
    outcome = execute(settings)
    answers = {
        arm: {sample.turn: sample.ids for sample in load_samples(outcome.run_dir) if sample.arm is arm}
        for arm in Arm
    }
    assert answers[Arm.EAGER] == answers[Arm.BASELINE] == answers[Arm.METHOD]
    assert len(answers[Arm.EAGER]) == 2
    assert outcome.failures == 0


def test_it_decodes_the_first_repeat_behind_the_other_arms(
    model: Path, prompts: Path, results_dir: Path
) -> None:
    outcome = execute(settings_for(model, prompts, results_dir, EAGER))
    samples = load_samples(outcome.run_dir)
    assert Counter(sample.arm for sample in samples) == {Arm.BASELINE: 6, Arm.METHOD: 6, Arm.EAGER: 3}
    eager = [sample for sample in samples if sample.arm is Arm.EAGER]
    assert {(sample.repeat, sample.order) for sample in eager} == {(0, 2)}
    assert {sample.order for sample in samples if sample.arm is not Arm.EAGER} == {0, 1}
    assert all(len(sample.ids) == 1 + len(sample.rounds) and sample.equivalence is None for sample in eager)
    assert "[not the headline]" in outcome.table
    figures = LiveFigures()
    for sample in samples:
        figures.add(sample)
    assert {line.split()[0] for line in figures.table()[1:]} == {"baseline", "method", "eager"}
    assert figures.words()[0].startswith("baseline ")


def test_the_baseline_alone_is_held_against_it(model: Path, prompts: Path, results_dir: Path) -> None:
    outcome = execute(settings_for(model, prompts, results_dir, EAGER, method="autoregressive"))
    assert {sample.arm for sample in load_samples(outcome.run_dir)} == {Arm.BASELINE, Arm.EAGER}
    (line,) = [line for line in outcome.table.splitlines() if line.startswith("  over an eager loop")]
    assert line.split()[4].endswith("x")


def test_it_uses_the_targets_weights_and_cache(model: Path) -> None:
    target = load_decoder(model, RuntimeOptions(torch.device("cpu"), torch.float32, 64))
    loop = EagerLoop()
    loop.attach(target)
    eager = loop._decoder
    assert (target.tier, eager.tier) == ("static", "eager")
    assert eager.cache is target.cache
    pairs = zip(eager.layers, target.layers, strict=True)
    assert all(mine.attention is other.attention and mine.mlp is other.mlp for mine, other in pairs)


@pytest.mark.usefixtures("torch_products")
def test_on_the_cache_of_recorded_passes_it_leaves_them_as_they_were() -> None:
    decoder, ids = tiny()
    graphed = taped(decoder)
    method, loop = built("kangaroo", graphed), EagerLoop()
    loop.attach(graphed)
    before = run(method, ids, new=12)
    assert run(loop, ids, new=12).ids == before.ids
    assert run(method, ids, new=12) == before


def test_it_is_not_added_where_the_baseline_is_an_eager_loop(
    model: Path, prompts: Path, results_dir: Path
) -> None:
    settings = settings_for(model, prompts, results_dir, EAGER, "runtime.tier=eager")
    outcome = execute(settings)
    assert {sample.arm for sample in load_samples(outcome.run_dir)} == {Arm.BASELINE, Arm.METHOD}
    assert "over an eager loop" not in outcome.table
    assert "  12 of 12 samples  complete" in plan(settings).text


def test_switched_on_later_it_adds_its_samples_to_the_same_run(
    model: Path, prompts: Path, results_dir: Path
) -> None:
    without = settings_for(model, prompts, results_dir)
    folder = execute(without).run_dir
    before = (folder / "samples.jsonl").read_text()
    settings = settings_for(model, prompts, results_dir, EAGER)
    assert "  12 of 15 samples  incomplete" in plan(settings).text
    assert execute(settings).run_dir == folder
    after = (folder / "samples.jsonl").read_text()
    assert after.startswith(before)
    assert Counter(sample.arm for sample in load_samples(folder))[Arm.EAGER] == 3
    assert "  15 of 15 samples  complete" in plan(settings).text
    assert "  12 of 12 samples  complete" in plan(without).text
    assert execute(without).table.count("over an eager loop") == 1  # what is measured is shown
    assert (folder / "samples.jsonl").read_text() == after


def test_its_failures_touch_no_other_arm_and_are_tried_again(
    model: Path, prompts: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("CUDA out of memory (simulated)")

    settings = settings_for(model, prompts, results_dir, EAGER)
    with monkeypatch.context() as patch:
        patch.setattr(EagerLoop, "generate", broken)
        outcome = execute(settings)
    failed = [sample for sample in load_samples(outcome.run_dir) if sample.error is not None]
    assert {sample.arm for sample in failed} == {Arm.EAGER}
    assert outcome.failures == len(failed) == 3
    assert "2 prompts complete, 2 repeats" in outcome.table
    assert "6 exact, 0 violations" in outcome.table
    failures = next(line for line in outcome.table.splitlines() if line.startswith("FAILED"))
    assert failures.split(maxsplit=1)[1].startswith("2 x eager: RuntimeError: CUDA out of memory")
    assert "excluded prompts" not in outcome.table
    assert execute(settings).failures == 0
