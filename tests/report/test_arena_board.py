"""Runs of several methods on the board: their own section, ranks by paired differences, what has none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.records.model import Sample
from bench.report.arena_tables import (
    APART_NOTE,
    RANKS_NOTE,
    arena_remarks,
    pair_tables,
    session_tables,
    settings_table,
    wait_table,
)
from bench.report.board import Section, sections
from bench.report.build import build
from bench.report.document import section_chapter
from bench.report.entries import entries
from bench.report.excerpt import excerpt
from bench.report.stored_runs import read_run, read_runs
from bench.report.words import headline, section_alarms
from tests.harness import undrawn
from tests.report.boards import ArenaPlan, Plan, digest, save, stored, stored_arena

PLAN = ArenaPlan({"medusa": 1.5, "kangaroo": 1.6, "sam": 1.1})
APART = [
    Plan(method, speed, subtasks=("qa",), questions=24, limit=24)
    for method, speed in (("swift", 1.2), ("del", 1.7))
]


def board_of(root: Path, *plans: ArenaPlan | Plan) -> list[Section]:
    for plan in plans:
        save(stored_arena(plan) if isinstance(plan, ArenaPlan) else stored(plan), root)
    return sections(entries(read_runs(root).runs))


def ranks_of(section: Section) -> dict[str, int]:
    return {row.label: row.rank for row in section.ranked}


def test_a_sure_paired_difference_separates_methods_whose_own_intervals_overlap(tmp_path: Path) -> None:
    (section,) = board_of(tmp_path, PLAN)
    assert ranks_of(section) == {"kangaroo": 1, "medusa": 2, "sam": 3}
    first, second, _ = (row.entry.summary.speedup.decode for row in section.lossless)
    assert first is not None
    assert second is not None
    assert second.high > first.low
    assert [row.label for row in section.lossless] == ["kangaroo", "medusa", "sam"]
    assert section.unranked == ()


def test_of_runs_with_as_many_questions_that_of_more_methods_comes_first(tmp_path: Path) -> None:
    fewer = [ArenaPlan({method: 1.9}) for method in ("m2r2", "swift")]  # one of them has a smaller id
    parts = board_of(tmp_path, PLAN, *fewer)
    assert [len(section.entries) for section in parts] == [3, 1, 1]


def test_a_run_of_several_sessions_says_so(tmp_path: Path) -> None:
    for count in (1, 2):
        (section,) = board_of(tmp_path / str(count), replace(PLAN, sessions=count))
        assert section.sessions == count
        for text in (section_chapter(section, ()).subtitle, excerpt(tmp_path / str(count))):
            assert (", in 2 sessions." in text) == (count == 2)


def test_every_session_has_its_own_column(tmp_path: Path) -> None:
    (once,) = board_of(tmp_path / "once", PLAN)
    (section,) = board_of(tmp_path / "thrice", replace(PLAN, sessions=3))
    assert list(session_tables(once)) == []
    (table,) = session_tables(section)
    assert table.header == ("method", "session 1", "session 2", "session 3")
    assert [row[0] for row in table.rows] == ["kangaroo", "medusa", "sam"]
    for row, speed in zip(table.rows, (1.6, 1.5, 1.1), strict=True):
        assert all(0.8 * speed < float(cell.partition("x")[0]) < 1.25 * speed for cell in row[1:])


def test_two_equal_methods_share_a_rank(tmp_path: Path) -> None:
    (section,) = board_of(tmp_path, ArenaPlan({"medusa": 1.6, "kangaroo": 1.6, "sam": 1.2}))
    assert ranks_of(section) == {"kangaroo": 1, "medusa": 1, "sam": 3}


def test_plain_decoding_takes_no_rank(tmp_path: Path) -> None:
    (section,) = board_of(tmp_path, ArenaPlan({"kangaroo": 1.6, "sam": 0.7}, spread=0.1))
    assert ranks_of(section) == {"kangaroo": 1, "sam": 2}


def test_a_run_whose_two_baselines_differ_is_not_ranked(tmp_path: Path) -> None:
    (section,) = board_of(tmp_path, replace(PLAN, control=1.04))
    assert section.ranked == ()
    reasons = {row.label: row.reason for row in section.unranked}
    assert set(reasons) == set(PLAN.methods)
    assert len(set(reasons.values())) == 1
    assert reasons["sam"].startswith("the two equal baselines differ by ")
    alarm, *_ = section_alarms(section)
    assert (alarm.name, alarm.what) == ("NOT RANKED", reasons["sam"])
    assert headline(section) == f"No method has a rank: {reasons['sam']}."


def test_a_run_of_few_questions_is_not_ranked_and_says_why(tmp_path: Path) -> None:
    (section,) = board_of(tmp_path, replace(PLAN, questions=1))
    assert section.ranked == ()
    assert [alarm.name for alarm in section_alarms(section)][-1] == "FEW QUESTIONS"


def test_runs_of_several_methods_come_first_and_others_are_measured_apart(tmp_path: Path) -> None:
    first, second = board_of(tmp_path, *APART, PLAN)
    assert first.arena.startswith("arena-")
    assert second.arena == ""
    assert ranks_of(second) == {"del": 1, "swift": 2}
    assert next(arena_remarks(first)) == RANKS_NOTE
    assert list(arena_remarks(second)) == [APART_NOTE]
    assert list(pair_tables(second)) == []
    assert first.anchor != second.anchor


def test_two_runs_of_several_methods_are_two_sections(tmp_path: Path) -> None:
    made = board_of(tmp_path, PLAN, replace(PLAN, seed=1))
    assert len({section.arena for section in made}) == len({section.anchor for section in made}) == 2


def test_lossy_methods_are_ranked_apart(tmp_path: Path) -> None:
    (section,) = board_of(tmp_path, replace(PLAN, lossy=("medusa",)))
    assert {row.label: row.rank for row in section.lossless} == {"kangaroo": 1, "sam": 2}
    assert {row.label: row.rank for row in section.lossy} == {"medusa": 1}
    assert [contest.ranks for contest in section.contests] == [
        {"kangaroo": 1, "sam": 2, "autoregressive": 3},
        {"medusa": 1, "autoregressive": 2},
    ]


def test_a_method_with_failures_has_no_rank_and_the_others_keep_theirs(tmp_path: Path) -> None:
    made = stored_arena(PLAN)
    failing = next(place for place, sample in enumerate(made.samples) if sample.label == "medusa")
    samples = list(made.samples)
    samples[failing] = without_numbers(samples[failing])
    save(replace(made, samples=tuple(samples)), tmp_path)
    (section,) = board_of(tmp_path)
    assert ranks_of(section) == {"kangaroo": 1, "sam": 2}
    (row,) = section.unranked
    assert (row.label, "1 samples failed" in row.reason) == ("medusa", True)


def without_numbers(sample: Sample) -> Sample:
    kept = ("prompt_id", "subtask", "turn", "repeat", "arm", "order", "method", "session", "after")
    return Sample(**{name: getattr(sample, name) for name in kept}, error="OutOfMemoryError: CUDA")


def test_pairs_waits_and_settings_of_every_method_are_shown(tmp_path: Path) -> None:
    (section,) = board_of(tmp_path, PLAN)
    (pairs,), waits, settings = pair_tables(section), wait_table(section), settings_table(section)
    names = ["autoregressive", *PLAN.methods]
    assert pairs.header == ("method", *names)
    assert [row[0] for row in pairs.rows] == names
    assert pairs.rows[1][3] != pairs.rows[1][4]
    assert [row[0] for row in waits.rows] == ["autoregressive", "kangaroo", "medusa", "sam"]
    assert dict(settings.rows) == dict.fromkeys(PLAN.methods, "draft_length=4")


def test_a_machine_that_slowed_down_is_told_above_the_ranks(tmp_path: Path) -> None:
    made = stored_arena(PLAN)
    half = len(made.samples) // 2
    slow = [slowed(sample) for sample in made.samples[half:]]
    save(replace(made, samples=(*made.samples[:half], *slow)), tmp_path)
    (section,) = board_of(tmp_path)
    alarm = next(alarm for alarm in section_alarms(section) if alarm.name == "UNSTEADY MACHINE")
    assert alarm.what.startswith("the baseline's speed moved by ")
    assert not [remark for remark in arena_remarks(section) if remark.endswith("..")]


def slowed(sample: Sample) -> Sample:
    assert sample.timing is not None
    return replace(sample, timing=replace(sample.timing, decode_s=1.4 * sample.timing.decode_s))


def test_a_method_of_a_run_of_several_is_named_after_a_colon(tmp_path: Path) -> None:
    folder = save(stored_arena(PLAN), tmp_path)
    part = read_run(folder.with_name(f"{folder.name}:medusa"))
    assert (part.label, part.run.method) == ("medusa", "medusa")
    assert {sample.label for sample in part.samples} == {"baseline", "control", "medusa"}
    with pytest.raises(UserError) as caught:
        read_run(folder)
    assert caught.value.what == f"{folder} is a run of 3 methods"
    assert caught.value.fix == "name one: " + ", ".join(f"{folder.name}:{name}" for name in PLAN.methods)
    with pytest.raises(UserError, match="has no method 'swift'"):
        read_run(folder.with_name(f"{folder.name}:swift"))


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    save(stored_arena(ArenaPlan({"kangaroo": 1.6, "sam": 1.1}, questions=3)), tmp_path)
    with undrawn():
        first, second = build(tmp_path), build(tmp_path)
    assert digest(first) == digest(second)
    text = first.texts["leaderboard.md"]
    assert "### Faster by: the row's method over the column's" in text
    assert "machine.png" in text
