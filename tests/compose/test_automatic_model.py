"""``model=auto`` is smollm2 where it can be had, else tiny, and both are what they are by their own names."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bench.compose.automatic_model
import bench.runtime.package_index
from bench.compose.automatic_model import settle_model
from bench.compose.places import require_places
from bench.compose.settings import Settings, settings_from
from bench.errors import UserError
from tests.harness import ROOT, composed_settings, composed_tree


@pytest.fixture(autouse=True)
def untried() -> Iterator[None]:
    """No test inherits another's attempt to fetch."""
    bench.compose.automatic_model._obstacle.cache_clear()
    yield
    bench.compose.automatic_model._obstacle.cache_clear()


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An index out of reach; the names that were asked for."""
    asked: list[str] = []

    def fetch_model(name: str) -> Path:
        asked.append(name)
        raise UserError("smollm2 cannot be fetched", "connect")

    monkeypatch.setattr(bench.compose.automatic_model, "fetch_model", fetch_model)
    return asked


def settled(*overrides: str) -> Settings:
    """Settings as the command line makes them."""
    return settings_from(*settle_model(*composed_tree(*overrides)))


def test_where_it_can_be_had_it_is_smollm2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench.compose.automatic_model, "fetch_model", lambda name: tmp_path)
    got, named = (settled(f"model={name}", "method=prompt_lookup") for name in ("auto", "smollm2"))
    assert got.config == named.config
    assert (got.model.name, got.model.path, got.model.prompts) == ("smollm2", "fetch:smollm2", "natural")


def test_elsewhere_it_is_tiny_and_a_line_says_so(
    attempts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        got = [settled("model=auto", "method=kangaroo") for _ in range(2)]
    assert got[0].config == got[1].config == composed_settings("model=tiny", "method=kangaroo").config
    assert got[0].method.params["weights"] == "package:bench/assets/tiny/modules/kangaroo"
    assert attempts == ["smollm2"], "a sweep waits for the network once"
    assert caplog.messages[0] == "model=auto takes tiny: smollm2 cannot be fetched"


def test_another_path_keeps_nothing_of_smollm2() -> None:
    got = settled("model.path=./my-checkpoint", "method=prompt_lookup")
    assert (
        got.config
        == composed_settings("model=local", "model.path=./my-checkpoint", "method=prompt_lookup").config
    )
    assert (got.model.draft_vocab, got.model.frequent_tokens, got.model.stop_ids) == (None, None, [])
    assert got.model.prompts == "official"


def test_what_the_command_line_sets_stays(attempts: list[str]) -> None:
    got = settled("model=auto", "method=autoregressive", "model.questions=3", "model.template=raw")
    assert (got.model.name, got.model.questions, got.model.template) == ("tiny", 3, "raw")
    assert (got.model.stop_ids, got.model.context) == ([], None)


def test_a_model_that_was_named_is_not_replaced(attempts: list[str]) -> None:
    with pytest.raises(UserError, match="smollm2 cannot be fetched"):
        settled("model=smollm2", "method=autoregressive")


def test_a_path_of_ones_own_needs_no_network(attempts: list[str]) -> None:
    got = settled("model=smollm2", "method=autoregressive", "model.path=./my.gguf")
    assert (got.model.name, got.model.path) == ("smollm2", "./my.gguf")
    assert not attempts


@pytest.mark.parametrize(
    "overrides", [["model=auto", "bench.plan=true"], ["model=tiny"], ["model=local", "model.path=x"]]
)
def test_nothing_is_fetched_for_a_plan_or_another_model(overrides: list[str], attempts: list[str]) -> None:
    settled("method=autoregressive", *overrides)
    assert not attempts


def test_a_method_without_modules_names_the_model_it_would_need_them_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench.compose.automatic_model, "fetch_model", lambda name: tmp_path)
    with pytest.raises(UserError, match="method=kangaroo has no modules for model=smollm2"):
        require_places(settled("model=auto", "method=kangaroo", "model.modules=null"))


def command(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line with an empty cache and no index."""
    no_index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", bench.runtime.package_index.FOLDER_VARIABLE: ""}
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=tmp_path,
        env={**os.environ, **no_index, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("flags", "shown"), [(["--cfg", "job", "--resolve"], "fetch:smollm2"), (["--help"], "(default: auto)")]
)
def test_showing_the_configuration_fetches_nothing(tmp_path: Path, flags: list[str], shown: str) -> None:
    done = command(tmp_path, "model=auto", "method=kangaroo", *flags)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
    assert done.stderr == ""
    assert not (tmp_path / "self-speculative-bench").exists()


@pytest.mark.slow
def test_a_run_without_network_is_a_run_of_tiny(tmp_path: Path) -> None:
    few = ["task=qa", "task.limit=1", "max_new_tokens=4", "measure=quick", "runtime.tier=static"]
    done = command(tmp_path, "model=auto", "method=kangaroo", *few)
    assert done.returncode == 0, done.stderr
    assert "kangaroo-qa-tiny-" in done.stdout
    assert sum("model=auto takes tiny" in line for line in done.stderr.splitlines()) == 1
