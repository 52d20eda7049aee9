"""Whether a paper's order of methods is found in a run of several methods."""

from pathlib import Path

from bench.report.board import Section, sections
from bench.report.claim_order import order_table
from bench.report.claims import Claim, Paper
from bench.report.entries import entries
from bench.report.stored_runs import read_whole_run
from tests.report.boards import ArenaPlan, save, stored_arena


def claim(method: str, speedup: float, device: str = "A100", metric: str = "speedup") -> Claim:
    return Claim("c", method, metric, {"overall": speedup}, "vicuna_7b", device, "fp16", "table 1", "R")


def paper(*claims: Claim) -> Paper:
    return Paper("Board", "example.org", {"R": "read"}, claims)


def board(results: Path, **speeds: float) -> list[Section]:
    return sections(entries(read_whole_run(save(stored_arena(ArenaPlan(speeds, questions=24)), results))))


def test_each_method_says_which_others_stand_as_claimed(tmp_path: Path) -> None:
    claimed = paper(claim("medusa", 1.7), claim("sam", 2.0), claim("swift", 1.2), claim("rest", 3.0))
    table = order_table(claimed, board(tmp_path, sam=1.4, medusa=1.6, swift=0.8))
    assert table is not None
    assert [row[1:] for row in table.rows] == [
        ("sam", "2.00x", "1", "2", "swift", "medusa", "-"),
        ("medusa", "1.70x", "2", "1", "swift", "sam", "-"),
        ("swift", "1.20x", "3", "3", "sam, medusa", "-", "-"),
    ]


def test_methods_that_differ_by_less_than_their_noise_have_no_order(tmp_path: Path) -> None:
    table = order_table(paper(claim("sam", 2.0), claim("medusa", 1.5)), board(tmp_path, sam=1.4, medusa=1.4))
    assert table is not None
    assert [row[4:] for row in table.rows] == [("1", "-", "-", "medusa"), ("1", "-", "-", "sam")]


def test_orders_of_devices_stand_apart_and_one_method_is_no_order(tmp_path: Path) -> None:
    claimed = paper(claim("sam", 2.0), claim("medusa", 1.5, "V100"), claim("sam", 3.0, "V100"))
    table = order_table(claimed, board(tmp_path, sam=1.6, medusa=1.2))
    assert table is not None
    assert {row[0] for row in table.rows} == {"vicuna_7b, V100"}


def test_acceptance_lengths_and_methods_that_were_not_run_give_no_table(tmp_path: Path) -> None:
    lengths = paper(claim("sam", 2.0, metric="acceptance_length"), claim("medusa", 1.5))
    measured = board(tmp_path, sam=1.6, medusa=1.2)
    assert order_table(lengths, measured) is None
    assert order_table(paper(claim("sam", 2.0), claim("swift", 1.5)), measured) is None
