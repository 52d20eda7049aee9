"""The command line of a profile; settings are composed as for the benchmark, with the same models and errors.

``python -m bench.profile model=tiny`` measures passes, layer ranges and every method that is ready for the
model; ``methods=[kangaroo]`` only that one, ``methods=[]`` none. It prints what follows from bytes and
bandwidth, then what was measured, and last one line of JSON.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict

from bench.cli import run_composed
from bench.compose.components import require_least
from bench.compose.schema import ModelConfig, RuntimeConfig, register_schema
from bench.compose.settings import Settings, settings_from
from bench.errors import UserError
from bench.show.waiting import Wait, announce

if TYPE_CHECKING:
    from torch import Tensor

    from bench.metrics.roofline import Costs
    from bench.profile.records import MethodCost, Profile
    from bench.runtime.decoder import Decoder

log = logging.getLogger(__name__)

MEBIBYTE = 1 << 20
BASELINE = "autoregressive"


@dataclass
class ProfileConfig:
    """Settings of a profile.

    Args:
        model: Which model.
        runtime: Where and how it runs.
        methods: Names of the methods whose rounds are timed; None takes every one that is ready.
        contexts: Tokens in the cache before the timed passes.
        rows: Rows of the timed passes (M); None takes 1 to 64, denser where the curve bends.
        turns: Most repetitions of a timed pass; the fastest counts.
        limit_s: Seconds after which a pass is not repeated again.
        buffer_mb: Buffer that the memory bandwidth is measured with, in MiB.
        prompts: Built-in prompts that methods decode.
        tokens: Tokens decoded per prompt.
        figures: Draw the curves as PNG beside the record.
        results_dir: Where ``profiles/`` lies.
    """

    model: ModelConfig = MISSING
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    methods: list[str] | None = None
    contexts: list[int] = field(default_factory=lambda: [128, 1024])
    rows: list[int] | None = None
    turns: int = 20
    limit_s: float = 20.0
    buffer_mb: int = 256
    prompts: int = 6
    tokens: int = 64
    figures: bool = True
    results_dir: str = "results"

    def __post_init__(self) -> None:
        for name, least in {"turns": 1, "limit_s": 0, "buffer_mb": 1, "prompts": 1, "tokens": 2}.items():
            require_least(name, getattr(self, name), least)
        for name in ("contexts", "rows"):
            values = getattr(self, name)
            if values is not None and min(values, default=0) < 1:
                raise UserError(f"{name} must hold numbers from 1 on, got {values}", f"set {name}=[1,8]")


def main() -> None:
    """Entry point of ``python -m bench.profile``."""
    register_schema()  # each method is composed as the benchmark composes it
    ConfigStore.instance().store(name="profile_schema", node=ProfileConfig)
    run_composed(_job, "profile", "nothing is stored; an earlier profile stays as it is")


def _job(composed: DictConfig) -> None:
    settings: ProfileConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]  # the schema's type
    names = _method_names(settings)
    announce("loading torch and the model; passes are timed next, then the rounds of each method")

    from bench.compose.workbench import find_target
    from bench.profile.card import measured_card, static_card
    from bench.profile.records import save_profile

    whole = _composed(BASELINE)
    target = find_target(whole.model, settings.runtime)
    decoder = target.load(settings.runtime.threads)
    profile = _bare_profile(settings, whole, target.weights_hash, decoder)
    print(static_card(profile, settings.contexts), flush=True)  # noqa: T201 - the command's result
    profile = _measured(settings, profile, decoder, target.prompts(settings.prompts), names)
    path = save_profile(Path(settings.results_dir), profile)
    print(measured_card(profile), flush=True)  # noqa: T201
    for figure in _figures(profile, path) if settings.figures else ():
        log.info("drew %s", figure)
    print(json.dumps(_last_line(profile, path)), flush=True)  # noqa: T201


def _method_names(settings: ProfileConfig) -> list[str]:
    """The methods to time: those named in the settings, else all but the baseline.

    Raises:
        UserError: If one does not exist.
    """
    known = GlobalHydra.instance().config_loader().get_group_options("method")
    for name in settings.methods or ():
        if name not in known:
            raise UserError(f"unknown method {name!r} in methods", f"options: {', '.join(known)}")
    return [name for name in known if name != BASELINE] if settings.methods is None else settings.methods


def _composed(method: str) -> Settings:
    """The benchmark's settings for this method, with the command line's model and runtime.

    Raises:
        UserError: If the method needs modules that this model does not have.
    """
    overrides = [
        override for override in HydraConfig.get().overrides.task if override.startswith(("model", "runtime"))
    ]
    composed = compose("bench", [*overrides, f"method={method}"], return_hydra_config=True)
    choices = dict(composed.hydra.runtime.choices)
    with open_dict(composed):
        del composed["hydra"]
    return settings_from(composed, choices)


def _bare_profile(settings: ProfileConfig, whole: Settings, weights_hash: str, decoder: Decoder) -> Profile:
    """Bytes, bandwidth and provenance; nothing decoded yet."""
    from bench.measure.environment import environment
    from bench.measure.probes import Turns, weight_bytes
    from bench.profile.measure import measure_bandwidth
    from bench.profile.records import Profile
    from bench.runtime.tier_choice import tier_labels

    block = environment(decoder.device, decoder.dtype) | tier_labels(decoder)
    turns = Turns(settings.turns, settings.limit_s)
    return Profile(
        model=str(whole.model.name),
        identity={
            "weights": weights_hash,
            "runtime": whole.config["runtime"],
            "context": whole.model.context,
            "device": block["device"],
        },
        environment=block,
        parameters=decoder.parameters,
        weight_bytes=weight_bytes(decoder),
        token_bytes=decoder.cache.token_bytes,
        cache_bytes=decoder.cache.token_bytes * decoder.capacity,
        bandwidth=measure_bandwidth(decoder, settings.buffer_mb * MEBIBYTE, turns),
        levels=(),
    )


def _measured(
    settings: ProfileConfig, profile: Profile, decoder: Decoder, prompts: list[Tensor], names: list[str]
) -> Profile:
    """The profile with its levels and methods."""
    from bench.measure.probes import ROW_COUNTS, Turns
    from bench.profile.measure import measure_level

    turns = Turns(settings.turns, settings.limit_s)
    levels, skipped = [], dict[str, str]()
    with Wait("timing", len(settings.contexts) + len(names), "schedule") as wait:
        for context in sorted(settings.contexts):
            wait.tell(f"passes at context {context}")
            levels.append(measure_level(decoder, context, settings.rows or ROW_COUNTS, turns))
            wait.add()
        methods = list(_methods(settings, decoder, prompts, names, levels[0].costs, skipped, wait))
    return replace(profile, levels=tuple(levels), methods=tuple(methods), skipped=skipped)


def _methods(
    settings: ProfileConfig,
    decoder: Decoder,
    prompts: list[Tensor],
    names: list[str],
    costs: Costs,
    skipped: dict[str, str],
    wait: Wait,
) -> Iterator[MethodCost]:
    """Every method's rounds.

    A method that is not ready goes to `skipped` with the reason, or raises if the settings name it.
    """
    from bench.compose.identity import is_cost_only
    from bench.profile.measure import measure_method
    from methods.core.base import traits_of

    for name in names:
        wait.tell(f"rounds of {name}")
        try:
            composed = _composed(name)
            method: Any = composed.method.build()
            method.attach(decoder)
        except UserError as mistake:
            if settings.methods is not None:
                raise
            skipped[name] = mistake.what
        else:
            cost = measure_method(name, method, decoder, prompts, settings.tokens, costs)
            yield replace(cost, is_cost_only=is_cost_only(composed.model, traits_of(method)))
        wait.add()


def _figures(profile: Profile, path: Path) -> list[Path]:
    from bench.report.profiles import draw_profile

    return draw_profile(profile, path)


def _last_line(profile: Profile, path: Path) -> dict[str, Any]:
    """The figures that a program may want to read; the record holds all of them."""
    return {
        "record": str(path),
        "model": profile.model,
        "device": profile.device,
        "read_bytes_per_s": profile.bandwidth.memory,
        "contexts": {
            str(level.costs.context): {
                "step_s": level.costs.step_s,
                "tokens_per_s": 1 / level.costs.step_s,
                "ceiling_tokens_per_s": profile.ceiling(level.costs.context),
                "achieved_share": profile.achieved(level.costs),
            }
            for level in profile.levels
        },
        "methods": {
            method.name: {"predicted": method.predicted, "measured": method.measured}
            for method in profile.methods
        },
    }
