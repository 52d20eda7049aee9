"""A run of several methods seen as one run per method, with the arms that all of them share."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.errors import UserError
from bench.records.model import Run, Sample


def of_method(run: Run, label: str) -> Run:
    """This run as that of a single one of its methods.

    Raises:
        UserError: If the run has no such method.
    """
    if label not in run.methods:
        raise UserError(
            f"run {run.run_id} has no method {label!r}", f"choose one of: {', '.join(run.methods)}"
        )
    part = run.methods[label]
    config = {key: value for key, value in run.config.items() if key != "methods"}
    return replace(
        run,
        method=part["name"],
        identity=_without_methods(run.identity)
        | {"method": part["method"], "method_weights": part["method_weights"]},
        config=config | {"method": (run.config.get("methods") or {}).get(label)},
        labels={**part["labels"], **run.labels},
        attempts=tuple(_own_source(attempt, label) for attempt in run.attempts),
        methods={},
    )


def samples_of(samples: Sequence[Sample], label: str) -> list[Sample]:
    """The samples of one method and of the arms that are no method's."""
    return [sample for sample in samples if sample.method in ("", label)]


def _without_methods(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if key != "methods"}


def _own_source(attempt: Mapping[str, Any], label: str) -> Mapping[str, Any]:
    """An environment block that names the code of this method alone."""
    sources = attempt.get("sources")
    return (
        {**attempt, "source": sources[label]} if isinstance(sources, dict) and label in sources else attempt
    )
