"""``bench.plan=true``: which run a command means, how far it is, and what it would take."""

from __future__ import annotations

from dataclasses import dataclass

from bench.compose.settings import Settings
from bench.compose.workbench import draw_up
from bench.measure.cells import arms_of, cells_of, key_of
from bench.plan.outlook import foresee, outlook_lines
from bench.records.store import load_run, load_samples


@dataclass(frozen=True, slots=True)
class Planned:
    """What `execute` would do.

    Args:
        text: Id of the run and how much of it is measured; memory, time, and what must be had first.
        seconds: The time, an estimate; None where there is none.
    """

    text: str
    seconds: float | None


def plan(settings: Settings) -> Planned:
    """What `execute` would do, and what it would take. Fetches nothing and loads no weights."""
    outlook = foresee(settings)
    progress = _progress(settings) if outlook.is_startable else _unstarted(settings, outlook.samples)
    return Planned("\n".join([progress, *outlook_lines(outlook)]), outlook.seconds)


def _progress(settings: Settings) -> str:
    drawn = draw_up(settings)
    folder = settings.results_dir / "runs" / drawn.run.run_id
    cells = cells_of(drawn.task.prompts, settings.measure.repeats)
    wanted = {key_of(cell, arm) for cell in cells for arm in arms_of(cell, drawn.arms)}
    has_begun = (folder / "run.json").is_file()  # a start that was killed at once leaves an empty folder
    stored = load_samples(folder) if has_begun and load_run(folder) else []
    done = sum(sample.error is None and sample.key in wanted for sample in stored)
    state = "complete" if done == len(wanted) else "not started" if not stored else "incomplete"
    return f"{drawn.run.run_id}  {done} of {len(wanted)} samples  {state}"


def _unstarted(settings: Settings, samples: int) -> str:
    """A run whose id is not known yet, for it depends on what is still to be fetched."""
    names = settings.method.name, settings.task.name, settings.model.name
    return f"{'-'.join(names)}  0 of {samples} samples  not started"
