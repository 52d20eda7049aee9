"""Every experiment's sweep is one that can run: its values are read as meant, and the methods take them."""

import json
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from bench.compose.settings import Settings
from tests.harness import CONF, composed_settings

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def sweep(experiment: str) -> dict[str, list[str]]:
    """Every swept key with its values as Hydra splits them; a glob stands for the options it leaves."""
    loaded: Any = OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml")
    params = OmegaConf.select(loaded, "hydra.sweeper.params", default={})
    parsed = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    options = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
    swept = {}
    for override in parsed:
        value: Any = override.value()
        is_glob = hasattr(value, "filter")
        swept[override.key_or_group] = (
            value.filter(options) if is_glob else list(override.sweep_string_iterator())
        )
    return swept


def corners(experiment: str) -> list[Settings]:
    """The first run of the sweep, one with every last value, and one for every other method."""
    swept = sweep(experiment)
    first = {key: values[0] for key, values in swept.items()}
    last = {key: values[-1] for key, values in swept.items()}
    choices = [first, last, *(first | {"method": method} for method in swept.get("method", [])[1:-1])]
    needed = ["method=autoregressive"] if experiment == "spec_bench" else []
    chosen = [[f"{key}={value}" for key, value in choice.items()] for choice in choices]
    return [composed_settings(f"experiment={experiment}", *needed, *overrides) for overrides in chosen]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_corners_of_a_sweep_make_methods(experiment: str) -> None:
    for settings in corners(experiment):
        settings.method.build()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_no_two_values_of_a_sweep_are_the_same(experiment: str) -> None:
    for values in sweep(experiment).values():
        assert len(set(values)) == len(values)


def test_a_kangaroo_table_has_the_papers_cells() -> None:
    swept = sweep("confidence")
    assert len(list(product(*swept.values()))) == 24
    assert {"0.0", "0.6"} < set(swept["method.threshold"])
    assert "6" in swept["method.draft_length"]


@pytest.mark.parametrize(
    ("experiment", "settings"),
    [
        *(
            (
                name,
                {"window": 50, "max_score": 0.93, "score_start": False, "carry_best": True, "max_tol": 300}
                | {"opt_interval": 1, "bayes_interval": 25, "max_iter": 1000, "skip_ratio": 0.45},
            )
            for name in ("paper_swift", "paper_swift_code")
        ),
        ("paper_kangaroo", {"draft_length": 6, "threshold": 0.6}),
        ("paper_del", {"draft_length": 6}),
        ("paper_medusa", {"tree": "vicuna_7b_stage1", "acceptance": "exact"}),
    ],
)
def test_the_experiment_of_a_paper_runs_the_settings_of_its_authors(
    experiment: str, settings: dict[str, Any]
) -> None:
    params = corners(experiment)[0].method.params
    assert {key: params[key] for key in settings} == settings


def test_swept_trees_lie_inside_each_other() -> None:
    trees = [{tuple(path) for path in json.loads(tree)} for tree in sweep("tree_size")["method.tree"]]
    assert [len(tree) for tree in trees] == [1, 3, 6, 12, 24]
    assert all(small < large for small, large in pairwise(trees))
    assert all(max(map(len, tree)) <= 3 for tree in trees)  # as deep as hidden transfer's three steps


def test_every_experiment_says_the_command_that_runs_it() -> None:
    for experiment in EXPERIMENTS:
        text = Path(CONF / "experiment" / f"{experiment}.yaml").read_text()
        assert f"experiment={experiment}" in text
        is_sweep = "python -m bench -m" in text or "mode: MULTIRUN" in text
        assert is_sweep == bool(sweep(experiment)), experiment
