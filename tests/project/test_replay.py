"""Projections: rounds priced by hand, the board of Spec-Bench, and what the command says of itself."""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.metrics.speedups import speedup
from bench.plan.devices import GPUS, Gpu
from bench.profile.records import load_profile
from bench.project.__main__ import lacking_memory, main, passes_of, settings_of
from bench.project.passes import LOOPS, Loop, Measured, Roofline
from bench.project.replay import Source, projected
from bench.records.model import Arm, Round, Sample, Timing
from bench.records.rounds import Rounds
from tests.harness import ROOT, published_arena

TOY = Gpu("toy", 1000, 100.0, 1000.0)
PASSES = Roofline(TOY, "toy", parameters=50, width=2, token_bytes=0, loop=Loop(0.0, 0.25))
PROFILE = ROOT / "results" / "published" / "profiles" / "shape_125m-amd-epyc-1-thread-ce1f5f4b.json"
BOARD = {  # speedups of Vicuna 7B on an A100, rows of a pass, tokens per step; Token Recycling set `round_s`
    "prompt lookup": (1.66, 11, 1.75),
    "medusa": (1.71, 64, 2.31),
    "token recycling": (2.22, 80, 2.73),
    "lookahead": (1.34, 60, 1.64),
}


def sample(arm: Arm, rounds: list[Round], draft_s: float = 0.0) -> Sample:
    timing = Timing(0.1, 10.0, {"draft": draft_s}, 10.1, array("d"))
    tokens = 1 + sum(step.emitted for step in rounds)
    return Sample("q", "qa", 0, 0, arm, 0, 4, ids=(0,) * tokens, rounds=Rounds.of(rounds), timing=timing)


def test_a_pass_takes_the_longer_of_reading_and_multiplying() -> None:
    assert PASSES.seconds(1, 0) == 1.0  # 100 bytes at 100 per second; 100 products at 1000
    assert PASSES.seconds(64, 0) == pytest.approx(6.4)
    assert PASSES.seconds(16, 0, batch=4) == pytest.approx(6.4)


def test_rounds_are_priced_by_hand() -> None:
    plain = [Round(0, 0, 1, 0, "length")] * 10
    drafted = [Round(3, 2, 3, 3, "length"), Round(5, 1, 2, 2, "length"), Round(0, 0, 1, 0, "length")]
    baseline, method = sample(Arm.BASELINE, plain), sample(Arm.METHOD, drafted, draft_s=2.0)
    source = Source.of([baseline], 8, several_tokens_per_row=False)
    assert source.step_s == 1.0
    (cheap,) = projected([baseline], PASSES, source)
    (dear,) = projected([method], PASSES, source)
    assert cheap.timing is not None
    assert dear.timing is not None
    assert cheap.timing.decode_s == pytest.approx(10.0)
    # drafting two one-row passes' worth, three passes, two rounds that draft
    assert dear.timing.decode_s == pytest.approx(2.0 + 3.0 + 2 * 0.25)


def test_an_early_exit_verifies_with_the_layers_that_are_left() -> None:
    method = sample(Arm.METHOD, [Round(1, 1, 2, 1, "length", exit_layer=2)])
    (priced,) = projected([method], PASSES, Source(1.0, 8))
    assert priced.timing is not None
    assert priced.timing.decode_s == pytest.approx(0.75 + 0.25)


@pytest.mark.parametrize("name", BOARD)
def test_the_board_of_spec_bench_comes_out_within_15_percent(name: str) -> None:
    expected, rows, length = BOARD[name]
    passes = Roofline(GPUS["a100_80gb"], "7B", 6_607_000_000, 2, 524_288, LOOPS["eager"])
    plain = [Round(0, 0, 1, 0, "length")] * 175
    emitted = [int(length * (number + 1)) - int(length * number) for number in range(100)]
    drafted = [Round(rows - 1, tokens - 1, tokens, tokens, "length") for tokens in emitted]
    source = Source(0.025, 32)
    got = speedup(
        projected([sample(Arm.BASELINE, plain)], passes, source),
        projected([sample(Arm.METHOD, drafted)], passes, source),
    )
    assert got.decode.estimate == pytest.approx(expected, rel=0.15)


def test_a_published_run_is_projected_and_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{published_arena()}:sam", "device=h200", "model=vicuna_7b", "batch=1,64"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("PROJECTION of ")
    assert "nothing was run there" in text
    assert "| sam | 1." in text


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["device=h10"], "did you mean h100"),
        (["device=there.json", "model=tiny"], "leave out model="),
        (["speed=1"], "known: device, model, batch, loop"),
        (["batch=0"], "batch=1,4,16"),
        (["loop=graph"], "known: recorded, eager"),
    ],
)
def test_mistakes_are_named(arguments: list[str], what: str) -> None:
    with pytest.raises(UserError) as mistake:
        settings_of(arguments)
    assert what in mistake.value.fix


def test_an_unknown_model_or_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="unknown model 'vicuna_9b'"):
        passes_of(settings_of(["model=vicuna_9b"]))
    assert main([str(tmp_path)]) == 2
    assert "error:" in capsys.readouterr().err


def test_a_measured_profile_gives_its_own_passes() -> None:
    passes = Measured(load_profile(PROFILE), PROFILE)
    short, long = (level.costs for level in passes.profile.levels)
    assert passes.seconds(1, short.context) == short.passes.at(1)
    assert passes.seconds(4, long.context + 100) == long.passes.at(4)
    between = passes.seconds(2, (short.context + long.context) // 2)
    assert between == pytest.approx((short.passes.at(2) + long.passes.at(2)) / 2)
    caches = 3 * short.context * passes.profile.token_bytes / passes.profile.bandwidth.memory
    assert passes.seconds(2, short.context, batch=4) == pytest.approx(short.passes.at(8) + caches)


def test_a_run_is_projected_by_a_measured_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{published_arena()}:kangaroo", f"device={PROFILE}", "batch=1,4"]) == 0
    text = capsys.readouterr().out
    assert "shape_125m on AMD EPYC, 1 thread: passes measured there" in text
    assert "| kangaroo | 1." in text


def test_a_batch_that_does_not_fit_says_so() -> None:
    passes = Roofline(
        TOY, "toy", parameters=50, width=2, token_bytes=10, loop=Loop(0.0, 0.0), weight_bytes=400
    )
    assert lacking_memory(passes, 20, 3) is None
    assert lacking_memory(passes, 20, 4) == "does not fit: 1.2 kB of 1.0 kB"
    with_logits = replace(passes, row_bytes=25)
    assert lacking_memory(with_logits, 20, 2, rows=4) is None
    assert lacking_memory(with_logits, 20, 2, rows=5) == "does not fit: 1.1 kB of 1.0 kB"


def test_a_file_that_is_no_profile_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), f"device={tmp_path / 'none.json'}"]) == 2
    assert "none.json is no profile" in capsys.readouterr().err
