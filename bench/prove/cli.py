"""The command line of proofs: ``python -m bench.prove 'method=glob(*)'`` or ``method=kangaroo``.

Composes like the benchmark itself and shares its error contract; see `bench.cli`. Several methods are proved
by one process, which shares the models and the enumerated answers among them. Exit status: 0 if nothing that
claims to be exact failed and every control was caught, 1 otherwise, 2 for a mistake of the user.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob
from hydra.errors import OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bench.cli import FAILED, OK, STATUS_FILE, report_mistake, run_composed
from bench.compose.components import Component
from bench.compose.mistakes import explain
from bench.errors import UserError
from bench.prove.config import ProveConfig

GROUP = "method"


def main() -> None:
    """Entry point of ``python -m bench.prove``."""
    ConfigStore.instance().store(name="prove_schema", node=ProveConfig)
    chosen, rest = split_choice(sys.argv[1:])
    sys.argv[1:] = rest

    def job(composed: DictConfig) -> None:
        _job(composed, chosen)

    run_composed(job, "prove", "the certificates that were printed are kept")


def split_choice(arguments: Sequence[str]) -> tuple[ChoiceSweep | Glob | None, list[str]]:
    """Take a choice of several methods off the command line; Hydra would start a sweep for it.

    Returns:
        The choice, or None if one method or none is named; and the other arguments.
    """
    chosen, rest = None, list[str]()
    for argument in arguments:
        found = _choice(argument) if argument.startswith(f"{GROUP}=") else None
        if found is None:
            rest.append(argument)
        else:
            chosen = found
    return chosen, rest


def _choice(argument: str) -> ChoiceSweep | Glob | None:
    try:
        value = OverridesParser.create().parse_override(argument).value()
    except OverrideParseException:
        return None  # Hydra meets the same argument again and complains
    return value if isinstance(value, ChoiceSweep | Glob) else None


def _job(composed: DictConfig, chosen: ChoiceSweep | Glob | None) -> None:
    try:
        status = _prove(composed, _names(chosen))
    except UserError as mistake:
        status = report_mistake(mistake)
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        folder = Path(HydraConfig.get().runtime.output_dir)
        (folder / STATUS_FILE).write_text(str(status), encoding="utf-8")
    elif status != OK:
        raise SystemExit(status)


def _names(chosen: ChoiceSweep | Glob | None) -> list[str]:
    """The methods to prove: those chosen, else the one named, else all that the search path holds."""
    options = GlobalHydra.instance().config_loader().get_group_options(GROUP)
    if isinstance(chosen, ChoiceSweep):
        return [str(one) for one in chosen.list or ()]
    if isinstance(chosen, Glob):
        names = list(chosen.filter(options))
        if not names:
            raise UserError("no method fits the pattern", f"options: {', '.join(options)}")
        return names
    named = [one for one in HydraConfig.get().overrides.task if one.startswith(f"{GROUP}=")]
    return [str(HydraConfig.get().runtime.choices[GROUP])] if named else list(options)


def _prove(composed: DictConfig, names: list[str]) -> int:
    """Prove and print; the exit status."""
    from bench.prove.certificates import save
    from bench.prove.control_run import caught_by
    from bench.prove.crew import Crew
    from bench.prove.listing import certificate_lines, certificate_table, control_lines
    from bench.prove.models import Models
    from bench.prove.sampling import SETTINGS

    config: ProveConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]  # the schema's type
    components = [_component(name) for name in names]
    models = Models(config)
    models.configured("fp32")  # a mistake about the model is told before the work begins
    alpha = config.alpha / (len(names) * len(SETTINGS))
    certificates = []
    with Crew(config, models, alpha) as crew:
        outcomes = crew.controls()
        _say(control_lines(outcomes))
        for one in crew.certificates(components, caught_by(outcomes)):
            certificates.append(one)
            _say(f"\n{certificate_lines(one, str(save(one, Path(config.results_dir))))}")
    _say(f"\n{certificate_table(certificates)}")
    is_sound = all(one.is_as_expected for one in outcomes) and not any(one.failures for one in certificates)
    return OK if is_sound else FAILED


def _component(name: str) -> Component:
    """The configured method of that name, with the other overrides of the command line."""
    others = [one for one in HydraConfig.get().overrides.task if not one.startswith(f"{GROUP}=")]
    try:
        composed = compose("prove", [*others, f"{GROUP}={name}"])
        return Component.from_node(GROUP, name, OmegaConf.to_container(composed.method, resolve=True))
    except Exception as error:
        raise explain(error) or error from error


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the command's result
