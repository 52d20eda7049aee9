"""The command line of a benchmark: Hydra composes the settings, a job measures, the result goes to stdout.

Exit status: 0 done; 1 some work failed, its record says why; 2 a mistake of the user, explained in two lines
on stderr; 130 interrupted; 141 nobody reads the output any more. A failing run of a sweep does not stop the
others. Only jobs import torch, so that ``--help`` and ``--cfg`` answer at once.
"""

import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial, wraps
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from bench.compose.arena import arena_settings
from bench.compose.command_help import further_folders, help_text, schema_of
from bench.compose.command_line import compose_again, known_methods
from bench.compose.mistakes import explain, is_lost_job
from bench.compose.places import require_places
from bench.compose.schema import register_schema
from bench.compose.settings import Settings, prepared, settings_from
from bench.errors import UserError
from bench.measure.isolate import run_isolated
from bench.show.waiting import announce
from bench.tasks.task import LoadedTask, load_here

log = logging.getLogger(__name__)

CONF = str(Path(__file__).resolve().parents[1] / "conf")
OK, FAILED, MISTAKE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141
STATUS_FILE = "status"
"""File in Hydra's folder of a sweep's job that holds its exit status, which no launcher returns."""
PLAN_FILE = "plan_s"
"""File in the same folder that holds the seconds that the job's plan estimates."""


class SweepTally(Callback):
    """Ends a sweep with the worst status of its jobs, whichever process ran them."""

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        """Read the files that the jobs wrote; Hydra calls this in the process that started the sweep."""
        folders = [path for path in Path(str(config.hydra.sweep.dir)).glob("*") if path.is_dir()]
        plans = [folder / PLAN_FILE for folder in folders if (folder / PLAN_FILE).is_file()]
        _print_total([float(path.read_text(encoding="utf-8")) for path in plans])
        jobs = sorted((folder for folder in folders if folder.name.isdigit()), key=lambda job: int(job.name))
        _print_sweep(jobs)
        statuses = [_read_status(folder) for folder in jobs]
        bad = sum(status != OK for status in statuses)
        if bad:
            sys.stderr.write(
                f"{bad} of {len(statuses)} runs failed; the same command repeats only what is missing\n"
            )
            raise SystemExit(max(statuses))


def job(composed: DictConfig) -> None:
    """Run once. A single run exits with its status; a job of a sweep writes the status to its folder."""
    status = _in_sessions(composed) if not composed.bench.plan else _attempt(composed)
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        folder = Path(HydraConfig.get().runtime.output_dir)
        (folder / STATUS_FILE).write_text(str(status), encoding="utf-8")
    elif status != OK:
        raise SystemExit(status)


def main() -> None:
    """Entry point of ``python -m bench``."""
    register_schema()
    run_composed(job, "bench", "everything measured so far is kept, and the same command resumes")


def run_composed(job: Callable[[DictConfig], None], config: str, kept: str) -> None:
    """Let Hydra compose the command line and run `job`, with the exit statuses of this module.

    Args:
        job: Called with the composed tree.
        config: Name of the primary yaml file.
        kept: What remains after an interrupt, for the message.
    """
    print_any_text()
    if {"--help", "-h"} & set(sys.argv[1:]):
        sys.exit(_help(config))
    if {"--multirun", "-m"} & set(sys.argv[1:]):
        announce("composing the runs of this sweep, then one after the other")
    if not _has_working_directory():
        sys.exit(
            report_mistake(UserError("the working directory was deleted", "change to another one: cd ~"))
        )
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them

    try:
        hydra.main(version_base="1.3", config_path=CONF, config_name=config)(_guarded(job))()
    except KeyboardInterrupt:
        sys.stderr.write(f"\ninterrupted: {kept}\n")
        sys.exit(INTERRUPTED)
    except Exception as error:
        mistake = explain(error)
        if mistake is not None:
            sys.exit(report_mistake(mistake))
        if not is_lost_job(error):
            raise
        first = str(error).partition("\n")[0]
        sys.stderr.write(f"a run was lost: {first}\nits logs are beside that file; {kept}\n")
        sys.exit(FAILED)


def _help(config: str) -> int:
    try:
        say(help_text(config, schema_of(config), further_folders(sys.argv[1:])))
    except BrokenPipeError:
        return leave_closed_pipe()
    return OK


