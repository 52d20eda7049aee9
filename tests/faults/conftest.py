"""One small workload, its undisturbed records, and the table of faults at the end of the session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.faults.driver import Workload, only_run
from tests.faults.harms import CountLines
from tests.faults.ledger import PROPERTY, Contents, Ledger, contents, table
from tests.harness import save_prompts, save_random_model


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to.

    Args:
        records: What its samples say.
        lines: Lines of our code that it executed, see `harms.TRACED`.
        bytes: Size of its record file.
        run_bytes: Size of ``run.json``.
    """

    records: Contents
    lines: int
    bytes: int
    run_bytes: int


@pytest.fixture(scope="session")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    folder = tmp_path_factory.mktemp("workload")
    model = save_random_model(folder / "model", layers=3)
    talk = ["Tell me a story.", "And another?"]
    return Workload(model, save_prompts(folder / "prompts.jsonl", talk, ["What is the capital?"]))


@pytest.fixture(scope="session")
def undisturbed(workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    end = workload.run(folder / "results", CountLines(folder / "lines"))
    assert end.status == 0, end.said
    run = only_run(folder / "results")
    sizes = [(run / name).stat().st_size for name in ("samples.jsonl", "run.json")]
    return Undisturbed(contents(run), int((folder / "lines").read_text()), *sizes)


@pytest.fixture
def ledger(undisturbed: Undisturbed, record_property: Callable[[str, object], None]) -> Ledger:
    return Ledger(undisturbed.records, record_property)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of faults, whatever else pytest prints."""
    reports = [report for name in ("passed", "failed") for report in terminalreporter.stats.get(name, [])]
    rows = [value for report in reports for name, value in report.user_properties if name == PROPERTY]
    if rows:
        terminalreporter.section("faults: harmed, started again by the same command, compared")
        for line in table(rows):
            terminalreporter.write_line(line)
