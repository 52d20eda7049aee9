"""``key=value`` means the same for every command as its own spelling."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from bench.command import COMMANDS
from bench.errors import UserError
from bench.report.__main__ import COMMANDS as COMMANDS_OF_REPORT
from bench.report.__main__ import _parser, _spelled
from bench.report.__main__ import main as report
from bench.show.spelling import as_arguments
from tests.command import run_command

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("typed", "plain"),
    [
        ("results_dir=some/where", "leaderboard some/where"),
        ("check=true results_dir=x", "leaderboard x --check"),
        ("check=false strict=true", "leaderboard --strict"),
        ("x --check", "leaderboard x --check"),
        ("leaderboard results=x", "leaderboard x"),
        ("compare run_b=b run_a=a", "compare a b"),
        ("compare a run_b=b", "compare a b"),
        (
            "timeline prompt_id=q7 run=r turn=2 ids=true output=f.html",
            "timeline r q7 --turn 2 --ids --output f.html",
        ),
        ("excerpt results_dir=x into=README.md", "excerpt x --into README.md"),
        ("export-spec-bench run=r output=o", "export-spec-bench r --output o"),
        ("import-spec-bench file=f baseline=b prefill=listed", "import-spec-bench f b --prefill listed"),
    ],
)
def test_a_report_takes_keys_and_values(typed: str, plain: str) -> None:
    given = typed.split()
    if given[0] not in COMMANDS_OF_REPORT:
        given.insert(0, "leaderboard")
    parser = _parser()
    assert parser.parse_args(_spelled(given)) == parser.parse_args(plain.split())


def test_a_report_of_a_folder_named_by_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report([f"results_dir={tmp_path}", "check=true"]) == 2
    assert f"reading the runs in {tmp_path};" in capsys.readouterr().err
    assert report([f"result_dir={tmp_path}"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "error: unknown key result_dir" in said
    assert any("did you mean results_dir?" in line for line in said)


def test_several_values_and_constants_have_keys_too() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--into")
    parser.add_argument("--random-60m", dest="shape", action="store_const", const="60m")
    parser.add_argument("--random-125m", dest="shape", action="store_const", const="125m")
    assert as_arguments(parser, ["folders=[a,b]", "into=c"]) == ["a", "b", "--into", "c"]
    assert as_arguments(parser, ["a", "shape=125m"]) == ["a", "--random-125m"]
    assert as_arguments(parser, ["a/b=c"]) == ["a/b=c"]
    with pytest.raises(UserError, match="shape must be one of 60m, 125m, got '7b'"):
        as_arguments(parser, ["a", "shape=7b"])


def ssbench(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from bench.command import main; sys.argv[0] = 'ssbench'; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_the_project_installs_ssbench() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"ssbench": "bench.command:main"}


def test_ssbench_lists_its_commands_and_refuses_others() -> None:
    listed = ssbench()
    assert listed.returncode == 0
    assert all(f"  {name} " in listed.stdout for name in COMMANDS)
    refused = ssbench("measure")
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (2, "error: unknown command 'measure'")


def test_ssbench_starts_with_nothing_imported() -> None:
    code = "import sys, json, bench.command; print(json.dumps(sorted(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"hydra", "numpy", "torch", "argparse"} & set(json.loads(loaded.stdout))


def test_ssbench_run_is_the_benchmark(tmp_path: Path) -> None:
    planned = ssbench("run", "method=sam", "model=tiny", "bench.plan=true", f"results_dir={tmp_path}")
    assert planned.stdout.startswith("sam-mt_bench-tiny-"), planned.stderr
    mistaken = ssbench("report", "nowhere=1")
    assert mistaken.returncode == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_name_of_ssbench_is_a_command(name: str) -> None:
    module = COMMANDS[name][0].replace(".", "/")
    assert (ROOT / module / "__main__.py").is_file() or (ROOT / f"{module}.py").is_file()


HELPED = {
    "prove": ("carry=false", ("data:", "recipe:", "paper:")),
    "train": ("cache=null", ("tuned", "paper:", "task:")),
    "profile": ("contexts=[128, 1024]", ("method:", "paper:", "data:")),
    "tune": ("grids=...", ("recipe:", "paper:", "carry")),
    "answers": ("engine=auto", ("method:", "measure:")),
    "calibrate": ("max_nodes=48", ("task:", "measure:")),
    "skip_set": ("max_iter=150", ("task:", "measure:")),
    "frequent_tokens": ("answers=", ("method:", "task:")),
    "mixture": ("text=", ("measure:", "task:")),
    "convert": ("kind=", ("measure:", "task:")),
    "run": ("max_new_tokens=128", ("recipe:", "paper:", "data:")),
}


@pytest.mark.parametrize("name", HELPED)
def test_help_explains_a_commands_own_keys_and_no_other(name: str) -> None:
    module = COMMANDS[name][0]
    main = import_module("bench.cli" if module == "bench" else f"{module}.cli").main
    helped = run_command(main, "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout.startswith(f"python -m {module}: ")
    own, others = HELPED[name]
    assert f"\n  {own}" in helped.stdout
    for other in others:
        assert f"\n  {other}" not in helped.stdout
