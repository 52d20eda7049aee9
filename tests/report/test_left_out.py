"""The board's table of methods that draft with a part of the model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.records.rounds import Round, Rounds
from bench.report.__main__ import main
from bench.report.stored_runs import StoredRun
from tests.report.boards import ArenaPlan, probed, save, stored_arena


def skipping() -> StoredRun:
    """A run in which clasp skips 12 of 40 sub-layers, del leaves after layer 5 of 20; sam does neither."""
    run = stored_arena(ArenaPlan({"clasp": 1.2, "del": 1.1, "sam": 1.3}, questions=20))

    def changed(sample: Any) -> Any:
        count = len(sample.rounds)
        if sample.method == "clasp":
            return replace(sample, counts={"sublayers": 40 * count, "skipped_sublayers": 12 * count})
        if sample.method == "del":
            return replace(sample, rounds=Rounds.of([Round(2, 0, 1, 2, "length", 5)] * count))
        return sample

    return replace(probed(run, 10**8), samples=tuple(map(changed, run.samples)))


def test_methods_that_leave_layers_out_are_listed_with_their_share(tmp_path: Path, capsys: Any) -> None:
    folder = save(skipping(), tmp_path)
    assert main(["table", str(folder), "--table", "left_out", "--format", "csv"]) == 0
    rows = [line.split(",") for line in capsys.readouterr().out.splitlines() if line.count(",") > 5]
    named = {row[rows[0].index("method")]: row for row in rows[1:]}
    place = rows[0].index("left out while drafting")
    assert {label: row[place] for label, row in named.items()} == {"del": "75%", "clasp": "30%"}
    assert named["del"][rows[0].index("drafted per round")] == "2.00"


def test_there_is_no_table_where_no_method_leaves_anything_out(tmp_path: Path, capsys: Any) -> None:
    folder = save(stored_arena(ArenaPlan({"sam": 1.3}, questions=20)), tmp_path)
    assert main(["table", str(folder), "--table", "left_out"]) != 0
    assert "left_out" in capsys.readouterr().err
