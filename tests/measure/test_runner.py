"""The runner end to end on a random model: interleaving, failures, resume, verdicts, history."""

from __future__ import annotations

import json
from collections import Counter
from itertools import count
from pathlib import Path
from shutil import copyfile, copytree, rmtree
from typing import Any

import pytest
from torch import Tensor

from bench.compose.settings import Settings
from bench.compose.workbench import find_target
from bench.errors import UserError
from bench.measure.runner import Session, execute
from bench.metrics.roofline import Probe
from bench.plan.planning import plan
from bench.records.model import Arm, Generation, Message, Verdict
from bench.records.store import load_run, load_samples
from bench.runtime.decoder import Decoder
from bench.runtime.linear import Linear
from bench.tasks.chat import prompt_hash
from methods.early_exit.layerskip import LayerSkip
from tests.harness import save_prompts, settings_for
from tests.runtime.models import AUTO


def test_every_turn_is_decoded_by_both_arms_in_abba_order(
    model: Path, prompts: Path, results_dir: Path
) -> None:
    outcome = execute(settings_for(model, prompts, results_dir))
    samples = load_samples(outcome.run_dir)
    assert outcome.failures == 0
    assert Counter(sample.arm for sample in samples) == {Arm.BASELINE: 6, Arm.METHOD: 6}
    first = {sample.repeat: sample.arm for sample in samples if sample.order == 0}
    assert first == {0: Arm.BASELINE, 1: Arm.METHOD}
    assert "layerskip" in outcome.table


def test_lossless_output_is_judged_exact_and_counts_add_up(
    model: Path, prompts: Path, results_dir: Path
) -> None:
    samples = load_samples(execute(settings_for(model, prompts, results_dir)).run_dir)
    for sample in samples:
        assert sample.timing is not None
        assert len(sample.ids) == 1 + sum(each.emitted for each in sample.rounds) <= 8
        if sample.arm is Arm.METHOD:
            assert sample.equivalence is not None
            assert sample.equivalence.verdict is Verdict.EXACT


def test_the_baseline_alone_is_its_own_control(model: Path, prompts: Path, results_dir: Path) -> None:
    outcome = execute(settings_for(model, prompts, results_dir, method="autoregressive"))
    assert {sample.arm for sample in load_samples(outcome.run_dir)} == {Arm.BASELINE}


def test_a_second_start_measures_only_what_is_missing(model: Path, prompts: Path, results_dir: Path) -> None:
    settings = settings_for(model, prompts, results_dir)
    folder = execute(settings).run_dir
    before = (folder / "samples.jsonl").read_text()
    execute(settings)
    assert (folder / "samples.jsonl").read_text() == before
    assert len(load_run(folder).attempts) == 2
    (folder / "samples.jsonl").write_text("".join(f"{line}\n" for line in before.splitlines()[:5]))
    execute(settings)
    keys = [sample.key for sample in load_samples(folder)]
    assert len(keys) == len(set(keys)) == 12


def test_more_repeats_extend_the_same_run(model: Path, prompts: Path, results_dir: Path) -> None:
    short = execute(settings_for(model, prompts, results_dir, "measure.repeats=1"))
    long = execute(settings_for(model, prompts, results_dir, "measure.repeats=3"))
    assert short.run_dir == long.run_dir
    assert len(load_samples(long.run_dir)) == 3 * 6


def test_a_prompt_beyond_the_context_is_a_recorded_failure_and_the_run_goes_on(
    model: Path, tmp_path: Path, results_dir: Path
) -> None:
    prompts = save_prompts(tmp_path / "long.jsonl", ["word " * 400], ["What is the capital?"])
    outcome = execute(settings_for(model, prompts, results_dir))
    samples = load_samples(outcome.run_dir)
    failed = [sample for sample in samples if sample.error is not None]
    assert outcome.failures == len(failed) == 4
    assert all("the context holds 256" in str(sample.error) and not sample.ids for sample in failed)
    assert len(samples) == 8


def test_a_turn_behind_a_failed_one_fails_with_the_reason(
    model: Path, tmp_path: Path, results_dir: Path
) -> None:
    prompts = save_prompts(tmp_path / "long.jsonl", ["word " * 400, "And then?"])
    samples = load_samples(execute(settings_for(model, prompts, results_dir)).run_dir)
    assert all("turn 1 of this prompt failed" in str(sample.error) for sample in samples if sample.turn == 1)