def _guarded(job: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """The job, with a mistake told here: Hydra prints a line about what escapes."""

    @wraps(job)
    def guarded(composed: DictConfig) -> None:
        try:
            job(composed)
        except BrokenPipeError as error:
            raise SystemExit(leave_closed_pipe()) from error
        except Exception as error:
            mistake = explain(error)
            if mistake is None:
                raise
            raise SystemExit(report_mistake(mistake)) from error

    return guarded


def _in_sessions(composed: DictConfig) -> int:
    """Run in this process, or isolated in one of its own; several sessions each in a fresh one."""
    sessions = composed.measure.sessions
    if not composed.bench.isolate and sessions == 1:
        return _attempt(composed)
    status = OK
    for session in range(sessions):
        status = _status_of_child(run_isolated(partial(_attempt, composed, session)))
        if status not in (OK, FAILED):
            break
    return status


def _attempt(composed: DictConfig, session: int | None = None) -> int:
    """Run the job and report errors on stderr; only an interrupt is raised again."""
    try:
        settings = _settings(composed)
        require_places(settings)
        if not settings.plan:
            announce(settings.first_line)
        task = load_here(settings.task.build())  # a mistake shows before torch is loaded, which takes seconds
        return _plan(settings) if settings.plan else _execute(settings, session, task)
    except UserError as mistake:
        return report_mistake(mistake)
    except BrokenPipeError:
        return leave_closed_pipe()
    except Exception:
        log.exception("the run failed")
        return FAILED


def _status_of_child(status: int) -> int:
    """The exit status of an isolated run. A run that was killed has failed, and a sweep goes on.

    Raises:
        KeyboardInterrupt: If the run was interrupted, which interrupts the whole command.
    """
    if status in (INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    if status >= 0:
        return status
    name = signal.Signals(-status).name
    sys.stderr.write(f"the run was killed by {name}; what it measured is kept, the same command resumes it\n")
    return FAILED


def _settings(composed: DictConfig) -> Settings:
    choices: Mapping[str, str | None] = HydraConfig.get().runtime.choices
    try:
        composed, choices = prepared(composed, choices)
        if composed.methods is None:
            return settings_from(composed, choices)
        if named := [text for text in HydraConfig.get().overrides.task if text.startswith("method=")]:
            raise UserError(f"{named[0]} and methods= are both given", "leave one of them out")
        announce(f"composing the settings of methods={composed.methods}")
        return arena_settings(composed, compose_again, known_methods())
    except Exception as error:
        raise explain(error) or error from error


def _execute(settings: Settings, session: int | None, task: LoadedTask | None) -> int:
    from bench.measure.finished import finished

    outcome = finished(settings, task)
    if outcome is None:
        from bench.measure.runner import execute  # loads torch

        outcome = execute(settings, session, task)
    say(f"{outcome.table}\n{outcome.run_dir}")
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        from bench.show.sweep import store_rows

        store_rows(Path(HydraConfig.get().runtime.output_dir), outcome.rows, settings.results_dir)
    return FAILED if outcome.failures else OK


def _plan(settings: Settings) -> int:
    from bench.plan.planning import plan

    planned = plan(settings)
    say(planned.text)
    if planned.seconds is not None and HydraConfig.get().mode is RunMode.MULTIRUN:
        folder = Path(HydraConfig.get().runtime.output_dir)
        (folder / PLAN_FILE).write_text(str(planned.seconds), encoding="utf-8")
    return OK


def say(result: str) -> None:
    """Print a command's result.

    Raises:
        UserError: If standard output takes nothing, as a full disk does.
        BrokenPipeError: If nobody reads it any more.
    """
    try:
        print(result, flush=True)  # noqa: T201 - the command's result
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(
            f"the result cannot be printed: {error.strerror}",
            "it is stored all the same: the same command prints it again",
        ) from error


def leave_closed_pipe() -> int:
    """End quietly after the reader of the output has ended, as with ``| head``; returns the exit status."""
    with suppress(OSError, ValueError):  # a stream without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at exit
    return BROKEN_PIPE


def _has_working_directory() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def print_any_text() -> None:
    """Print letters that the terminal's encoding lacks as escapes, instead of failing on them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def report_mistake(mistake: UserError) -> int:
    """Print a user's mistake in two lines on stderr and return the exit status."""
    sys.stderr.write(f"error: {' '.join(mistake.what.split())}\nfix: {' '.join(mistake.fix.split())}\n")
    return MISTAKE


def _print_total(estimates: list[float]) -> None:
    """Print the last line of a sweep's plan: the time of all of its runs that have an estimate."""
    if estimates:
        hours = sum(estimates) / 3600
        print(f"{len(estimates)} runs, estimated {hours:.1f} h in all", flush=True)  # noqa: T201 - as above


def _print_sweep(jobs: Sequence[Path]) -> None:
    """Print the last table of a sweep that measured something: a line per run and method."""
    from bench.show.sweep import sweep_end

    failed = [folder for folder in jobs if _read_status(folder) != OK]
    if text := sweep_end(jobs, failed):
        say(text)


def _read_status(folder: Path) -> int:
    """Status of a sweep's job; a job without a status file was killed."""
    path = folder / STATUS_FILE
    return int(path.read_text(encoding="utf-8")) if path.exists() else FAILED
