"""What loading experts cost on the board: the figure by share of experts in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.records.model import Arm
from bench.report.board import Section, sections
from bench.report.document import section_chapter
from bench.report.entries import entries
from bench.report.experts import expert_pictures, share_frame
from bench.report.stored_runs import StoredRun, read_runs
from tests.report.boards import ArenaPlan, save, stored_arena

COUNTS = {
    "experts_needed": 40,
    "experts_hit": 30,
    "experts_late": 4,
    "experts_loaded": 10,
    "experts_wasted": 1,
    "expert_bytes": 8000,
    "expert_stall_us": 39_000,
}
PLAN = {"moe_lru[slots=12]": 0.2, "moe_lru[slots=24]": 0.4, "m2r2_moe[slots=12]": 0.3}


def slots_of(label: str) -> int:
    return int(label.rpartition("=")[2].rstrip("]"))


def section(
    root: Path, methods: Mapping[str, float] = PLAN, config: Mapping[str, Any] | None = None, **more: int
) -> Section:
    """The section of an arena whose methods load experts and count ``more`` beside the usual."""
    whole = stored_arena(ArenaPlan(dict(methods)))
    parts = {
        label: {
            **part,
            "name": label.partition("[")[0],
            "method": {"slots": slots_of(label)},
        }
        for label, part in whole.run.methods.items()
    }
    samples = tuple(
        sample
        if sample.arm is not Arm.METHOD
        else replace(sample, counts={**COUNTS, **more, "expert_slots": slots_of(str(sample.method))})
        for sample in whole.samples
    )
    run = replace(whole.run, methods=parts, config=whole.run.config if config is None else config)
    save(StoredRun(run, samples), root)
    (made,) = sections(entries(read_runs(root).runs))
    return made


def test_a_line_per_policy_over_the_share_of_experts_in_memory(tmp_path: Path) -> None:
    frame = share_frame(section(tmp_path, experts_in_all=48))
    assert frame[["policy", "share"]].to_numpy().tolist() == [
        ["m2r2_moe", 0.25],
        ["moe_lru", 0.25],
        ["moe_lru", 0.5],
    ]
    assert frame["speedup"].tolist() == pytest.approx([0.3, 0.2, 0.4], rel=0.3)
    assert ((frame["low"] < frame["speedup"]) & (frame["speedup"] < frame["high"])).all()


def test_the_share_of_waiting_is_that_of_the_samples(tmp_path: Path) -> None:
    made = section(tmp_path, {"moe_lru[slots=12]": 0.2, "moe_lru[slots=24]": 0.4}, experts_in_all=48)
    stalls = [entry.summary.experts.stall for entry in made.entries if entry.summary.experts]
    assert sorted(share_frame(made)["stall"]) == sorted(stalls)


def test_records_that_do_not_count_the_experts_of_an_embedded_model_are_drawn_too(tmp_path: Path) -> None:
    shipped = {"model": {"path": "package:bench/assets/tiny_moe"}}
    assert sorted(set(share_frame(section(tmp_path, config=shipped))["share"])) == [0.25, 0.5]


def test_without_the_number_of_experts_or_two_sizes_nothing_is_drawn(tmp_path: Path) -> None:
    assert expert_pictures(section(tmp_path / "unknown")) == []
    assert expert_pictures(section(tmp_path / "one", {"moe_lru[slots=12]": 0.2}, experts_in_all=48)) == []


def test_the_chapter_shows_the_figure_beside_the_table(tmp_path: Path) -> None:
    parts = {part.title: part for part in section_chapter(section(tmp_path, experts_in_all=48), []).parts}
    assert [table.name for table in parts["Experts"].tables] == ["experts"]
    assert [picture.name for picture in parts["Experts"].pictures] == ["experts"]