def test_an_exception_inside_a_method_is_recorded_and_retried(
    model: Path, prompts: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Tensor:
        raise RuntimeError("CUDA out of memory (simulated)")

    settings = settings_for(model, prompts, results_dir)
    with monkeypatch.context() as patch:
        patch.setattr(LayerSkip, "verify", broken)
        outcome = execute(settings)
        assert outcome.failures == 6
        failed = [sample for sample in load_samples(outcome.run_dir) if sample.error]
        assert {sample.arm for sample in failed} == {Arm.METHOD}
        assert {sample.error for sample in failed if sample.turn == 0} == {
            "RuntimeError: CUDA out of memory (simulated)"
        }
    assert execute(settings).failures == 0


def test_output_that_is_not_the_targets_is_a_violation(
    model: Path, prompts: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = LayerSkip.generate

    def dishonest(self: LayerSkip, *arguments: Any) -> Generation:
        true = honest(self, *arguments)
        wrong = (true.ids[0] + 1) % 300 or 4
        return Generation((wrong, *true.ids[1:]), true.rounds)

    monkeypatch.setattr(LayerSkip, "generate", dishonest)
    outcome = execute(settings_for(model, prompts, results_dir))
    verdicts = [sample.equivalence for sample in load_samples(outcome.run_dir) if sample.arm is Arm.METHOD]
    assert all(verdict is not None and verdict.verdict is Verdict.VIOLATION for verdict in verdicts)
    assert all(
        verdict is not None and verdict.first_divergence == 0 and verdict.margin > 1e-3
        for verdict in verdicts
    )


def test_an_interrupt_keeps_what_is_measured(
    model: Path, prompts: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(model, prompts, results_dir)
    measure, seen = Session._measure, []

    def interrupted(self: Session, cell: Any, bar: Any) -> Any:
        seen.append(cell)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return measure(self, cell, bar)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute(settings)
    folder = next((results_dir / "runs").iterdir())
    assert len(load_samples(folder)) == 4
    assert len(load_samples(execute(settings).run_dir)) == 12


def progress(settings: Settings) -> str:
    """First line of a plan."""
    return plan(settings).text.splitlines()[0]


def test_plan_says_how_far_a_run_is(model: Path, prompts: Path, results_dir: Path) -> None:
    settings = settings_for(model, prompts, results_dir)
    assert progress(settings).endswith("0 of 12 samples  not started")
    execute(settings)
    assert progress(settings).endswith("12 of 12 samples  complete")
    more = settings_for(model, prompts, results_dir, "measure.repeats=3")
    assert progress(more).endswith("12 of 18 samples  incomplete")


def test_plan_loads_no_weights_and_names_the_same_run(
    model: Path, prompts: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(model, prompts, results_dir)
    name = execute(settings).run_dir.name

    def refused(*_: Any) -> None:
        raise AssertionError("the plan loads a model")

    monkeypatch.setattr("bench.compose.workbench.load_decoder", refused)
    assert progress(settings).startswith(f"{name}  12 of 12")


def test_plan_looks_at_a_folder_of_a_run_that_never_began(
    model: Path, prompts: Path, results_dir: Path
) -> None:
    settings = settings_for(model, prompts, results_dir)
    (results_dir / "runs" / progress(settings).split()[0]).mkdir(parents=True)
    assert progress(settings).endswith("not started")


def test_frozen_history_builds_on_the_baselines_answers(
    model: Path, prompts: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = LayerSkip.generate

    def other(self: LayerSkip, *arguments: Any) -> Generation:
        true = honest(self, *arguments)
        return Generation((true.ids[0] % 290 + 5, *true.ids[1:]), true.rounds)

    monkeypatch.setattr(LayerSkip, "generate", other)
    hashes = {}
    for history in ("free", "frozen"):
        settings = settings_for(model, prompts, results_dir, f"measure.history={history}")
        samples = [sample for sample in load_samples(execute(settings).run_dir) if sample.turn == 1]
        hashes[history] = {
            arm: {sample.prompt_hash for sample in samples if sample.arm is arm} for arm in Arm
        }
    assert hashes["free"][Arm.METHOD] != hashes["free"][Arm.BASELINE]
    assert hashes["frozen"][Arm.METHOD] == hashes["frozen"][Arm.BASELINE]


def test_sampled_runs_repeat_themselves_by_seed(model: Path, prompts: Path, tmp_path: Path) -> None:
    def ids(folder: str, seed: int) -> list[tuple[int, ...]]:
        settings = settings_for(model, prompts, tmp_path / folder, "sampling=standard", f"seed={seed}")
        return [sample.ids for sample in load_samples(execute(settings).run_dir)]

    assert ids("a", 1) == ids("b", 1)
    assert ids("a", 1) != ids("c", 2)


def test_records_are_plain_json_with_the_environment_of_each_attempt(
    model: Path, prompts: Path, results_dir: Path
) -> None:
    folder = execute(settings_for(model, prompts, results_dir)).run_dir
    stored = json.loads((folder / "run.json").read_text())
    assert stored["attempts"][0]["device"]
    assert stored["labels"]["exactness"] == "greedy-exact"
    assert stored["config"]["max_new_tokens"] == 8


def test_cuda_without_a_gpu_is_a_users_mistake(model: Path, prompts: Path, results_dir: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match="finds no GPU"):
        execute(settings_for(model, prompts, results_dir, "runtime.device=cuda"))


def test_graphs_on_a_cpu_are_a_users_mistake(model: Path, prompts: Path, results_dir: Path) -> None:
    with pytest.raises(UserError, match="this run is on the CPU"):
        execute(settings_for(model, prompts, results_dir, "runtime.device=cpu", "runtime.tier=graph"))
    assert not list(results_dir.rglob("run.json"))


@pytest.mark.parametrize(("setting", "tier"), [("auto", AUTO), ("static", "static"), ("eager", "eager")])
def test_the_record_names_the_tier(
    model: Path, prompts: Path, results_dir: Path, setting: str, tier: str
) -> None:
    chosen = settings_for(model, prompts, results_dir, "runtime.device=cpu", f"runtime.tier={setting}")
    stored = json.loads((execute(chosen).run_dir / "run.json").read_text())
    assert stored["labels"]["tier"] == stored["attempts"][0]["tier"] == tier
    assert stored["identity"]["runtime"].get("tier", "static") == tier


def test_a_run_probes_its_machine_once_per_start_and_predicts_beside_what_it_measured(
    model: Path, prompts: Path, results_dir: Path
) -> None:
    outcome = execute(settings_for(model, prompts, results_dir))
    (attempt,) = load_run(outcome.run_dir).attempts
    probe = Probe.of_record(attempt["probe"])
    assert {1, 5} <= set(probe.costs.passes.rows)
    assert probe.weight_bytes > 0
    assert any(line.startswith("  predicted") for line in outcome.table.splitlines())
    execute(settings_for(model, prompts, results_dir))
    assert "probe" not in load_run(outcome.run_dir).attempts[-1]


@pytest.mark.parametrize(("level", "shown"), [("0.5", "[50% interval]"), ("0.95", "[95% interval]")])
def test_the_table_shows_intervals_at_the_level_that_is_set(
    model: Path, prompts: Path, results_dir: Path, level: str, shown: str
) -> None:
    outcome = execute(settings_for(model, prompts, results_dir, f"measure.level={level}"))
    assert shown in outcome.table


def test_synthetic_runs_are_labelled_cost_only(model: Path, prompts: Path, results_dir: Path) -> None:
    overrides = ["method.acceptance=[1.0,1.0]", "method/schedule=heads"]
    outcome = execute(settings_for(model, prompts, results_dir, *overrides, method="synthetic"))
    labels = load_run(outcome.run_dir).labels
    assert (labels["cost only"], labels["draft cost"], labels["exactness"]) == (True, "heads", "lossy")
    assert outcome.failures == 0
    assert "COST ONLY" in outcome.table
    accepted = {
        step.accepted for s in load_samples(outcome.run_dir) for step in s.rounds if step.stop == "length"
    }
    assert accepted == {0, 2}  # the baseline's rounds, and the method's


def test_random_weights_of_a_shape_are_cost_only_whatever_the_method(
    model: Path, prompts: Path, tmp_path: Path, results_dir: Path
) -> None:
    shape = tmp_path / "shape"
    shape.mkdir()
    (shape / "config.json").write_text((model / "config.json").read_text())
    overrides = ["model.weights=random", f"model.tokenizer={model}"]
    outcome = execute(settings_for(shape, prompts, results_dir, *overrides))
    assert load_run(outcome.run_dir).identity["model_weights"].startswith("random-")
    assert "COST ONLY" in outcome.table
    assert "given: by random weights" in outcome.table


@pytest.mark.parametrize("harm", ["folder", "samples", "renamed", "lock", "replaced"])
def test_a_run_whose_files_go_stops_and_says_so(
    model: Path, prompts: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """Measuring on would write into a file that nobody finds."""
    honest, calls = LayerSkip.generate, count()

    def generate(self: LayerSkip, *arguments: Any) -> Generation:
        if next(calls) == 6:
            (folder,) = (results_dir / "runs").iterdir()
            samples = folder / "samples.jsonl"
            harms = {
                "folder": lambda: rmtree(folder),
                "samples": samples.unlink,
                "renamed": lambda: folder.rename(folder.with_name("elsewhere")),
                "lock": lambda: (folder / ".lock").unlink(),
                "replaced": lambda: copyfile(folder / "run.json", folder / "c").replace(
                    folder / "samples.jsonl"
                ),
            }
            harms[harm]()
        return honest(self, *arguments)

    monkeypatch.setattr(LayerSkip, "generate", generate)
    with pytest.raises(UserError, match="was deleted, moved or replaced while this run was measured"):
        execute(settings_for(model, prompts, results_dir))


def test_an_edited_method_never_shows_its_old_numbers(
    model: Path, prompts: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(model, prompts, results_dir)
    execute(settings)
    assert execute(settings).failures == 0  # the same code resumes
    monkeypatch.setattr("bench.measure.runner.source_hash", lambda target, tier: "edited")
    with pytest.raises(UserError, match=r"other code of this method decoded \(source .*, now edited\)"):
        execute(settings)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_answers_of_logits_that_are_not_finite_are_failures(
    model: Path, prompts: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    honest = Decoder.head

    def head(self: Decoder, hidden: Tensor, lm_head: Linear | None = None) -> Tensor:
        logits = honest(self, hidden, lm_head)
        logits[..., 7] = bad
        return logits

    monkeypatch.setattr(Decoder, "head", head)
    outcome = execute(settings_for(model, prompts, results_dir, "runtime.tier=static", "measure.repeats=1"))
    samples = load_samples(outcome.run_dir)
    assert outcome.failures == len(samples) == 6
    first_turns = [sample for sample in samples if sample.turn == 0]
    assert all("the target's logits are not finite" in str(sample.error) for sample in first_turns)


def test_a_system_message_reaches_the_prompt(model: Path, tmp_path: Path, results_dir: Path) -> None:
    questions = tmp_path / "q.jsonl"
    plain, led = {"id": "q", "prompt": "Hi there."}, {"id": "q", "prompt": "Hi there.", "system": "Be brief."}
    lengths, runs = [], set()
    for row in (plain, led):
        questions.write_text(json.dumps(row))
        outcome = execute(
            settings_for(model, questions, results_dir, "model.template=raw", "measure.repeats=1")
        )
        lengths.append({sample.prompt_tokens for sample in load_samples(outcome.run_dir)})
        runs.add(outcome.run_dir)
    assert max(lengths[0]) < min(lengths[1])
    assert len(runs) == 2


def test_a_template_that_prints_the_time_writes_one_prompt_for_all_arms(
    model: Path, tmp_path: Path, prompts: Path, results_dir: Path
) -> None:
    folder = copytree(model, tmp_path / "clock")
    (folder / "chat_template.jinja").write_text(
        "{{ strftime_now('%H %M %S %f') }} {% for m in messages %}{{ m.content }} {% endfor %}"
    )
    samples = load_samples(execute(settings_for(folder, prompts, results_dir)).run_dir)
    first = {(sample.prompt_id, sample.prompt_hash) for sample in samples if sample.turn == 0}
    assert len(first) == 2
    verdicts = {sample.equivalence.verdict for sample in samples if sample.equivalence}
    assert verdicts == {Verdict.EXACT}


def test_a_chat_is_answered_after_its_history_and_with_the_chat_settings(
    model: Path, tmp_path: Path, results_dir: Path
) -> None:
    texts = {"user": "Hi there.", "assistant": " Hello. "}
    chat = [{"role": role, "content": text} for role, text in texts.items()]
    chat.append({"role": "user", "content": "And you?"})
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"id": "q", "messages": chat}) + "\n")
    settings = settings_for(model, path, results_dir, "chat.system=Be brief.")
    outcome = execute(settings)
    target = find_target(settings.model, settings.runtime)
    messages = [Message(message["role"], message["content"]) for message in chat]
    whole = target.chat.text_of(messages, "Be brief.")
    ids = target.chat.tokenizer(whole, add_special_tokens=False)["input_ids"]
    hashes = {sample.prompt_hash for sample in load_samples(outcome.run_dir)}
    assert hashes == {prompt_hash(ids)}
    assert 'prompts with chat.system="Be brief."' in " ".join(outcome.table.split())
