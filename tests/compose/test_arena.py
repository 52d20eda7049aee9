"""A run of several methods: what ``methods=`` may say, and which run that is."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.compose.arena import _label, arena_settings
from bench.compose.mistakes import explain
from bench.compose.places import require_places
from bench.compose.settings import prepared
from bench.compose.workbench import prepare_run
from bench.errors import UserError
from bench.records.model import Arm
from tests.command import run_command
from tests.harness import arena_for, arena_of, composed_settings, composed_tree, settings_for

TRAINING_FREE = "[prompt_lookup,{layerskip: {exit_layer: 2}},sam]"


def refusal(methods: str, *overrides: str) -> UserError:
    """The two lines that these methods earn."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Hydra's own errors as well, which `explain` reads
        arena_of(methods, "model=tiny", *overrides)
    refused = explain(caught.value)
    assert refused is not None
    return refused


def test_an_entry_is_a_name_or_a_name_with_settings_of_its_own() -> None:
    settings = arena_of("[kangaroo,{layerskip: {exit_layer: 3, draft_length: 2}}]", "model=tiny")
    assert list(settings.methods) == ["kangaroo", "layerskip[draft_length=2,exit_layer=3]"]
    kangaroo, layerskip = settings.methods.values()
    alone = composed_settings("method=kangaroo", "model=tiny")
    assert kangaroo == alone.method
    assert (layerskip.name, layerskip.params["exit_layer"]) == ("layerskip", 3)
    assert settings.is_arena
    assert settings.has_control


def test_what_is_not_a_methods_own_is_the_same_for_all() -> None:
    settings = arena_of("[kangaroo,sam]", "model=tiny", "seed=7", "max_new_tokens=9")
    assert (settings.seed, settings.max_new_tokens) == (7, 9)
    assert "method" not in settings.config
    assert set(settings.config["methods"]) == {"kangaroo", "sam"}


def test_two_entries_of_one_method_are_two_arms() -> None:
    settings = arena_of("[sam,{layerskip: {exit_layer: 2}},{layerskip: {exit_layer: 3}}]", "model=tiny")
    assert list(settings.methods) == ["sam", "layerskip[exit_layer=2]", "layerskip[exit_layer=3]"]


def test_published_settings_stand_beside_tuned_ones(tmp_path: Path) -> None:
    text = json.dumps({"model": "tiny", "settings": {"draft_length": 2}})
    (tmp_path / "sam.json").write_text(text)
    given = ["methods=[{sam: published},sam]", "model=tiny", f"tuned={tmp_path}"]
    composed, _ = composed_tree(*given)
    settings = arena_settings(composed, lambda more: prepared(*composed_tree(*given[1:], *more)), ())
    lengths = {label: method.params["draft_length"] for label, method in settings.methods.items()}
    assert lengths == {"sam[published]": 39, "sam": 2}
    assert settings.config["tuned"] == str(tmp_path)


def test_long_settings_stand_in_a_label_as_a_hash() -> None:
    rates = {"acceptance": [0.1234, 0.2345, 0.3456, 0.4567, 0.5678, 0.6789, 0.789]}
    assert re.fullmatch(r"synthetic\[#[0-9a-f]{6}\]", _label("synthetic", rates))
    assert _label("synthetic", rates) != _label("synthetic", {**rates, "draft_vocab": 64})
    assert _label("layerskip", {"exit_layer": 2}) == "layerskip[exit_layer=2]"


def test_a_variant_in_a_folder_has_a_label_without_a_slash() -> None:
    assert list(arena_of("[hamburger/gated,sam]", "model=tiny").methods) == ["hamburger-gated", "sam"]


def test_a_second_baseline_can_be_switched_off_and_on() -> None:
    assert not arena_of("[sam]", "model=tiny", "measure.control=false").has_control
    assert composed_settings("measure.control=true").has_control
    assert not composed_settings().has_control


@pytest.mark.parametrize(
    ("methods", "what", "fix"),
    [
        ("[]", "methods must be a list of methods, got []", "write 'methods=[kangaroo,"),
        ("kangaroo", "methods must be a list of methods, got 'kangaroo'", "write 'methods=[kangaroo,"),
        ("[kangaro]", "unknown method 'kangaro'", "did you mean method=kangaroo?"),
        ("[autoregressive,sam]", "methods names autoregressive, which every run", "leave it out"),
        ("[sam,sam]", "methods names sam twice", "give one of the two other settings"),
        ("[{sam: {max_match: 3}},{sam: {max_match: 3}}]", "methods names sam[max_match=3] twice", "other"),
        ("[{sam: 3}]", "settings of 'sam' in methods must be {key: value} or published, got 3", "write"),
        ("[{sam: published}]", "{sam: published} says nothing without tuned=FOLDER", "write sam"),
        ("[{sam: {}, swift: {}}]", "an entry of methods must be a name or {name: {key: value}}", "write"),
        ("[3]", "an entry of methods must be a name", "write"),
        ("[control]", "must not be called control", "rename its yaml file"),
    ],
)
def test_a_mistake_names_the_entry_and_the_fix(methods: str, what: str, fix: str) -> None:
    refused = refusal(methods)
    assert what in refused.what
    assert fix in f"{refused.what} {refused.fix}"


def test_a_misspelt_setting_is_refused_before_a_model_is_loaded() -> None:
    kangaroo = arena_of("[{kangaroo: {treshold: 0.5}}]", "model=tiny").methods["kangaroo[treshold=0.5]"]
    with pytest.raises(UserError, match=r"unknown key method\.treshold"):
        kangaroo.build()


