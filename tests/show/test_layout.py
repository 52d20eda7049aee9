"""The plain-text table, the Markdown table, and byte sizes as text."""

from __future__ import annotations

import pytest

from bench.show.layout import COLUMNS, byte_size, markdown_table, text_table


def test_columns_line_up_and_the_last_cell_of_a_short_row_runs_on() -> None:
    rows = [("name", "a", "b"), ("longer name", "1.00", "2"), ("note", "as long as it likes")]
    assert text_table(rows) == [
        "name         a     b",
        "longer name  1.00  2",
        "note         as long as it likes",
    ]


def test_numbers_may_stand_at_the_right_of_their_column() -> None:
    assert text_table([("task", "n"), ("qa", "10")], align="right") == ["task   n", "qa    10"]


def test_tables_that_follow_each_other_share_their_least_widths() -> None:
    first, second = (text_table([(name, "x")], least=(10,))[0] for name in ("a", "bcd"))
    assert first.index("x") == second.index("x") == 12


def test_a_line_too_long_is_cut_and_says_so() -> None:
    (line,) = text_table([("a", "x" * 2 * COLUMNS)])
    assert len(line) == COLUMNS
    assert line.endswith("...")


def test_no_rows_make_no_lines() -> None:
    assert text_table([]) == []


def test_a_cell_cannot_break_out_of_a_markdown_table() -> None:
    assert markdown_table(("a", "b"), [("x|y", "<i>\n&")]) == [
        "| a | b |",
        "| --- | --- |",
        "| x\\|y | &lt;i&gt; &amp; |",
    ]


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999 B"), (20_480, "20.5 kB"), (21_600_000, "21.6 MB"), (13 * 10**9, "13.0 GB")]
)
def test_bytes_have_decimal_units(count: int, text: str) -> None:
    assert byte_size(count) == text
