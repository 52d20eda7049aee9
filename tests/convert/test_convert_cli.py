"""`python -m bench.convert` as a person uses it: what is printed, where it goes, and what is a mistake."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.convert.cli import main
from tests.command import mistake_lines
from tests.convert.published import medusa_heads, save_config, save_medusa
from tests.convert.test_checkpoint import random_state, save_pickles
from tests.methods.small import random_decoder


def typed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command."""
    monkeypatch.setattr(sys, "argv", ["convert", *arguments])
    status = 0
    try:
        main()
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    written = capfd.readouterr()
    return status, written.out, written.err


def test_the_module_goes_beside_other_results_and_the_next_command_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_config(tmp_path / "vicuna")
    save_medusa(tmp_path / "heads", medusa_heads(random_decoder()))
    status, out, err = typed(
        monkeypatch, capfd, "kind=medusa", "model=local", "model.path=./vicuna", "source=./heads"
    )
    assert (status, out) == (
        0,
        "5 heads in results/convert/vicuna/medusa; use them with\n"
        "python -m bench method=medusa model=local model.path=./vicuna "
        "method.weights=results/convert/vicuna/medusa\n",
    )
    assert "says 2 heads, the weights hold 5: using 5" in err
    assert (tmp_path / "results/convert/vicuna/medusa/module.safetensors").is_file()


def test_a_pickled_model_becomes_a_folder_to_point_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_pickles(tmp_path / "vicuna", random_state(), 2)
    status, out, _ = typed(
        monkeypatch, capfd, "kind=checkpoint", "model=vicuna_7b", "model.path=./vicuna", "out=./safe"
    )
    assert status == 0
    assert out.endswith("python -m bench model=vicuna_7b model.path=safe\n")
    assert (tmp_path / "safe" / "model.safetensors.index.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "what", "fix"),
    [
        ([], "the model must be given", "add model=NAME"),
        (["model.path=x"], "kind must be given", "add kind=..."),
        (["kind=hydra", "model.path=x"], "kind must be one of medusa, kangaroo", "kind=medusa"),
        (["kind=medusa", "model.path=x"], "kind=medusa needs source", "add source=FILE"),
        (["kind=checkpoint", "model.path=x", "source=y"], "converts the model itself", "model.path"),
        (
            ["kind=medusa", "model.path=x", "source=y", "exit_layer=2"],
            "kind=medusa has no exit_layer",
            "leave it out",
        ),
        (["kind=medusa", "model.path=./x", "source=y"], "there is no folder ./x", "model.path"),
        (["kind=medusa", "model=vicuna_8b", "source=y"], "unknown model 'vicuna_8b'", "vicuna_7b"),
    ],
)
def test_mistakes_take_two_lines(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    what: str,
    fix: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = typed(monkeypatch, capfd, *arguments)
    lines = mistake_lines(err)
    assert (status, out, len(lines)) == (2, "", 2), err
    assert what in lines[0]
    assert fix in lines[1]