def test_a_named_method_without_modules_is_refused() -> None:
    settings = arena_of("[sam,kangaroo]", "model=vicuna_7b")
    with pytest.raises(UserError, match="method=kangaroo has no modules for model=vicuna_7b"):
        require_places(settings)


def test_method_and_methods_together_are_refused_in_two_lines(tmp_path: Path) -> None:
    done = run_command(main, "methods=[sam]", "method=kangaroo", f"results_dir={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: method=kangaroo and methods= are both given",
        "fix: leave one of them out",
    ]


def left_out(
    caplog: pytest.LogCaptureFixture, known: list[str], *overrides: str
) -> tuple[list[str], dict[str, str]]:
    """Methods that ``methods=all`` takes, and why it leaves out the others."""
    with caplog.at_level(logging.INFO, "bench.compose.arena"):
        settings = arena_of("all", *overrides, known=known)
    texts = [record.getMessage() for record in caplog.records if record.name == "bench.compose.arena"]
    pairs = [text.removeprefix("left out: ").removesuffix(")").split(" (", 1) for text in texts]
    return list(settings.methods), dict(pairs)


def test_all_leaves_out_what_is_given_its_acceptance(caplog: pytest.LogCaptureFixture) -> None:
    known = ["autoregressive", "sam", "kangaroo", "synthetic"]
    taken, reasons = left_out(caplog, known, "model=tiny")
    assert taken == ["sam", "kangaroo"]
    assert reasons == {"synthetic": "its acceptance is given"}


def test_all_takes_methods_that_load_experts_on_a_model_that_has_some(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = ["sam", "moe_lru", "m2r2_moe"]
    taken, reasons = left_out(caplog, known, "model=tiny")
    assert taken == ["sam"]
    assert reasons["moe_lru"] == "the model has no mixtures of experts"
    assert left_out(caplog, known, "model=tiny_moe")[0] == known


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["model=local", "model.path=./mine"], "no modules in ./mine/modules/kangaroo"),
        (["model=vicuna_7b"], "no modules in results/train/vicuna_7b/kangaroo"),
    ],
    ids=["a folder that is not there", "no folder"],
)
def test_all_leaves_out_methods_without_modules_and_says_so(
    overrides: list[str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    taken, reasons = left_out(caplog, ["kangaroo", "sam"], *overrides)
    assert taken == ["sam"]
    assert reasons["kangaroo"].startswith(reason)


def test_all_on_a_model_that_no_method_can_run_on_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match="no method can run on this model"):
        left_out(caplog, ["kangaroo"], "model=local", "model.path=./mine")


def arena_run_id(*arguments: Any) -> str:
    return prepare_run(arena_for(*arguments)).run.run_id


@pytest.mark.parametrize(
    "methods",
    [
        "[prompt_lookup,{layerskip: {exit_layer: 1}},sam]",
        "[{prompt_lookup: {draft_length: 3}},{layerskip: {exit_layer: 2}},sam]",
        "[prompt_lookup,{layerskip: {exit_layer: 2}}]",
    ],
)
def test_a_setting_of_any_method_makes_another_run(
    methods: str, model: Path, prompts: Path, results_dir: Path
) -> None:
    plain = arena_run_id(model, prompts, results_dir, TRAINING_FREE)
    assert plain.startswith("arena-jsonl-")
    assert arena_run_id(model, prompts, results_dir, methods) != plain


@pytest.mark.parametrize(
    "overrides",
    [
        ["measure.repeats=5"],
        ["measure.sessions=3", "measure.repeats=1"],
        ["measure.repeats=1", "measure.sessions=3"],
        ["measure.control=false"],
        ["measure.eager=true"],
    ],
    ids=" ".join,
)
def test_how_often_it_is_measured_makes_no_other_run(
    overrides: list[str], model: Path, prompts: Path, results_dir: Path
) -> None:
    plain = arena_run_id(model, prompts, results_dir, TRAINING_FREE)
    assert arena_run_id(model, prompts, results_dir, TRAINING_FREE, *overrides) == plain


def test_the_record_holds_each_methods_part_of_the_identity(
    model: Path, prompts: Path, results_dir: Path
) -> None:
    run = prepare_run(arena_for(model, prompts, results_dir, TRAINING_FREE)).run
    assert (run.method, list(run.methods)) == ("arena", ["prompt_lookup", "layerskip[exit_layer=2]", "sam"])
    layerskip = run.methods["layerskip[exit_layer=2]"]
    alone = prepare_run(settings_for(model, prompts, results_dir)).run
    assert layerskip["name"] == "layerskip"
    assert (layerskip["method"], layerskip["method_weights"]) == (
        alone.identity["method"],
        alone.identity["method_weights"],
    )
    assert layerskip["labels"].items() <= alone.labels.items()
    shared = {key: value for key, value in run.identity.items() if key != "methods"}
    assert shared.items() <= alone.identity.items()


def test_a_run_of_one_method_is_named_as_before(model: Path, prompts: Path, results_dir: Path) -> None:
    plain = prepare_run(settings_for(model, prompts, results_dir))
    again = prepare_run(settings_for(model, prompts, results_dir, "measure.control=true"))
    assert "methods" not in plain.run.identity
    assert (plain.run.methods, list(plain.methods)) == ({}, [Arm.METHOD])
    assert again.run.run_id == plain.run.run_id
    assert set(again.arms) == {Arm.BASELINE, Arm.METHOD, Arm.CONTROL}
