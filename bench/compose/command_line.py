"""The command line composed anew with another method, as a run of several methods needs it."""

from collections.abc import Mapping, Sequence

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from bench.compose.settings import prepared


def known_methods() -> list[str]:
    """Names of all methods on the search path."""
    return list(GlobalHydra.instance().config_loader().get_group_options("method"))


def compose_again(overrides: Sequence[str]) -> tuple[DictConfig, Mapping[str, str | None]]:
    """Hydra's tree for this command line with another method, as if that had been given."""
    replaced = ("method=", "methods=", "+methods=")
    given = [text for text in HydraConfig.get().overrides.task if not text.startswith(replaced)]
    tree = hydra.compose(HydraConfig.get().job.config_name, [*given, *overrides], return_hydra_config=True)
    choices = dict(tree.hydra.runtime.choices)
    OmegaConf.set_struct(tree, False)
    del tree["hydra"]
    return prepared(tree, choices)
