"""``python -m bench.tune method=sam model=smollm2``: find the fastest settings of a method and store them.

``'methods=[sam,kangaroo]'`` or ``methods=all`` tunes several, one after the other. Every comparison is a run
whose records stay in ``results_dir``; the same command continues where it was interrupted. What was found is
written to ``out``, a file per method, and applied by ``python -m bench tuned=FOLDER``.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from bench.cli import run_composed
from bench.compose.arena import BASELINE, EVERYONE, arena_settings
from bench.compose.command_line import compose_again, known_methods
from bench.compose.places import require_places
from bench.compose.schema import Config, register_schema
from bench.compose.settings import Settings
from bench.errors import UserError
from bench.metrics.intervals import Interval
from bench.records.files import write_text
from bench.show.waiting import announce
from bench.tune.descent import LEAST_GAIN, Changes, descend

log = logging.getLogger(__name__)


@dataclass
class TuneConfig(Config):
    """Everything that ``python -m bench`` takes, and what to try.

    Args:
        grids: Steps by method, see `bench.tune.descent`.
        out: Folder of the results; None is ``RESULTS_DIR/tuned/MODEL``.
    """

    grids: dict[str, Any] = field(default_factory=dict)
    out: str | None = None


def main() -> None:
    """Entry point of ``python -m bench.tune``."""
    register_schema()
    ConfigStore.instance().store(name="tune_schema", node=TuneConfig)
    run_composed(_job, "tune", "what was measured is kept, and the same command goes on")


def _job(composed: DictConfig) -> None:
    if str(composed.model.prompts) == "official" and composed.task.get("path") is None:
        raise UserError(
            "tuning on the questions of the benchmark would flatter every method",
            "leave model.prompts=builtin, or give held-out prompts: task=jsonl task.path=FILE",
        )
    grids: Any = OmegaConf.to_container(composed.grids)
    for name in _names(composed):
        announce(
            f"tuning {name}: loading torch and the model; {len(grids[name])} steps of its grid come next"
        )
        tuner = Tuner(composed, name)
        best = descend(grids[name], tuner.speedups)
        tuner.store(best, tuner.gain(best) if best else None)


def _names(composed: DictConfig) -> list[str]:
    """The methods to tune; of ``all``, those that have a grid.

    Raises:
        UserError: If a method that was named has no grid.
    """
    if composed.methods == EVERYONE:
        return [name for name in known_methods() if name in composed.grids]
    chosen = str(HydraConfig.get().runtime.choices["method"])
    named = [chosen] if composed.methods is None else list(map(str, composed.methods))
    for name in named:
        if name not in composed.grids:
            known = ", ".join(map(str, composed.grids))
            what = f"there is nothing to try for method {name}"
            raise UserError(what, f"choose one of {known}, or set grids.{name}")
    return [name for name in named if name != BASELINE]


class Tuner:
    """Measures settings of one method beside each other, as runs of several methods."""

    def __init__(self, composed: DictConfig, name: str) -> None:
        self._composed, self._name = composed, name
        self._runs: list[str] = []

    def speedups(self, candidates: list[Changes]) -> list[float]:
        """How many times as fast as plain decoding each candidate is."""
        speeds = [row[0].estimate for row in self._compared(candidates)[1:]]
        for candidate, speed in zip(candidates, speeds, strict=True):
            log.info("%s %s: %.3fx", self._name, dict(candidate) or "as published", speed)
        return speeds

    def gain(self, best: Changes) -> Interval:
        """How many times as fast the best settings are as the published ones, measured once more."""
        _plain, published, tuned = range(3)
        return self._compared([{}, best])[tuned][published]

    def store(self, best: Changes, gain: Interval | None) -> None:
        """Write what was found, or remove an earlier result where nothing is faster."""
        from bench.metrics.run_figures import speedup

        settings = self._settings([best])
        out = self._composed.out or settings.results_dir / "tuned" / str(settings.model.name)
        file = Path(out) / f"{self._name.replace('/', '-')}.json"
        if gain is None or gain.estimate < LEAST_GAIN:
            log.info("%s: nothing is faster than its published settings", self._name)
            file.unlink(missing_ok=True)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(self._facts(settings, best, gain), indent=2) + "\n")
        log.info("%s: %s, %s over published; stored in %s", self._name, dict(best), speedup(gain), file)

    def _compared(self, candidates: list[Changes]) -> tuple[tuple[Interval, ...], ...]:
        """Every arm over every other; plain decoding is the first."""
        settings = self._settings(candidates)
        require_places(settings)

        from bench.measure.runner import measure  # loads torch
        from bench.metrics.arena import contest

        measured = measure(settings)
        self._runs.append(measured.run.run_id)
        pairs = contest(measured.samples, list(settings.methods)).pairs
        if pairs is None:
            raise UserError(f"{self._name} was measured on too few questions", "raise task.limit")
        return pairs.intervals

    def _settings(self, candidates: list[Changes]) -> Settings:
        arms = [{self._name: dict(changes)} for changes in candidates]
        listed = OmegaConf.merge(self._composed, {"methods": arms})
        assert isinstance(listed, DictConfig)
        return arena_settings(listed, compose_again, known_methods())

    def _facts(self, settings: Settings, best: Changes, gain: Interval) -> Mapping[str, Any]:
        """What is stored: the settings, what they gain, and where that was measured."""
        from bench.compose.workbench import options_for
        from bench.measure.environment import device_name

        options = options_for(settings.runtime, settings.model)
        return {
            "method": self._name,
            "model": settings.model.name,
            "settings": dict(best),
            "over_published": [round(value, 4) for value in (gain.estimate, gain.low, gain.high)],
            "device": device_name(options.device),
            "dtype": str(options.dtype).removeprefix("torch."),
            "task": settings.task.name,
            "runs": self._runs,
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        }
