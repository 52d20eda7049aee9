"""A run of several methods: ``methods=[kangaroo,{layerskip: {exit_layer: 2}}]``, or ``methods=all``.

The command line is composed once for each method, so that each has the settings of its own yaml file; what is
not a method's own is the same for all. An entry is the name of a method, or the name with settings of its
own, or ``{name: published}``, which leaves ``tuned=FOLDER`` aside. Two entries of one method are two arms.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bench.compose.components import resolve_path
from bench.compose.schema import ModelConfig
from bench.compose.settings import Settings, settings_from
from bench.errors import UserError
from bench.records.model import Arm

log = logging.getLogger(__name__)

BASELINE = "autoregressive"
EVERYONE = "all"
"""Stands for every method that can run on the model."""
PUBLISHED = "published"
"""Stands for the settings of a method's yaml file where ``tuned`` names a folder of others."""
LONGEST_SETTINGS = 48
"""Characters of settings within a label; longer ones would push the figures out of a table."""
Compose = Callable[[Sequence[str]], tuple[DictConfig, Mapping[str, str | None]]]
"""Composes the command line anew with further overrides: Hydra's tree and the chosen options."""
_SPELLING = "write 'methods=[kangaroo,{layerskip: {exit_layer: 2}}]', or methods=all"


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of ``methods``.

    Args:
        name: Of a method.
        changes: Settings of its own.
        is_published: Whether tuned settings are left aside.
    """

    name: str
    changes: Mapping[str, Any]
    is_published: bool = False

    @property
    def label(self) -> str:
        """Name of its arm."""
        plain = _label(self.name, self.changes)
        return f"{plain}[{PUBLISHED}]" if self.is_published else plain


def arena_settings(composed: DictConfig, compose: Compose, known: Sequence[str]) -> Settings:
    """The settings of a run of several methods, from a tree whose ``methods`` lists them.

    Args:
        composed: Hydra's tree.
        compose: Composes the same command line with ``method=NAME``.
        known: Names of all methods.

    Raises:
        UserError: If an entry is no such thing, or if a method that was named cannot run on this model.
    """
    listed = (
        OmegaConf.to_object(composed.methods) if OmegaConf.is_config(composed.methods) else composed.methods
    )
    if listed == EVERYONE:
        return _merged(dict(_runnable(compose, known, composed.tuned)))
    if not isinstance(listed, list) or not listed:
        raise UserError(f"methods must be a list of methods, got {listed!r}", _SPELLING)
    runs: dict[str, Settings] = {}
    for entry in map(_entry, listed):
        if entry.label in runs:
            raise UserError(f"methods names {entry.label} twice", "give one of the two other settings")
        runs[entry.label] = _settings_of(compose, entry, composed.tuned)
    return _merged(runs)


def _settings_of(compose: Compose, entry: _Entry, tuned: str | None) -> Settings:
    if entry.is_published and tuned is None:
        raise UserError(
            f"{{{entry.name}: {PUBLISHED}}} says nothing without tuned=FOLDER",
            f"write {entry.name}, or set tuned=",
        )
    tree, choices = compose([f"method={entry.name}", *(["tuned=null"] if entry.is_published else [])])
    for key, value in entry.changes.items():
        OmegaConf.update(tree, f"method.{key}", value, force_add=True)
    tree.methods, tree.tuned = None, tuned
    return settings_from(tree, choices)


def _runnable(compose: Compose, known: Sequence[str], tuned: str | None) -> Iterator[tuple[str, Settings]]:
    """The methods that can run on this model; why others are left out goes to the log."""
    for name in known:
        if name == BASELINE:
            continue
        try:
            settings = _settings_of(compose, _Entry(name, {}), tuned)
            obstacle = _obstacle(settings)
        except UserError as mistake:
            obstacle = mistake.what
        if obstacle is None:
            yield name.replace("/", "-"), settings
        else:
            log.info("left out: %s (%s)", name, obstacle)


def _obstacle(settings: Settings) -> str | None:
    """Why a method that was not named should not be measured on this model."""
    from methods.core.base import traits_of  # loads torch

    weights = settings.method.params.get("weights")
    if isinstance(weights, str) and not Path(resolve_path(weights)).exists():
        return f"no modules in {weights}"
    traits = traits_of(settings.method.build())
    if traits.needs_experts and not _has_experts(settings.model):
        return "the model has no mixtures of experts"
    return "its acceptance is given" if traits.is_cost_only else None


def _has_experts(model: ModelConfig) -> bool:
    """Whether the model's configuration says so; it is fetched if necessary.

    Raises:
        UserError: If there is none.
    """
    from bench.runtime.checkpoint_files import COMPANIONS, fetch  # loads torch
    from bench.runtime.loading import load_config
    from bench.runtime.model_config import decoder_config

    return decoder_config(load_config(fetch(model.path, model.revision, COMPANIONS))).moe is not None


def _entry(entry: object) -> _Entry:
    """An entry of ``methods`` as it was written."""
    given = {entry: None} if isinstance(entry, str) else entry
    if not isinstance(given, dict) or len(given) != 1:
        raise UserError(
            f"an entry of methods must be a name or {{name: {{key: value}}}}, got {entry!r}", _SPELLING
        )
    ((name, changes),) = given.items()
    is_published = changes == PUBLISHED
    if not isinstance(name, str) or not (is_published or isinstance(changes, dict | None)):
        wanted = f"{{key: value}} or {PUBLISHED}"
        raise UserError(f"settings of {name!r} in methods must be {wanted}, got {changes!r}", _SPELLING)
    if name == BASELINE:
        raise UserError(f"methods names {BASELINE}, which every run measures anyway", "leave it out")
    if name in list(Arm):
        raise UserError(f"a method of a run of several must not be called {name}", "rename its yaml file")
    return _Entry(name, {} if is_published else dict(changes or {}), is_published)


def _label(name: str, changes: Mapping[str, Any]) -> str:
    """Such as ``kangaroo`` or ``kangaroo[exit_layer=3]``: what tells the arms of a run apart.

    Settings that are long to write stand as six digits of their hash.
    """
    parts = [f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in sorted(changes.items())]
    own = ",".join(parts)
    if len(own) > LONGEST_SETTINGS:  # tables list the settings of every method in full
        own = f"#{hashlib.sha256(own.encode()).hexdigest()[:6]}"
    return f"{name.replace('/', '-')}[{own}]" if own else name.replace("/", "-")


def _merged(runs: Mapping[str, Settings]) -> Settings:
    """One run of all of these methods."""
    if not runs:
        raise UserError("no method can run on this model", "name one: method=prompt_lookup needs no modules")
    first = next(iter(runs.values()))
    methods = {label: settings.method for label, settings in runs.items()}
    shared = {key: value for key, value in first.config.items() if key != "method"}
    parts = {label: settings.config["method"] for label, settings in runs.items()}
    return replace(first, methods=methods, config={**shared, "methods": parts})
