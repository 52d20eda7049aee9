"""A profile: its record, its text, its figures, and the command that makes one."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.metrics.roofline import Costs, Curve
from bench.profile.card import measured_card, static_card
from bench.profile.cli import main
from bench.profile.records import Bandwidth, Level, MethodCost, Profile, load_profile, save_profile
from bench.report.profiles import draw_profile, layers_figure, passes_figure
from tests.command import Done, mistake_lines, run_command
from tests.harness import ROOT, save_random_model

COSTS = Costs(100, 8, Curve((1, 2, 8), (0.010, 0.011, 0.016)), Curve((1, 8), (0.001, 0.002)), 0.002)
METHOD = MethodCost("kangaroo", 2, 60, 20, 80, 0.30, 0.08, 0.20, 0.01, 60, 0.60, 2.1, False)
PROFILE = Profile(
    model="tiny",
    identity={"weights": "abc"},
    environment={"device": "A CPU, 1 thread", "dtype": "float32"},
    parameters=5_000_000,
    weight_bytes=20_000_000,
    token_bytes=20_000,
    cache_bytes=40_000_000,
    bandwidth=Bandwidth(memory=1e10, buffer_bytes=1 << 28, resident=4.4e9),
    levels=(Level(COSTS, {1: 0.001, 8: 0.009}, None, None),),
    methods=(METHOD,),
    skipped={"medusa": "no weights"},
)


def row(text: str, label: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(label)]
    return line.removeprefix(label).split()


def test_the_card_says_what_bytes_and_bandwidth_allow() -> None:
    card = static_card(PROFILE, [100])
    assert row(card, "weights")[:2] == ["20.0", "MB"]
    assert row(card, "roofline")[:4] == ["at", "most", "200", "tokens/s"]


def test_measured_card_name_speed_shares_and_methods() -> None:
    text = measured_card(PROFILE)
    assert "100 tokens/s, 50% of the roofline; launch overhead 20% of a 1-row pass" in text
    times, layer_times = (line.split()[3:] for line in text.splitlines() if line.startswith("its time, ms"))
    assert times == ["10.00", "11.00", "11.83", "12.67", "14.33", "16.00"]
    assert layer_times == ["1.000", "9.000", "1.000"]
    assert row(text, "kangaroo") == ["3.00", "4.00", "10.00", "1.00", "2.10x", "2.00x"]
    assert row(text, "not ready: medusa") == ["no", "weights"]


def test_given_acceptance_is_never_shown_as_a_number() -> None:
    given = replace(PROFILE, methods=(replace(METHOD, is_cost_only=True),))
    assert row(measured_card(given), "kangaroo")[0] == "given"


def test_peak_memory_is_shown_where_it_is_known() -> None:
    level = replace(PROFILE.levels[0], peak_allocated_bytes=2_000_000_000, peak_reserved_bytes=3_000_000_000)
    text = measured_card(replace(PROFILE, levels=(level,)))
    assert "2.0 GB allocated, 3.0 GB reserved" in text


def test_a_stored_profile_reads_back_and_is_named_after_model_device_and_identity(tmp_path: Path) -> None:
    path = save_profile(tmp_path, PROFILE)
    assert path.parent == tmp_path / "profiles"
    assert path.name.startswith("tiny-a-cpu-1-thread-")
    assert load_profile(path) == PROFILE
    assert save_profile(tmp_path, PROFILE) == path
    assert save_profile(tmp_path, replace(PROFILE, identity={"weights": "def"})) != path


def test_an_unknown_schema_version_is_refused(tmp_path: Path) -> None:
    path = save_profile(tmp_path, replace(PROFILE, schema_version=99))
    with pytest.raises(UserError, match="schema version 99"):
        load_profile(path)


def test_a_file_that_is_no_profile_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match="is no profile"):
        load_profile(tmp_path / "x.json")


def test_figures_draw_every_context_with_its_roofline(tmp_path: Path) -> None:
    axes = passes_figure(PROFILE).axes[0]
    assert [line.get_label() for line in axes.lines] == ["100 tokens", "100 tokens: roofline"]
    assert list(axes.lines[0].get_xdata()) == [1, 2, 8]
    assert axes.lines[1].get_ydata()[0] == pytest.approx(5.0)
    assert list(layers_figure(PROFILE).axes[0].lines[0].get_xdata()) == [1, 8]
    assert all(path.stat().st_size > 0 for path in draw_profile(PROFILE, tmp_path / "one.json"))


def test_one_command_profiles_a_model_and_ends_in_json(tmp_path: Path) -> None:
    model = save_random_model(tmp_path / "model", context=1024)
    quick = [
        "runtime.threads=1",
        "contexts=[16]",
        "rows=[1,4]",
        "turns=1",
        "limit_s=0",
        "buffer_mb=1",
        "prompts=1",
        "tokens=6",
    ]
    local = ["model=local", f"model.path={model}", "methods=[prompt_lookup]", f"results_dir={tmp_path}"]
    done = run_command(main, *local, *quick)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert list(last["methods"]) == ["prompt_lookup"]
    assert list(last["contexts"]) == ["16"]
    stored = load_profile(Path(last["record"]))
    assert stored.levels[0].costs.passes.rows == (1, 4)
    assert stored.environment["versions"]["torch"]
    assert len(list((tmp_path / "profiles").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("turns=0", "turns must be at least 1"),
        ("contexts=[0]", "contexts must hold numbers from 1 on"),
        ("turrns=1", "unknown key turrns"),
    ],
)
def test_mistakes_take_two_lines(override: str, what: str, tmp_path: Path) -> None:
    done = run_command(main, f"results_dir={tmp_path}", override)
    assert_mistake(done, what)


def test_a_mistake_ends_the_command_with_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.profile", f"results_dir={tmp_path}", "methods=[kangroo]"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert_mistake(done, "unknown method 'kangroo'")


def assert_mistake(done: Done | subprocess.CompletedProcess[str], what: str) -> None:
    assert done.returncode == 2
    assert what in done.stderr
    assert len(mistake_lines(done.stderr)) == 2
