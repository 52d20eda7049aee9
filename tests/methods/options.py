"""Every method that a configuration folder offers, composed as the command line composes it and made to fit
a small random model. Nothing here knows a method by name: a new yaml is found, and checked, by being there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.compose.components import Component, resolve_path
from bench.compose.settings import Settings
from bench.errors import UserError
from bench.runtime.decoder import Decoder, Tier
from bench.runtime.modules import PROVENANCE_FILE, save_model, save_module
from methods.core.base import FullTrainable, Method, Trainable
from tests.harness import CONF, composed_settings
from tests.methods.small import SPARSE, config_of, random_decoder
from tests.runtime.models import AUTO

VOCABULARY = 24
"""Small, so that drafts of random modules are sometimes right."""
DEPTHS = (6, 9, 16)
"""Of the random models; a method that names deeper layers than the first has takes a deeper one."""


def options(conf: Path = CONF) -> list[str]:
    """Names of the methods in a configuration folder: every yaml that is not a part of another's."""
    folder = conf / "method"
    paths = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")}
    groups = {group for path in paths.values() for group in _groups(path)}
    return sorted(name for name in paths if name.split("/")[0] not in groups)


def _groups(path: Path) -> list[str]:
    """Groups that a yaml chooses an option of: their options are its parts, not methods."""
    defaults: Any = OmegaConf.load(path).get("defaults", [])
    return [str(group) for entry in defaults if isinstance(entry, Mapping) for group in entry]


def is_tuned_model(option: str) -> bool:
    """Whether the method decodes with a whole tuned model; read from its yaml, which takes no composing."""
    path = CONF / "method" / f"{option}.yaml"
    content: Any = OmegaConf.load(path)
    if "_target_" in content:
        return hasattr(get_object(content["_target_"]), "model_trainer")
    parents = [entry.partition("@")[0] for entry in content["defaults"] if isinstance(entry, str)]
    return any(is_tuned_model(resolved(parent, option)) for parent in parents if parent != "_self_")


def resolved(parent: str, option: str) -> str:
    """The option that an entry of another's defaults names: from ``/method``, or beside that other one."""
    absolute = parent.removeprefix("/method/")
    return absolute if absolute != parent else str(Path(option).with_name(parent))


def settings_of(option: str, *overrides: str) -> Settings:
    """Settings of a run of this method.

    A value that a paper sets per model is there for that paper's models alone: then the model bears the name
    of one of them.
    """
    wanted = [f"method={option}", *overrides]
    return _composed(tuple(wanted))


@cache
def _composed(wanted: tuple[str, ...]) -> Settings:
    try:
        return composed_settings(*wanted)
    except (UserError, OmegaConfBaseException):
        texts = "".join(path.read_text() for path in (CONF / "method").rglob("*.yaml"))
        models = [path.stem for path in sorted((CONF / "model").glob("*.yaml")) if f"{path.stem}:" in texts]
        for name in models:
            try:
                return composed_settings(*wanted, f"model.name={name}")
            except (UserError, OmegaConfBaseException):
                continue
        raise


def with_random_modules(
    component: Component, decoder: Decoder, config: Mapping[str, Any], folder: Path
) -> Component:
    """The component with modules of random weights in `folder`, where it is trainable.

    Args:
        component: The method as configured.
        decoder: The model that the modules are for.
        config: That model's ``config.json``.
        folder: Where the modules go.
    """
    if "weights" not in component.params:
        return component
    fresh = replace(component, params={**component.params, "weights": None}).build()
    torch.manual_seed(1)
    if isinstance(fresh, FullTrainable):
        trainer = fresh.model_trainer()
        save_model(folder, trainer.new_model(decoder).state_dict(), {**config, **trainer.blocks(decoder)})
    elif isinstance(fresh, Trainable):
        facts = {**_shipped_facts(component), **fresh.trainer().provenance(decoder)}
        save_module(folder, fresh.trainer().new_module(decoder).state_dict(), facts)
    else:
        return component
    return replace(component, params={**component.params, "weights": str(folder)})


def _shipped_facts(component: Component) -> dict[str, Any]:
    """What shipped modules record beyond what the weights depend on, such as a calibrated tree."""
    path = Path(resolve_path(str(component.params["weights"]))) / PROVENANCE_FILE
    return json.loads(path.read_text()) if path.is_file() else {}


@dataclass(frozen=True)
class Subject:
    """A method attached to a small random model.

    Args:
        method: The method.
        decoder: The model, which other methods use as well.
        vocabulary: Number of tokens the model knows.
    """

    method: Method
    decoder: Decoder
    vocabulary: int = VOCABULARY


def attached(
    component: Component,
    folder: Path,
    *,
    family: str = "llama",
    tier: Tier = AUTO,
    drafts_in_int8: bool = False,
) -> tuple[Component, Subject]:
    """The method with random modules, on the shallowest random model that it accepts, or one with experts.

    Args:
        component: The method as configured.
        folder: An empty folder, for the modules.
        family: Of the model.
        tier: How its passes run.
        drafts_in_int8: As of `bench.runtime.loading.RuntimeOptions`.

    Raises:
        UserError: If it accepts none; the complaint is about the last.
    """
    models = []
    kinds = [(SPARSE, DEPTHS[0])] if needs_experts(component) else [(family, depth) for depth in DEPTHS]
    for kind, depth in kinds:
        config = config_of(kind, vocab_size=VOCABULARY, num_hidden_layers=depth)
        plain = json.loads(config.to_json_string(use_diff=False))
        models.append((plain, partial(decoder_of, kind, depth, tier, drafts_in_int8)))
    return first_fit(component, folder, models)


Model = tuple[Mapping[str, Any], Callable[[], Decoder]]
"""What ``config.json`` says, and the model."""


def needs_experts(component: Component) -> bool:
    """Whether the method runs on models with mixtures of experts alone."""
    traits = getattr(get_object(component.target), "traits", None)
    return traits is not None and bool(traits.needs_experts)


def first_fit(component: Component, folder: Path, models: Sequence[Model]) -> tuple[Component, Subject]:
    """The method with random modules, as a component and attached to the first model that it accepts."""
    for number, (config, make) in enumerate(models, start=1):
        decoder = make()
        try:
            fitted = with_random_modules(component, decoder, config, folder / str(number))
            method: Method = fitted.build()
            method.attach(decoder)
        except UserError:
            if number == len(models):
                raise
        else:
            return fitted, Subject(method, decoder)
    raise ValueError("models must not be empty")


@cache
def decoder_of(family: str, depth: int, tier: Tier, drafts_in_int8: bool = False) -> Decoder:
    """A random model that all tests of a process share."""
    decoder = random_decoder(family, tier=tier, vocab_size=VOCABULARY, num_hidden_layers=depth)
    decoder.drafts_in_int8 = drafts_in_int8
    return decoder
