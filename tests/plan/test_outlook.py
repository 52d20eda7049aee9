"""What a plan tells before anything is fetched: work, memory, time, and what comes first."""

from pathlib import Path

import pytest
import torch

from bench.plan.devices import GPUS, recognised
from bench.plan.outlook import Outlook, estimate
from bench.plan.planning import duration, outlook_lines, plan
from bench.plan.size import Size
from tests.harness import composed_settings, save_prompts, save_random_model, settings_for

VICUNA = 6_738_415_616 - 266_240  # weights of Llama-2 7B without its norms


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cache of questions or models, and no network that would be missed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("bench.runtime.checkpoint_files.downloaded", None)


def planned(*overrides: str) -> Outlook:
    return estimate(composed_settings("bench.plan=true", *overrides))


def test_kangaroos_main_table_is_planned_without_a_network() -> None:
    outlook = planned("experiment=paper_kangaroo")
    assert outlook.samples == 560 * 3 * 2
    assert outlook.size is not None
    assert outlook.size.weight_bytes == 2 * VICUNA
    assert outlook.size.module_bytes == 2 * 67_117_056  # the paper's 67 M
    assert outlook.size.cache_bytes == 2048 * 32 * 2 * 4096 * 2
    assert not outlook.is_startable
    text = plan(composed_settings("bench.plan=true", "experiment=paper_kangaroo")).text
    assert text.startswith("kangaroo-spec_bench-vicuna_7b  0 of 3360 samples  not started\n")
    assert "python -m bench.train method=kangaroo model=vicuna_7b" in text


def test_a_method_whose_folder_holds_settings_alone_has_no_modules_to_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    size = planned("method=draft_verify", "model=tiny").size
    assert size is not None
    assert size.module_bytes == 0
    assert "not trained yet" not in capsys.readouterr().err


@pytest.mark.parametrize(("tier", "eager"), [("auto", 560), ("eager", 0)])
def test_an_eager_arm_adds_one_answer_to_each_turn(tier: str, eager: int) -> None:
    outlook = planned("experiment=paper_kangaroo", "measure.eager=true", f"runtime.tier={tier}")
    assert outlook.samples == 560 * 3 * 2 + eager


def test_time_is_the_reading_of_all_bytes_at_the_bandwidth_of_the_gpu() -> None:
    size = Size(weight_bytes=10**9, pass_bytes=8 * 10**8, token_bytes=10**5, capacity=1000, module_bytes=0)
    outlook = Outlook(10, 100, 1000, size, GPUS["v100"], 1, (), is_startable=True)
    assert outlook.token_s == pytest.approx((8 * 10**8 + 10**8) / 900e9)
    assert outlook.seconds == pytest.approx(10 * 100 * 1e-3)
    assert "estimated 1 s on V100" in outlook_lines(outlook)[-1]


def test_a_model_larger_than_the_gpu_is_told() -> None:
    lines = outlook_lines(planned("model=llama2_70b", "method=layerskip", "bench.device=h100"))
    assert "DOES NOT FIT" in lines[0]


def test_an_unknown_model_has_no_estimate() -> None:
    lines = outlook_lines(planned("model=local", "model.path=some/where", "method=layerskip"))
    assert lines[0].startswith("  memory  unknown")


def test_without_a_gpu_the_way_to_an_estimate_is_told() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert "add bench.device=" in outlook_lines(planned())[2]


def test_modules_count_as_stored_or_as_training_would_make_them(tmp_path: Path) -> None:
    shipped = planned("bench.device=h100").size
    fresh = planned("bench.device=h100", f"method.weights={tmp_path}").size
    assert shipped is not None
    assert fresh is not None
    assert shipped.module_bytes == fresh.module_bytes != 0


def test_what_is_at_hand_is_not_listed(tmp_path: Path) -> None:
    model = save_random_model(tmp_path / "model")
    prompts = save_prompts(tmp_path / "prompts.jsonl", ["What?", "And now?"])
    outlook = estimate(settings_for(model, prompts, tmp_path / "results", "bench.plan=true"))
    assert (outlook.samples, outlook.missing, outlook.is_startable) == (8, (), True)


@pytest.mark.parametrize(
    ("seconds", "text"), [(20, "20 s"), (120, "2.0 min"), (7200, "2.0 h"), (200_000, "2.3 days")]
)
def test_durations_are_told_in_a_fitting_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_drivers_names_are_recognised() -> None:
    assert recognised("NVIDIA A100-SXM4-80GB") == GPUS["a100_80gb"]
    assert recognised("NVIDIA H100 80GB HBM3") == GPUS["h100"]
    assert recognised("Something else") is None
