"""The machine's rows of a run's table, and the page that explains every line of it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench.metrics.experts import ExpertFigures
from bench.metrics.lossy import Answers
from bench.metrics.roofline import Costs, Curve, Probe
from bench.metrics.run_figures import UNMEASURED, LossyFigures, Resources, SearchCost, Subtask, Summary
from bench.metrics.summary import summarise
from bench.prove.certificates import badge_of
from bench.records.store import load_run, load_samples
from bench.report.stored_runs import recounted
from bench.show.table import lossy_rows, machine_rows, prediction_rows, run_table

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT / "results" / "published"
PAGE = ROOT / "docs" / "reading-the-table.md"
EXAMPLE = "kangaroo-mt_bench-tiny-a5d10ca0"
COSTS = Costs(100, 8, Curve((1, 4), (0.010, 0.015)), Curve((1, 4), (0.001, 0.001)), 0.002)
PROBE = Probe(COSTS, weight_bytes=20_000_000, token_bytes=20_000, read_bytes_per_s=4.4e9)
LOSSY = LossyFigures(Answers(1, 2), Answers(2, 2), 0.1, 0.2, 3.0, {1: 2, 2: 1}, 0.5, 0.7, 1.6)


def test_a_prediction_stands_beside_the_times_it_comes_from() -> None:
    (row,) = prediction_rows(PROBE, 1.5)
    assert row[1:] == ("1.500x", "a target pass: 1 row 10.00 ms, 4 rows 1.50 times that")
    assert prediction_rows(None, 1.5) == prediction_rows(PROBE, None) == []


def test_the_baselines_reading_stands_beside_what_the_machine_can_read() -> None:
    rows = dict(machine_rows(PROBE, 100.0, [UNMEASURED, UNMEASURED]))
    share = "2.2 GB/s, 50% of the fastest read here; launch overhead 20% of a 1-row pass"
    assert rows == {
        "baseline reads memory at": share,
        "memory": "weights 20.0 MB, keys and values 20.0 kB per token",
    }


def test_peaks_and_energy_are_shown_where_they_are_known() -> None:
    arms = [Resources(2_000_000_000, 3_000_000_000, 1.5), Resources(2_500_000_000, 3_000_000_000, None)]
    rows = dict(machine_rows(None, None, arms))
    assert rows["peak memory"] == "allocated 2.0 GB, 2.5 GB; reserved 3.0 GB, 3.0 GB (baseline, method)"
    assert rows["energy"] == "1.50, - J per token (baseline, method)"
    assert machine_rows(None, None, [UNMEASURED, UNMEASURED]) == []


@pytest.fixture(scope="module")
def example() -> Summary:
    folder = PUBLISHED / "runs" / EXAMPLE
    run = load_run(folder)
    return summarise(run, recounted(run, load_samples(folder)), evidence=badge_of(run, PUBLISHED))


@pytest.fixture(scope="module")
def fullest(example: Summary) -> Summary:
    """A summary whose table has every line that any table may have, but for the lossy ones."""
    subtask = Subtask("task", example.speedup, example.acceptance.pooled)
    gpu = Resources(2_000_000_000, 3_000_000_000, 1.5)
    return replace(
        example,
        subtasks=tuple(replace(subtask, name=f"task {place}") for place in range(8)),
        search=SearchCost(1.0, 2.0, 1.5, 0.1, 10, 5, True),
        skipped=0.4,
        experts=ExpertFigures(0.75, 0.1, 0.1, 2.0e6, 0.01, 0.5, 24, 48),
        baseline=replace(example.baseline, resources=gpu),
        method=replace(example.method, resources=gpu),
        failures={"method: boom": 1},
        excluded=("q1",),
    )


def test_the_page_shows_the_example_as_it_is_printed(example: Summary) -> None:
    assert f"```text\n{run_table(example)}\n```" in PAGE.read_text(encoding="utf-8")


def labels_of(table: str) -> set[str]:
    """The first cells of a table's lines, without the heading and the subtasks' names."""
    lines = [line for line in table.splitlines() if "  " in line.strip()]
    cells = {re.split(r"  +", line.strip())[0] for line in lines if not line.startswith("    ")}
    return {cell for cell in cells if cell and not cell.startswith("task ")}


def test_the_page_explains_every_line(fullest: Summary) -> None:
    page = PAGE.read_text(encoding="utf-8")
    labels = labels_of(run_table(fullest).split("\n", 2)[2]) | {label for label, *_ in lossy_rows(LOSSY)}
    labels |= {"speedup by subtask", "acceptance"}
    assert len(labels) >= 30
    assert sorted(label for label in labels if f"| {label} |" not in page) == []


def test_the_table_fits_its_width(fullest: Summary) -> None:
    assert max(map(len, run_table(fullest).splitlines())) <= 110
    lossy = replace(fullest, lossy=LOSSY)
    assert not any(line.endswith("...") for line in run_table(lossy).splitlines())
