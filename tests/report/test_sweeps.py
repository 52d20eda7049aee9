"""Sweeps: which entries form one, which settings its figure shows; no figure of a lossy speedup alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.records.model import Arm
from bench.report.board import Section, sections
from bench.report.entries import entries
from bench.report.figure_data import MOST_METHODS, chosen, pictures
from bench.report.stored_runs import StoredRun
from bench.report.sweeps import quality, sweep_pictures, sweeps
from tests.report.boards import Plan, stored

GRID = [{"exit_layer": exit_layer, "draft_length": length} for exit_layer in (2, 4) for length in (3, 6)]


def section(*runs: StoredRun) -> Section:
    (only,) = sections(entries(runs))
    return only


def variants(method: str, *params: dict[str, Any], **changes: Any) -> list[StoredRun]:
    return [stored(Plan(method, params=values, subtasks=("qa",), limit=12, **changes)) for values in params]


def judged(run: StoredRun) -> StoredRun:
    """The run with every second answer right, and a likelihood for each."""
    samples = [
        replace(sample, is_right=bool(place % 2), reference_nll=8.0 if sample.arm is Arm.METHOD else 4.0)
        for place, sample in enumerate(run.samples)
    ]
    return replace(run, samples=tuple(samples))


@pytest.mark.parametrize(
    ("params", "drawn"),
    [
        (GRID, ["sweep-layerskip"]),  # two settings: a heat map
        ([{"draft_length": n} for n in (2, 4, 6)], ["sweep-layerskip"]),  # one: a curve
        ([{"draft_length": n} for n in (2, 4)], []),  # two points are no curve
        ([{"threshold": 0.5, **values, "width": i} for i, values in enumerate(GRID)], []),  # three settings
        ([{**values, "policy": name} for values in GRID for name in ("fsm", "static")], ["", "-2"]),
    ],
    ids=["two settings", "one setting", "two values", "three settings", "two policies"],
)
def test_settings_that_differ_make_a_figure(params: list[dict[str, Any]], drawn: list[str]) -> None:
    got = [picture.name for picture in sweep_pictures(section(*variants("layerskip", *params)))]
    assert got == [name if name.startswith("sweep") else f"sweep-layerskip{name}" for name in drawn]


def test_sweeps_of_one_method_are_named_by_the_settings_that_are_no_numbers() -> None:
    params = [{**values, "policy": name} for values in GRID for name in ("fsm", "static")]
    got = sweeps(section(*variants("layerskip", *params)).ranked)
    assert {sweep.name for sweep in got} == {"layerskip policy=fsm", "layerskip policy=static"}
    assert {sweep.swept for sweep in got} == {("exit_layer", "draft_length")}


def test_quality_against_speed_is_drawn_for_a_lossy_sweep_and_its_speed_alone_is_not() -> None:
    params = [{"confidence": value} for value in (0.5, 0.7, 0.9)]
    runs = [judged(run) for run in variants("hamburger", *params, exactness="lossy")]
    lossy = section(*runs)
    frame = quality(lossy)
    assert sorted(frame["confidence"]) == [0.5, 0.7, 0.9]
    assert frame["nats"].tolist() == [0.2] * 3
    assert frame["nats_of_target"].tolist() == [0.1] * 3
    assert "quality" in [picture.name for picture in pictures(lossy)]
    assert list(sweep_pictures(lossy)) == []


def test_a_section_without_sweeps_has_no_figure_of_any() -> None:
    names = [picture.name for picture in pictures(section(*variants("kangaroo", {})))]
    assert names == ["time", "positions", "waits"]


def test_with_too_many_entries_the_fastest_variant_stands_for_its_method() -> None:
    many = variants("layerskip", *({"draft_length": n} for n in range(1, MOST_METHODS + 1)))
    shown, words = chosen(section(*many, *variants("kangaroo", {}, speed=3.0)).ranked)
    assert [row.entry.method for row in shown] == ["kangaroo", "layerskip"]
    assert words == " Of several variants of a method, the fastest."
    assert len(chosen(section(*many).ranked)[0]) == MOST_METHODS
