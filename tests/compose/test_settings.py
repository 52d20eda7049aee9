"""Composition and validation: what the yaml files and the command line may say."""

from pathlib import Path
from typing import Any

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.compose.components import Component, resolve_path
from bench.compose.mistakes import NODELESS_GROUPS, explain
from bench.compose.settings import settings_from
from bench.errors import UserError
from tests.harness import CONF, composed_settings, composed_tree

MODELS = [
    path.stem for path in sorted((CONF / "model").glob("*.yaml")) if "\nrevision:" not in path.read_text()
] + ["vicuna_7b"]
"""Models of the package, and one of the Hub for all: ``tests/test_models.py`` composes each of those."""
CHOICES = [
    f"{group}={path.stem}"
    for group in ("method", "task", "sampling", "runtime", "measure", "experiment")
    for path in sorted((CONF / group).glob("*.yaml"))
]
CHOICES += [f"method/schedule={path.stem}" for path in sorted((CONF / "method" / "schedule").glob("*.yaml"))]
CHOICES += [f"model={name}" for name in MODELS]
NEEDED = {
    **{choice: ["method=autoregressive"] for choice in CHOICES if choice.startswith("model=")},
    "model=tiny": [],
    "model=local": ["model.path=./checkpoint"],
    **{choice: ["method=synthetic"] for choice in CHOICES if choice.startswith("method/schedule=")},
    "experiment=spec_bench": ["method=autoregressive"],
}
"""What an option needs besides itself: a checkpoint's path, or a method that wants no trained modules."""


def mistake(*overrides: str) -> UserError:
    """The two lines that these overrides earn."""
    with pytest.raises((UserError, ConfigCompositionException, OmegaConfBaseException)) as caught:
        composed_settings(*overrides)
    refused = explain(caught.value)
    assert refused is not None
    return refused


@pytest.mark.parametrize(
    ("overrides", "limit"),
    [
        ([], 40),
        (["task.limit=null"], None),
        (["model.path=./mine", "method=layerskip"], None),
        (["task=spec_bench"], None),
    ],
    ids=["the embedded model", "all asked for", "a model of one's own", "all six subtasks"],
)
def test_only_the_embedded_model_is_asked_a_part_by_default(overrides: list[str], limit: int | None) -> None:
    assert composed_settings(*overrides).task.params["limit"] == limit


@pytest.mark.parametrize("choice", CHOICES)
def test_every_option_composes(choice: str) -> None:
    composed_settings(choice, *NEEDED.get(choice, []))


@pytest.mark.parametrize("method", ["layerskip/static", "layerskip/fsm", "layerskip/dv", "medusa/chain"])
def test_a_papers_variant_of_a_method_composes_with_its_model(method: str) -> None:
    made = composed_settings(f"method={method}", "model=layerskip_llama3_8b", "model.modules=x").method
    assert made.name == method.replace("/", "-")
    made.build()


def test_a_setting_by_model_refuses_a_model_that_the_paper_did_not_set_it_for() -> None:
    assert (
        composed_settings("method=layerskip/static", "model=layerskip_llama2_13b").method.params[
            "draft_length"
        ]
        == 4
    )
    refused = mistake("method=layerskip/static", "model=tiny")
    assert "no value is set for tiny, only for layerskip_llama3.2_1b" in refused.what


def test_the_default_is_kangaroo_on_a_small_real_model_and_shipped_questions() -> None:
    got = settings_from(*composed_tree())
    assert (got.method.name, got.task.name, got.model.name) == ("kangaroo", "mt_bench", "smollm2")
    assert got.model.prompts == got.task.params["source"] == "natural"
    assert got.method.params["weights"] == "package:bench/assets/smollm2/modules/kangaroo"


def test_another_path_keeps_nothing_of_the_embedded_model() -> None:
    got = composed_settings("model.path=./my-checkpoint", "method.weights=./adapter")
    assert (got.model.name, got.model.prompts) == ("my-checkpoint", "official")
    assert got.task.params["source"] == "official"
    assert got.model.modules == "./my-checkpoint/modules"
    assert got.method.params["weights"] == "./adapter"


