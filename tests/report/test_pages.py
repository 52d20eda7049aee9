"""What a page shows first, its charts, its filters, and where a run's numbers come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.report.board import Section, sections
from bench.report.build import build, differences, write
from bench.report.charts import kind_charts, make_axis, overall_chart
from bench.report.entries import entries
from bench.report.figure_data import pictures
from bench.report.provenance import provenance
from bench.report.run_pages import page_name
from bench.report.stored_runs import StoredRun, read_runs
from bench.report.tables import section_tables
from bench.report.words import headline, place_words, section_alarms
from tests.harness import undrawn
from tests.report.boards import ArenaPlan, Plan, save, stored, stored_arena

FAST, LOSSY = Plan("kangaroo", 1.9), Plan("hamburger", 2.5, exactness="lossy")


def section_of(*runs: StoredRun) -> Section:
    (section,) = sections(entries(runs))
    return section


@pytest.fixture(scope="module")
def board() -> Section:
    return section_of(*(stored(plan) for plan in (FAST, Plan("swift", 0.8), LOSSY)))


def test_the_sentence_names_the_fastest_method_of_each_kind_of_output(board: Section) -> None:
    sentence = headline(board)
    assert sentence.startswith(
        "kangaroo decodes 1.59 times as fast as plain decoding (95 % interval 1.55 to "
    )
    assert "it is the fastest. Of 2 lossless methods 1 are faster than plain decoding, 1 slower." in sentence
    assert (
        "Of the lossy methods, whose text is not the model's own, hamburger is the fastest: 2.09" in sentence
    )


def test_the_sentence_does_not_hide_that_nothing_gained() -> None:
    slow = section_of(stored(Plan("swift", 0.8)), stored(Plan("del", 0.7)))
    assert headline(slow).startswith("None of 2 lossless methods is faster than plain decoding for certain: ")
    assert headline(section_of(stored(Plan("swift", 0.8)))).endswith(": it loses time.")


def test_the_chart_ranks_lossless_and_lossy_methods_apart(board: Section) -> None:
    chart = overall_chart(board, place_words(board))
    assert chart is not None
    assert [(group.output, [mark.label for mark in group.marks]) for group in chart.groups] == [
        ("lossless", ["kangaroo", "swift"]),
        ("lossy", ["hamburger"]),
    ]
    fast, slow = chart.groups[0].marks
    assert (fast.rank, fast.state, slow.state) == ("1", "faster", "slower")
    assert fast.speed == "1.59x"
    assert float(fast.left) < float(fast.dot) < float(fast.left) + float(fast.width)
    assert float(slow.dot) < float(chart.axis.place(1.0)) < float(fast.left)


def test_every_kind_of_question_has_a_chart_on_one_axis(board: Section) -> None:
    charts = kind_charts(board, "")
    assert [chart.kind for chart in charts] == list(board.subtasks)
    assert len({chart.axis for chart in charts}) == 1
    assert kind_charts(section_of(stored(Plan("a", subtasks=("qa",), questions=20))), "") == ()


def test_an_interval_beyond_the_axis_is_cut_and_marked() -> None:
    arena = stored_arena(ArenaPlan({"sam": 1.4, "medusa": 1.2}, questions=24))
    chart = overall_chart(section_of(*parts_of(arena)), "")
    assert chart is not None
    assert not any(mark.is_cut for group in chart.groups for mark in group.marks)
    axis = make_axis(2.0)
    assert (axis.place(5.0), axis.place(1.0), axis.place(-1.0)) == ("100.00", "50.00", "0.00")
    assert [text for _, text in axis.ticks] == ["0x", "0.5x", "1x", "1.5x", "2x"]


def parts_of(run: StoredRun) -> list[StoredRun]:
    from bench.records.views import of_method, samples_of

    return [
        StoredRun(of_method(run.run, label), tuple(samples_of(run.samples, label)), label=label)
        for label in run.run.methods
    ]


def test_columns_without_a_figure_are_left_out() -> None:
    on_gpu, on_cpu = stored(FAST), stored(FAST)
    samples = tuple(replace(sample, peak_memory_bytes=None) for sample in on_cpu.samples)
    known, unknown = (
        section_tables(section_of(run))[0].header for run in (on_gpu, replace(on_cpu, samples=samples))
    )
    assert set(known) - set(unknown) == {"peak memory"}
    assert "energy" not in known
    samples = tuple(replace(sample, energy_j=80.0) for sample in on_gpu.samples)
    table = section_tables(section_of(replace(on_gpu, samples=samples)))[0]
    assert table.rows[0][table.header.index("energy")] == "2.00 J/token"


def test_the_board_shows_the_alarms_with_what_to_do(tmp_path: Path) -> None:
    save(stored(Plan("kangaroo", subtasks=("qa",), questions=5)), tmp_path)
    with undrawn():
        built = build(tmp_path)
    for name in ("leaderboard.html", "pages/" + next(iter(tmp_path.glob("runs/*"))).name + ".html"):
        assert "<b>FEW QUESTIONS</b>: only 5 complete" in built.texts[name]
        assert "<b>To do:</b> task.limit=null asks all of this task&#39;s." in built.texts[name]
    assert "> **FEW QUESTIONS**: only 5 complete" in built.texts["leaderboard.md"]


def test_the_embedded_models_speedups_are_called_what_they_are() -> None:
    alarms = section_alarms(section_of(stored(Plan("kangaroo", labels={"prompts": "builtin"}))))
    assert alarms[0].name == "MACHINERY ONLY"


def test_the_result_comes_before_the_notes_and_a_phone_gets_its_width(tmp_path: Path) -> None:
    for plan in (FAST, LOSSY):
        save(stored(plan), tmp_path)
    with undrawn():
        built = build(tmp_path)
    for name, text in built.texts.items():
        if name.endswith(".html") and not name.startswith("claims"):
            places = [
                text.index(part) for part in ('class="headline"', 'class="bars"', "<table", "How to read")
            ]
            assert places == sorted(places), name
            assert 'name="viewport" content="width=device-width' in text
            assert "prefers-color-scheme: dark" in text


def test_the_filters_offer_what_the_page_holds_and_stay_hidden_without_a_script(tmp_path: Path) -> None:
    for plan in (FAST, LOSSY, replace(FAST, device="H100")):
        save(stored(plan), tmp_path / plan.device) if plan.device == "H100" else save(stored(plan), tmp_path)
    with undrawn():
        page = build(tmp_path).texts["leaderboard.html"]
    assert '<div class="filters" hidden>' in page
    assert 'data-filter="kind"' in page
    assert 'data-filter="output"' in page
    assert 'data-filter="device"' not in page  # one device only
    assert page.count('data-output="lossy"') == page.count('class="group lossy"') + 1  # its ranking


def test_a_page_that_draws_an_answer_is_linked_and_needs_no_rebuilding(tmp_path: Path) -> None:
    folder = save(stored(FAST), tmp_path)
    with undrawn():
        write(build(tmp_path), tmp_path)
        (folder / "timeline-81-turn1.html").write_text("drawn")
        again = build(tmp_path)
        assert differences(again, tmp_path) == []
    page = again.texts[f"pages/{folder.name}.html"]
    assert f'<a href="../runs/{folder.name}/timeline-81-turn1.html">81-turn1</a>' in page
    assert f"python -m bench.report timeline {folder.name}</code>" in page


def test_runs_that_the_board_pools_have_a_page_each_with_their_own_numbers(tmp_path: Path) -> None:
    plans = [Plan("kangaroo", 1.9, task=kind, subtasks=(kind,), limit=12) for kind in ("qa", "rag")]
    names = [save(stored(plan), tmp_path).name for plan in plans]
    with undrawn():
        built = build(tmp_path)
    assert [f"pages/{name}.html" in built.texts for name in names] == [True, True]
    assert "24 questions</h2>" in built.texts["leaderboard.html"]
    for name in names:
        assert "12 questions</h1>" in built.texts[f"pages/{name}.html"]


def test_an_own_copy_of_a_published_run_has_a_page_of_its_own(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "published"):
        save(stored(FAST), root)
    runs = read_runs(tmp_path).runs
    names = [page_name(run, runs) for run in runs]
    assert names == [runs[0].run.run_id, f"{runs[0].run.run_id}-own"]


def test_provenance_says_where_and_with_what() -> None:
    run = stored(FAST)
    attempt = {
        **run.run.attempts[0],
        "started_utc": "2026-01-02T03:04:05+00:00",
        "argv": "-m bench method=kangaroo",
        "versions": {"torch": "2.13.0", "cuda": None},
        "git": {"commit": "abc", "diff": "def"},
    }
    table = provenance([replace(run, run=replace(run.run, attempts=(attempt,)), evidence="proved at 1")])
    rows = dict(table.rows)
    assert rows["started (UTC)"] == "2026-01-02T03:04:05+00:00"
    assert rows["command"] == "-m bench method=kangaroo"
    assert rows["versions"] == "torch 2.13.0"
    assert rows["code"] == "abc with changes def"
    assert rows["output of kangaroo"] == "proved at 1"
    assert dict(provenance([replace(run, run=replace(run.run, attempts=()))]).rows)["device"] == "unknown"


def test_a_run_without_ranks_shows_its_speeds_as_not_to_be_compared() -> None:
    section = section_of(*parts_of(stored_arena(ArenaPlan({"sam": 1.5, "medusa": 1.4}, control=1.2))))
    assert section.ranked == ()
    chart = overall_chart(section, "")
    assert chart is not None
    (group,) = chart.groups
    assert (group.output, group.title) == ("unranked", "Not ranked: do not compare these speeds")
    assert {(mark.rank, mark.state) for mark in group.marks} == {("", "unsure")}
    assert [picture.name for picture in pictures(section)] == ["time", "waits"]


def test_the_filter_by_kind_knows_a_section_of_one_kind_and_skips_profiles(tmp_path: Path) -> None:
    save(stored(Plan("kangaroo", subtasks=("qa",), questions=20)), tmp_path)
    save(stored(Plan("medusa", device="H100")), tmp_path)
    with undrawn():
        page = build(tmp_path).texts["leaderboard.html"]
    assert page.count("data-slot=") == 2
    assert page.count('data-only="qa"') == 1
    assert 'data-filter="device"' in page
    offered = page.split('data-filter="kind"')[1].split("</select>")[0]
    assert offered.count("<option>") == 6
