"""Projections of methods that load experts: by hand, for Mixtral's shape, and what the command prints."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest

from bench.errors import UserError
from bench.project.__main__ import _empty, main, settings_of
from bench.project.expert_table import Policy, expert_table, lead_there, place_of
from bench.project.experts import LINKS, Demand, Place
from bench.records.model import Arm, Run, Sample, Timing
from tests.harness import ROOT

RUN = str(ROOT / "results" / "published" / "runs" / "arena-spec_bench-tiny_moe-cee1d70b")
COUNTS = {
    "expert_slots": 12,
    "experts_needed": 40,
    "experts_hit": 20,
    "experts_late": 8,
    "experts_loaded": 25,
    "expert_bytes": 25_000,
}
SAMPLE = Sample(
    "q",
    "qa",
    0,
    0,
    Arm.METHOD,
    0,
    4,
    ids=(0,) * 5,
    timing=Timing(0.1, 8.0, {}, 8.1, array("d")),
    counts=COUNTS,
)
PLACE = Place(
    compute_s=0.010, needed=10, experts=40, expert_bytes=1000, other_bytes=500, link_bytes_per_s=1e6
)


def test_loads_that_no_row_demanded_are_predicted_ones() -> None:
    # 40 needed, 28 of them there or on their way: 12 on demand, so 13 of 25 loads were predicted
    assert Demand.of([SAMPLE]) == Demand(12, 12 / 40, 13 / 40)


def test_a_run_without_expert_loading_is_refused() -> None:
    with pytest.raises(UserError, match="loads no experts"):
        Demand.of([replace(SAMPLE, counts={})])


@pytest.mark.parametrize(
    ("demand", "milliseconds"),
    [
        (Demand(12, 0.0, 0.0), 10.0),  # everything is there
        (Demand(12, 0.3, 0.0), 13.0),  # three loads of a millisecond, on demand
        (Demand(12, 0.3, 0.2), 13.0),  # two more, while the layers compute
        (Demand(12, 0.3, 1.5), 18.0),  # fifteen more: the link is busy for longer than the layers
    ],
)
def test_a_token_by_hand(demand: Demand, milliseconds: float) -> None:
    assert 1e3 * PLACE.token_s(demand) == pytest.approx(milliseconds)
    assert PLACE.stall(demand) == pytest.approx(1 - 10 / milliseconds)


def test_the_table_compares_with_loading_on_demand_into_as_large_a_store() -> None:
    policies = [
        Policy("moe_lru[slots=12]", "moe_lru", 0.25, Demand(12, 0.4, 0.0)),
        Policy("m2r2_moe[slots=12]", "m2r2_moe", 0.25, Demand(12, 0.2, 0.5)),
        Policy("m2r2_moe[slots=36]", "m2r2_moe", 0.75, Demand(36, 0.0, 0.5)),
    ]
    rows = [line.strip("| ").split(" | ") for line in expert_table(policies, PLACE, 20_000)[2:]]
    assert rows == [
        ["moe_lru[slots=12]", "25%", "10.5 kB", "71.43", "29%", "1.00x"],  # 10 + 4 ms
        ["m2r2_moe[slots=12]", "25%", "10.5 kB", "83.33", "17%", "1.17x"],  # 10 + 2 ms
        ["m2r2_moe[slots=36]", "75%", "30.5 kB (does not fit)", "100.00", "0%", "-"],
    ]


def test_mixtral_by_hand() -> None:
    place = place_of(_empty("mixtral_8x7b_instruct"), 0.0076, LINKS["pcie5"])
    assert (place.needed, place.experts) == (32 * 2, 32 * 8)
    assert place.expert_bytes == 2 * 3 * 4096 * 14336
    attention, router = 2 * 4096 * 4096 + 2 * 4096 * 1024, 8 * 4096
    assert place.other_bytes == 2 * (32 * (attention + router) + 2 * 32000 * 4096)
    assert place.load_s == pytest.approx(352_321_536 / 55e9)


def test_the_ratio_of_loading_to_computing_where_it_was_measured() -> None:
    run = Run("r", "moe_lru", "qa", "tiny", {"method": {"megabytes_per_s": 0.001}}, {})
    plain = replace(SAMPLE, arm=Arm.BASELINE, counts={})
    # ten experts of 1000 bytes a token at 1000 bytes a second, beside two seconds of computing
    assert lead_there(run, [plain, SAMPLE]) == pytest.approx(5.0)


def test_the_published_run_is_projected_with_its_assumptions_above(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([RUN, "as=experts", "model=mixtral_8x7b_instruct"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("PROJECTION to mixtral_8x7b_instruct on H100, experts in host memory over pcie5")
    assert "Nothing was run there" in text
    rows = {
        line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in text.splitlines() if "[" in line
    }
    assert len(rows) == 12
    # the board says that 48.0 % were in the store: 0.52 x 64 loads of 6.41 ms, and 7.61 ms of computing
    assert float(rows["moe_lru[slots=12]"][2]) == pytest.approx(1 / (0.52 * 64 * 0.00641 + 0.00761), rel=0.01)
    assert rows["moe_lru[slots=36]"][4].strip(" |") == "1.00x"


def test_one_method_of_a_run_is_projected_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{RUN}:m2r2_moe[slots=24]", "as=experts", "model=mixtral_8x7b_instruct", "link=pcie4"]) == 0
    text = capsys.readouterr().out
    assert "27 GB/s" in text
    assert text.count("[slots=") == 1


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (["model=vicuna_7b"], "no mixtures of experts"),
        (["model=mixtral_8x7b_instruct", "batch=4"], "one sequence"),
    ],
)
def test_what_cannot_be_projected_is_said(
    settings: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([RUN, "as=experts", *settings]) == 2
    assert what in capsys.readouterr().err


def test_an_unknown_link_is_named() -> None:
    with pytest.raises(UserError, match="unknown link 'pcie9'"):
        settings_of(["link=pcie9"])
