"""What tests compose in a short way is what Hydra composes."""

from __future__ import annotations

import re
from unittest.mock import patch

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bench.compose.schema import register_schema
from tests.harness import CONF, composed_tree


@pytest.mark.parametrize(
    "overrides",
    [
        ("method=swift", "task=qa", "model=tiny", "seed=3"),
        ("model=local", "model.path=x", "task=jsonl", "task.path=y", "method=hamburger_reference"),
        ("method=synthetic", "method/schedule=skip", "method.acceptance=[0.5]", "task=gsm8k_5shot"),
        ("experiment=smoke", "method=medusa"),
        ("experiment=leaderboard", "method=swift"),
        ("experiment=draft_length", "method=layerskip", "method.draft_length=10"),
        ("experiment=paper_del", "method=sam", "task=xsum"),
    ],
)
def test_a_composed_tree_is_hydras_own(overrides: tuple[str, ...]) -> None:
    composed, choices = composed_tree(*overrides)
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        wanted = compose("bench", list(overrides), return_hydra_config=True)
    assert choices == dict(wanted.hydra.runtime.choices)
    OmegaConf.set_struct(wanted, False)
    del wanted["hydra"]
    assert OmegaConf.to_yaml(composed) == OmegaConf.to_yaml(wanted)


def test_only_experiments_set_the_mode_of_a_command() -> None:
    """`tests.harness.mode_of_experiments_alone` looks for it nowhere else."""
    setting = [
        path for path in CONF.rglob("*.yaml") if re.search(r"^ +mode: ", path.read_text(), re.MULTILINE)
    ]
    assert {path.parent.name for path in setting} == {"experiment"}


def test_a_yaml_file_is_parsed_once() -> None:
    register_schema()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        compose("bench", ["method=swift"])
        with patch.object(OmegaConf, "load", wraps=OmegaConf.load) as load:
            compose("bench", ["method=swift", "seed=1"])
    assert load.call_count == 0