@pytest.mark.parametrize(
    ("path", "name"),
    [("./a/b/", "b"), ("Qwen/Qwen3-0.6B", "Qwen3-0.6B"), ("package:bench/assets/tiny", "tiny")],
    ids=["folder", "hub id", "shipped"],
)
def test_a_model_is_named_after_its_path(path: str, name: str) -> None:
    assert composed_settings(f"model.path={path}").model.name == name


def test_what_is_said_wins_over_what_follows_from_the_path() -> None:
    got = composed_settings("model.path=./x", "model.name=mine", "model.prompts=builtin")
    assert (got.model.name, got.model.prompts) == ("mine", "natural")


@pytest.mark.parametrize(
    ("overrides", "source"),
    [
        (["model=tiny"], "builtin"),
        (["model=tiny", "model.prompts=builtin"], "builtin"),
        (["model=tiny", "model.prompts=natural"], "natural"),
        (["model=shape_125m"], "builtin"),
        (["model=smollm2"], "natural"),
        (["model=smollm2_135m"], "official"),
        (["model=smollm2", "model.prompts=builtin"], "natural"),
        (["model=smollm2", "model.prompts=natural"], "natural"),
        (["model=smollm2", "model.prompts=official"], "official"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_builtin_questions_are_natural_ones_unless_the_model_is_shipped(
    overrides: list[str], source: str
) -> None:
    got = composed_settings("method=prompt_lookup", "task=qa", *overrides)
    assert got.model.prompts == got.config["model"]["prompts"] == source
    loaded = None if source == "official" else got.task.build().load()
    assert loaded is None or loaded.source.name == source


def test_a_package_path_is_independent_of_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_path("package:conf/bench.yaml") == str(CONF / "bench.yaml")
    assert resolve_path("./relative") == "./relative"


def test_the_record_holds_the_whole_resolved_configuration() -> None:
    config = composed_settings("seed=7").config
    assert config["seed"] == 7
    assert "${" not in repr(config)


@pytest.mark.parametrize(
    ("overrides", "what", "fix"),
    [
        (["method.treshold=0.5"], "unknown key method.treshold", "did you mean method.threshold?"),
        (["runtime.devce=cpu"], "unknown key runtime.devce", "did you mean runtime.device?"),
        (["sed=1"], "unknown key sed", "did you mean seed?"),
        (["measure.resamples=1000"], "unknown key measure.resamples", "known: measure.control"),
        (["launhc=local"], "unknown key launhc", "did you mean launch?"),
        (["+foo=1"], "unknown key foo", "known: bench"),
        (["+sampling.foo=1"], "unknown key sampling.foo", "sampling.temperature"),
        (["method=kangaro"], "unknown method 'kangaro'", "did you mean method=kangaroo?"),
        (["experiment=nope"], "unknown experiment 'nope'", "leaderboard"),
        (["seed=abc"], "seed: Value 'abc'", "change seed"),
        (["seed=-1"], "seed must be at least 0, got -1", "seed=0"),
        (["max_new_tokens=0"], "max_new_tokens must be at least 1, got 0", "max_new_tokens=1"),
        (["model.prompts=mine"], "model.prompts must be one of", "got 'mine'"),
        (["model.template=chatml"], "model.template must be one of auto, vicuna, raw", "model.template=auto"),
        (["model.context=0"], "model.context must be at least 1", "model.context=1"),
        (
            ["sampling.temperature=-1"],
            "sampling.temperature must be at least 0, got -1.0",
            "sampling.temperature=0",
        ),
        (
            ["sampling.temperature=nan"],
            "sampling.temperature must be at least 0, got nan",
            "sampling.temperature=0",
        ),
        (["sampling.temperature=inf"], "sampling.temperature must be finite, got inf", "=0 or more"),
        (["sampling.temperature=1e-40"], "or at least 1e-06, got 1e-40", "sampling.temperature=0"),
        (["measure.warmup.tolerance=inf"], "measure.warmup.tolerance must be finite", "=0 or more"),
        (["runtime.threads=2147483648"], "runtime.threads must be at most 4096", "runtime.threads=4096"),
        (["measure.repeats=100000000"], "measure.repeats must be at most 10000", "measure.repeats=10000"),
        (["sampling.top_k=-1"], "sampling.top_k must be at least 0", "sampling.top_k=0"),
        (["sampling.top_p=0"], "sampling.top_p must lie in (0, 1], got 0.0", "use 1.0"),
        (
            ["runtime.device=gpu"],
            "runtime.device must be one of auto, cpu, cuda, got 'gpu'",
            "runtime.device=auto",
        ),
        (["runtime.dtype=int8"], "runtime.dtype must be one of", "runtime.dtype=float32"),
        (
            ["runtime.tier=fast"],
            "runtime.tier must be one of auto, eager, static, compiled, graph",
            "runtime.tier=auto",
        ),
        (["runtime.threads=0"], "runtime.threads must be at least 1", "runtime.threads=1"),
        (["runtime.max_length=1"], "runtime.max_length must be at least 2", "runtime.max_length=2"),
        (["measure.repeats=0"], "measure.repeats must be at least 1", "measure.repeats=1"),
        (["measure.warmup.max_rounds=0"], "measure.warmup.max_rounds must be at least 1", "=1 or more"),
        (["measure.warmup.tolerance=-1"], "measure.warmup.tolerance must be at least 0", "=0 or more"),
        (["measure.level=1"], "measure.level must lie in (0, 1), got 1.0", "0.95"),
        (["measure.history=frosen"], "measure.history must be one of free, frozen", "measure.history=free"),
        (["model=local"], "model.path must be given", "add model.path=..."),
        (["results_dir=${nope}"], "results_dir: Interpolation key 'nope' not found", "change results_dir"),
    ],
)
def test_a_mistake_names_the_value_and_the_fix(overrides: list[str], what: str, fix: str) -> None:
    refused = mistake(*overrides)
    assert what in refused.what
    assert fix in f"{refused.what} {refused.fix}"


def test_groups_without_a_key_of_their_own_are_known_to_the_hints() -> None:
    defaults: Any = OmegaConf.load(CONF / "bench.yaml").defaults
    groups = {str(group) for entry in defaults if OmegaConf.is_dict(entry) for group in entry}
    groups = {group for group in groups if not group.startswith("override hydra/")}
    assert groups - set(composed_settings().config) == set(NODELESS_GROUPS)


def test_the_leaderboard_asks_every_subtask_with_every_real_method() -> None:
    experiment: Any = OmegaConf.load(CONF / "experiment" / "leaderboard.yaml")
    assert {"override /task": "spec_bench"} in experiment.defaults
    assert experiment.hydra.sweeper.params == {"method": "glob(*,exclude=[synthetic,*moe*])"}


class Drafter:
    """Stands in for a method that lives in somebody's own package."""

    def __init__(self, length: int, weights: str | None = None) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        self.length = length
        self.weights = weights


def drafter(**params: object) -> Component:
    return Component.from_node("method", "mine", {"_target_": f"{__name__}.Drafter", **params})


def test_a_component_builds_what_its_yaml_names() -> None:
    built = drafter(length=3, weights="package:conf/bench.yaml").build()
    assert isinstance(built, Drafter)
    assert (built.length, built.weights) == (3, str(CONF / "bench.yaml"))


def test_instructions_to_hydra_are_not_parameters() -> None:
    assert drafter(length=3, _convert_="all").build().length == 3


@pytest.mark.parametrize(
    ("params", "what", "fix"),
    [
        ({"lenght": 3, "length": 3}, "unknown key method.lenght", "did you mean method.length?"),
        ({}, "method=mine needs method.length", "add +method.length=..."),
        ({"length": 0}, "method=mine: length must be at least 1, got 0", "change one of: method.length=0"),
        ({"length": "x"}, "method.length must be a whole number, got 'x'", "correct method.length"),
        ({"length": 1.5}, "method.length must be a whole number, got 1.5", "correct method.length"),
        ({"length": True}, "method.length must be a whole number, got True", "correct method.length"),
        ({"length": float("nan")}, "method.length must be a whole number, got nan", "correct method.length"),
        ({"length": 1, "_target_": "no.such.Thing"}, "cannot import no.such.Thing", "correct _target_"),
        ({"length": 1, "_target_": "math.pi"}, "math.pi is not a constructor", "correct _target_"),
    ],
)
def test_a_component_refuses_what_its_constructor_does(params: dict[str, Any], what: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        drafter(**params).build()
    assert what in caught.value.what
    assert fix in caught.value.fix


def test_a_component_must_name_a_constructor() -> None:
    with pytest.raises(UserError, match="must name a constructor in _target_"):
        Component.from_node("method", "mine", {"length": 3})
