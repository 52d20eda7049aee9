"""The command line of proofs: ``python -m bench.prove 'method=glob(*)'`` or ``method=kangaroo``.

Composes like the benchmark itself and shares its error contract; see `bench.cli`. Several methods are proved
by one process, which shares the models and the enumerated answers among them. Exit status: 0 if nothing that
claims to be exact failed and every control was caught, 1 otherwise, 2 for a mistake of the user.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

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
from bench.compose.tuned import with_tuned
from bench.errors import UserError
from bench.prove.certificates import Check
from bench.prove.config import ProveConfig
from bench.show.waiting import Wait, announce

if TYPE_CHECKING:
    from bench.prove.crew import Crew

GROUP = "method"
log = logging.getLogger(__name__)


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
        choice = _choice(argument) if argument.startswith(f"{GROUP}=") else None
        if choice is None:
            rest.append(argument)
        else:
            chosen = choice
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
        return [str(name) for name in chosen.list or ()]
    if isinstance(chosen, Glob):
        names = list(chosen.filter(options))
        if not names:
            raise UserError("no method fits the pattern", f"options: {', '.join(options)}")
        return names
    named = [item for item in HydraConfig.get().overrides.task if item.startswith(f"{GROUP}=")]
    return [str(HydraConfig.get().runtime.choices[GROUP])] if named else list(options)


def _prove(composed: DictConfig, names: list[str]) -> int:
    """Prove or carry over, and print; the exit status."""
    config: ProveConfig = OmegaConf.to_object(composed)  # type: ignore[assignment]  # the schema's type
    what = "carrying over certificates of" if config.carry else "proving"
    on = config.model.name or config.model.path
    announce(f"{what} {', '.join(names)} on {on}: loading torch and the model")
    components = [_component(name) for name in names]
    from bench.prove.crew import Crew
    from bench.prove.models import Models

    models = Models(config)
    models.configured("fp32")  # a mistake about the model is reported before the work begins
    with Crew(config, models) as crew:
        return (_carry if config.carry else _certify)(crew, config, components)


def _certify(crew: Crew, config: ProveConfig, components: list[Component]) -> int:
    """Prove every method, and print what became of each."""
    from bench.prove.certificates import save
    from bench.prove.control_run import caught_by
    from bench.prove.listing import certificate_lines, certificate_table, control_lines

    with Wait("controls", crew.number_of_controls, "control") as wait:
        outcomes, certificates = crew.controls(partial(_progress, wait)), []
    _say(control_lines(outcomes))
    with Wait("checks", crew.number_of_checks(components), "check") as wait:
        for certificate in crew.certificates(components, caught_by(outcomes), partial(_progress, wait)):
            certificates.append(certificate)
            path = save(certificate, Path(config.results_dir))
            _say(f"\n{certificate_lines(certificate, str(path))}")
    _say(f"\n{certificate_table(certificates)}")
    are_controls_caught = all(outcome.is_as_expected for outcome in outcomes)
    return OK if are_controls_caught and not any(made.failures for made in certificates) else FAILED


def _carry(crew: Crew, config: ProveConfig, components: list[Component]) -> int:
    """Keep certificates for code that decodes the battery as the proved code did."""
    from bench.prove.carry import carry

    status = OK
    prover = crew.prover
    with Wait("battery", len(components), "method") as wait:
        for component, hashes in zip(components, crew.transcripts(components), strict=True):
            outcome = carry(component, prover, hashes, Path(config.results_dir))
            _say(outcome.text)
            status = status if outcome.is_kept else FAILED
            wait.add()
    return status


def _progress(wait: Wait, what: str, check: Check | None) -> None:
    """A line of progress on stderr, and a step of the bar."""
    log.info("%s: %s", what, check.status if check is not None else "passed all checks")
    wait.add()


def _component(name: str) -> Component:
    """The configured method of that name, with the other overrides of the command line."""
    others = [item for item in HydraConfig.get().overrides.task if not item.startswith(f"{GROUP}=")]
    try:
        composed = compose("prove", [*others, f"{GROUP}={name}"])
        if composed.tuned is not None:
            composed = with_tuned(composed, name)
        return Component.from_node(GROUP, name, OmegaConf.to_container(composed.method, resolve=True))
    except Exception as error:
        raise explain(error) or error from error


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the command's result
