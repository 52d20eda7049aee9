"""What is compared with what, who gets which place, and who gets none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.metrics.intervals import Interval
from bench.records.model import Verdict
from bench.report.board import Section, labels, ranks, sections
from bench.report.entries import Entry, entries, pool, sampling_text
from bench.report.stored_runs import StoredRun
from bench.report.tables import csv_rows, output_cell
from bench.report.words import short_title
from tests.report.boards import BOARD, SUBTASKS, Plan, stored

INT8 = {"draft_head": "int8"}


def board(*plans: Plan) -> list[Section]:
    return sections(entries([stored(plan) for plan in plans]))


def single(plan: Plan) -> Entry:
    (entry,) = entries([stored(plan)])
    return entry


@pytest.fixture(scope="module")
def full() -> Section:
    return board(*BOARD)[0]


@pytest.mark.parametrize(
    ("bounds", "places"),
    [
        ([(2.0, 2.2), (1.0, 1.2)], [1, 2]),  # apart
        ([(2.0, 2.2), (1.9, 2.1)], [1, 1]),  # overlap: a tie
        ([(2.0, 2.2), (1.9, 2.1), (1.0, 1.2)], [1, 1, 3]),  # a tie takes up two places
        (
            [(2.0, 2.2), (1.7, 2.1), (1.6, 1.8)],
            [1, 1, 2],
        ),  # ties do not chain: the last is apart from the first
        ([(2.0, 2.2), (2.2, 2.4)], [1, 1]),  # touching is not apart
        ([(1.0, 3.0)], [1]),
        ([], []),
    ],
)
def test_a_rank_needs_intervals_that_separate(bounds: list[tuple[float, float]], places: list[int]) -> None:
    intervals = [Interval((low + high) / 2, low, high, 0.95) for low, high in bounds]
    assert ranks(intervals) == places


def test_lossless_and_lossy_methods_are_ranked_apart(full: Section) -> None:
    assert [(row.rank, row.label) for row in full.lossy] == [(1, "hamburger")]
    assert "hamburger" not in [row.label for row in full.lossless]
    assert [row.rank for row in full.lossless[:3]] == [1, 1, 3]


def test_runs_that_cannot_be_believed_are_listed_with_the_reason(full: Section) -> None:
    reasons = {row.label: row.reason for row in full.unranked}
    assert set(reasons) == {"draft_verify", "m2r2"}
    assert "A/A control fails" in reasons["draft_verify"]
    assert reasons["m2r2"] == "2 samples failed (method: OutOfMemoryError: CUDA <full>)"


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (Plan("swift", is_shared=True), "other work was on the GPU"),
        (Plan("swift", repeats=1), "no A/A control"),
        (Plan("swift", verdict=Verdict.VIOLATION), "violate the promise"),
        (Plan("swift", limit=200), "unfinished: 72 of 200 questions"),
        (Plan("synthetic", labels={"cost only": True}), "cost only"),
    ],
)
def test_every_doubt_keeps_a_method_from_a_rank(plan: Plan, reason: str) -> None:
    (section,) = board(plan)
    assert not section.ranked
    assert reason in section.unranked[0].reason


def test_other_questions_make_another_section_headed_by_what_was_asked() -> None:
    first, second = board(*BOARD)
    assert first.questions.startswith("72 of 480 official Spec-Bench questions (mt_bench, ")
    assert second.questions.startswith("30 of 480 official")
    assert [row.label for row in second.lossless] == ["prompt_lookup"]


def test_whole_question_sets_come_before_parts() -> None:
    whole = Plan("swift", subtasks=("qa",), questions=80, limit=None)
    parts = board(Plan("kangaroo"), whole)
    assert [section.is_partial for section in parts] == [False, True]
    assert parts[0].questions == "all 80 official Spec-Bench questions (qa)"


@pytest.mark.parametrize(
    ("source", "count", "words"),
    [
        ("natural", 20, "all 20 natural built-in questions (qa)"),
        ("builtin", 80, "all 80 built-in questions (qa)"),
    ],
    ids=["natural", "built-in"],
)
def test_a_section_says_which_shipped_questions_were_asked(source: str, count: int, words: str) -> None:
    plan = Plan("swift", subtasks=("qa",), questions=count, limit=None, labels={"prompts": source})
    (section,) = board(plan)
    assert section.questions == words


def test_a_heading_says_that_the_draft_head_is_rounded() -> None:
    titles = sorted(map(short_title, board(Plan("a"), Plan("b", runtime=INT8))))
    assert titles[1] == f"{titles[0]}, draft head in 8 bits"


def test_other_devices_and_precisions_are_not_compared() -> None:
    parts = board(Plan("a"), Plan("b", device="H100"), Plan("c", dtype="float16"))
    assert [len(section.ranked) for section in parts] == [1, 1, 1]


@pytest.mark.parametrize(
    "changes",
    [{"template": "another"}, {"runtime": {"tier": "compiled"}}, {"runtime": {"max_length": 8192}}],
    ids=["template", "tier", "longest sequence"],
)
def test_runs_that_differ_in_template_or_runtime_share_no_section(changes: dict[str, Any]) -> None:
    parts = board(Plan("a"), Plan("b", **changes))
    assert sorted([row.label for row in section.ranked] for section in parts) == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        ({"tier": "compiled"}, "compiled tier"),
        ({"max_length": 8192}, "at most 8192 tokens"),
        (INT8, "draft head in 8 bits"),
    ],
)
def test_sections_that_differ_in_the_runtime_have_other_titles_and_other_keys_in_the_csv(
    runtime: dict[str, Any], words: str
) -> None:
    parts = board(Plan("a"), Plan("b", runtime=runtime))
    assert len({section.title for section in parts}) == len({section.anchor for section in parts}) == 2
    assert [words in section.title for section in parts].count(True) == 1
    header, *rows = csv_rows(parts)
    first, second = (
        {column: cell for column, cell in zip(header, row, strict=True) if column != "runs"}
        for row in rows
        if row[header.index("subtask")] == "overall"
    )
    assert first["section"] != second["section"]
    assert first[next(iter(runtime))] != second[next(iter(runtime))]


@pytest.mark.parametrize(
    ("more", "labels", "words"),
    [
        ({"chat": {"system": "Be brief."}}, {"chat": 'chat.system="Be brief."'}, 'chat.system="Be brief."'),
        ({"task": {"column": "text"}}, {}, ""),
        ({"task": {"format": "whole"}}, {}, ""),
    ],
    ids=["chat", "column", "format"],
)
def test_runs_whose_prompts_were_written_or_read_otherwise_share_no_section(
    more: dict[str, Any], labels: dict[str, Any], words: str
) -> None:
    plain, other = stored(Plan("a")), stored(Plan("b"))
    run = replace(other.run, identity={**other.run.identity, **more}, labels={**other.run.labels, **labels})
    parts = sections(entries([plain, replace(other, run=run)]))
    assert sorted([entry.method for entry in section.entries] for section in parts) == [["a"], ["b"]]
    assert len({section.anchor for section in parts}) == 2
    assert any(words in section.title for section in parts)


def test_runs_of_one_subtask_each_are_pooled_and_equal_the_run_of_them_all() -> None:
    parts = [stored(Plan("kangaroo", subtasks=(name,), task=name, limit=12)) for name in SUBTASKS]
    (entry,) = entries(parts)
    assert len(entry.asked) == 72
    assert list(entry.subtasks) == sorted(SUBTASKS)
    (section,) = sections([entry])
    assert section.questions.startswith("72 of 480")


def test_of_two_runs_of_a_subtask_the_longer_one_counts() -> None:
    runs = [stored(Plan("kangaroo", subtasks=("qa",), task="qa", questions=n, limit=n)) for n in (5, 12)]
    (entry,) = entries(runs)
    assert len(entry.asked) == 12


def test_pooled_runs_are_cut_to_the_repeats_that_all_have() -> None:
    runs = [stored(Plan("kangaroo", subtasks=(name,), repeats=n)) for name, n in (("qa", 2), ("rag", 4))]
    assert {sample.repeat for sample in pool(runs)} == {0, 1}


def test_variants_are_named_by_the_settings_in_which_they_differ() -> None:
    group = [single(Plan("layerskip", params={"exit_layer": n, "draft_length": 6})) for n in (2, 4)]
    assert labels(group) == ["layerskip exit_layer=2", "layerskip exit_layer=4"]
    assert labels(group[:1]) == ["layerskip"]


def test_a_users_own_run_is_labelled_as_such_beside_a_published_one() -> None:
    runs = [
        StoredRun(run.run, run.samples, flag) for flag in (True, False) for run in [stored(Plan("swift"))]
    ]
    assert labels(entries(runs)) == ["swift", "swift (own run)"]


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (Plan("m"), "exact 144 of 144"),
        (Plan("m", verdict=Verdict.TIE_EXPLAINED), "exact 0 of 144, 144 explained by ties"),
        (Plan("m", verdict=Verdict.VIOLATION), "VIOLATION in 144 of 144"),
        (
            Plan("m", verdict=Verdict.UNCHECKED, exactness="sampling-exact"),
            "sampling-exact: declared, not checked",
        ),
        (Plan("m", exactness="lossy"), "lossy"),  # whatever its verdicts are
    ],
)
def test_the_words_on_the_output_follow_the_verdicts(plan: Plan, text: str) -> None:
    assert output_cell(single(plan).summary) == text


@pytest.mark.parametrize(
    ("sampling", "text"),
    [
        ({"temperature": 0.0, "top_k": 0, "top_p": 1.0}, "greedy"),
        ({"temperature": 0.7, "top_k": 0, "top_p": 0.9}, "temperature 0.7, top-p 0.9"),
        ({"temperature": 1.0, "top_k": 50, "top_p": 1.0}, "temperature 1, top-k 50"),
    ],
)
def test_sampling_in_words(sampling: dict[str, float], text: str) -> None:
    assert sampling_text(sampling) == text


def test_the_baseline_alone_has_no_rank() -> None:
    run = stored(Plan("autoregressive"))
    alone = replace(run, samples=tuple(sample for sample in run.samples if sample.arm.value == "baseline"))
    (section,) = sections(entries([alone]))
    assert section.unranked[0].reason == "the baseline alone"
