"""The command line as Hydra composed it, made ready for a run, and composed anew with another method."""

from collections.abc import Mapping, Sequence

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from bench.compose.automatic_model import AUTOMATIC, settle_model
from bench.compose.tuned import with_tuned
from bench.runtime.package_index import PREFIX as FETCH_PREFIX


def prepared(
    composed: DictConfig, choices: Mapping[str, str | None]
) -> tuple[DictConfig, Mapping[str, str | None]]:
    """The tree with its model fetched and with the tuned settings of its method."""
    if composed.tuned is not None:
        composed = with_tuned(composed, str(choices.get("method")))
    path = str(OmegaConf.select(composed, "model.path", default=""))
    is_settled = choices.get("model") != AUTOMATIC and not path.startswith(FETCH_PREFIX)
    return (composed, choices) if is_settled else settle_model(composed, choices)


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
