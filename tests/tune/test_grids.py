"""What `bench.tune` tries are settings that the method has and takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.harness import CONF
from tests.methods.options import settings_of

GRIDS: Any = OmegaConf.to_container(OmegaConf.load(CONF / "tune.yaml").grids)


@pytest.mark.parametrize("method", GRIDS)
def test_a_method_takes_every_change_of_its_grid(method: str) -> None:
    component = settings_of(method).method
    for changes in (changes for step in GRIDS[method] for changes in step):
        replace(component, params={**component.params, **changes}).build()
