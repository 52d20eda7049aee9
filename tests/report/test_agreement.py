"""Two runs of several methods: equal ones agree, and what moved is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.report.__main__ import main
from bench.report.agreement import WholeRun, agreement_text, agreements
from tests.report.boards import ArenaPlan, save, stored_arena

PLAN = ArenaPlan({"sam": 1.5, "kangaroo": 1.2, "swift": 0.8, "hamburger": 1.4}, lossy=("hamburger",))


def whole(plan: ArenaPlan) -> WholeRun:
    made = stored_arena(plan)
    return WholeRun.of(made.run, made.samples)


def test_two_seeds_of_one_machine_agree() -> None:
    found = agreements(whole(PLAN), whole(replace(PLAN, seed=1)))
    assert [agreement.method for agreement in found] == ["sam", "kangaroo", "swift", "hamburger"]
    assert {agreement.differs_in for agreement in found} == {""}
    sam, *_, hamburger = found
    assert sam.first.ranks == sam.second.ranks == (1, 1)
    assert hamburger.first.ranks == (1, 1)  # lossy methods are ranked apart
    assert agreement_text(found).startswith("the two runs agree on all 4 methods")


def test_a_method_that_became_slower_is_named() -> None:
    slower = replace(PLAN, methods={**PLAN.methods, "sam": 1.0})
    found = {agreement.method: agreement for agreement in agreements(whole(PLAN), whole(slower))}
    assert {name: agreement.differs_in for name, agreement in found.items()} == {
        "sam": "speed and rank",
        "kangaroo": "rank",
        "swift": "",
        "hamburger": "",
    }
    assert found["sam"].moved.estimate == pytest.approx(1.0 / 1.5, rel=0.02)
    text = agreement_text([*found.values()])
    assert text.startswith("the two runs differ on 2 of 4 methods: sam, kangaroo")


def test_only_methods_of_both_runs_are_compared() -> None:
    fewer = replace(PLAN, methods={"sam": 1.5})
    assert [agreement.method for agreement in agreements(whole(PLAN), whole(fewer))] == ["sam"]
    with pytest.raises(UserError, match="no method was measured in both runs"):
        agreements(whole(fewer), whole(replace(PLAN, methods={"kangaroo": 1.2})))


def test_a_run_without_ranks_says_so_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = (PLAN, replace(PLAN, seed=1, control=1.2))
    assert main(["compare", *(str(save(stored_arena(plan), tmp_path)) for plan in plans)]) == 0
    assert capsys.readouterr().out.startswith("run B is not ranked: ")


def test_the_command_tells_runs_of_several_methods_by_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(save(stored_arena(replace(PLAN, seed=seed)), tmp_path)) for seed in (0, 1)]
    assert main(["compare", *folders]) == 0
    assert "the two runs agree on all 4 methods" in capsys.readouterr().out
    assert main(["compare", f"{folders[0]}:sam", f"{folders[1]}:sam"]) == 0
    assert "on the 24 questions that both answered" in capsys.readouterr().out
    assert main(["compare", folders[0], f"{folders[1]}:sam"]) == 2
