"""Pictures of a training: drawn from its log at any time, alone or together with others."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from bench.errors import UserError
from bench.report.style import INK, svg
from bench.train.curves import course_frame, distinct_names, main, training_figure
from bench.train.trainers.course import COURSE_FILE


def training(folder: Path, *names: str, steps: int = 3) -> Path:
    """A folder with a course that logs these figures."""
    folder.mkdir(parents=True)
    frame = {"seconds": 1.0, "lr": 1e-3, "tokens_per_s": 10.0}
    lines = [{"step": step, **frame, **dict.fromkeys(names, 1 / step)} for step in range(1, steps + 1)]
    (folder / COURSE_FILE).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def test_one_command_draws_a_training_that_is_still_being_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = training(tmp_path / "out", "loss", "top1")
    with (out / COURSE_FILE).open("a") as file:
        file.write('{"step": 4, "lo')
    assert main([str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out / "training.png"), str(out / "training.svg")]
    assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
    text = (out / "training.svg").read_text()
    assert text.startswith("<svg")
    assert INK not in text


def test_losses_have_a_panel_in_nats_and_shares_one_from_0_to_1(tmp_path: Path) -> None:
    names = ["loss", "gate", "stop", "accept", "top5_2", "exit_top1", "stop_right"]
    losses, shares = training_figure(course_frame([training(tmp_path / "out", *names)])).axes
    assert {line.get_label() for line in losses.get_lines()} == {"loss", "gate", "stop"}
    assert {line.get_label() for line in shares.get_lines()} == {*names} - {"loss", "gate", "stop"}
    assert losses.get_ylabel() == "loss (nats)"
    assert shares.get_ylim() == (0, 1.02)


def test_several_trainings_share_panels_of_the_figures_that_two_of_them_log(tmp_path: Path) -> None:
    folders = [training(tmp_path / name / "out", "loss", "top1", name) for name in ("first", "second")]
    figure = training_figure(course_frame(folders))
    assert [axes.get_title() for axes in figure.axes] == ["loss (nats)", "top1 (share of tokens)"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["first", "second"]
    assert svg(figure, "a") == svg(training_figure(course_frame(folders)), "a")


def test_several_trainings_are_written_where_they_hide_none(tmp_path: Path) -> None:
    folders = [training(tmp_path / name, "loss") for name in "ab"]
    assert main([*map(str, folders), "--into", str(tmp_path / "both")]) == 0
    assert {path.name for path in (tmp_path / "both").iterdir()} == {
        "training-together.png",
        "training-together.svg",
    }


def test_a_long_course_is_averaged(tmp_path: Path) -> None:
    axes = training_figure(course_frame([training(tmp_path / "out", "loss", steps=1001)])).axes[0]
    (line,) = axes.get_lines()
    assert len(line.get_xdata()) == 91  # of 11 lines each
    assert line.get_xdata()[-1] == 1001


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["r/tiny/kangaroo"], ["tiny/kangaroo"]),
        (["r/tiny/kangaroo", "r/7b/kangaroo"], ["tiny", "7b"]),
        (["r/tiny/medusa", "r/7b/kangaroo"], ["tiny/medusa", "7b/kangaroo"]),
        (["r/tiny", "r/tiny/again"], ["tiny", "tiny/again"]),
    ],
)
def test_folders_are_called_by_what_tells_them_apart(folders: list[str], names: list[str]) -> None:
    assert distinct_names([Path(folder) for folder in folders]) == names


def test_what_cannot_be_drawn_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2
    out = training(tmp_path / "out", "loss", steps=0)
    with pytest.raises(UserError, match="not logged a step yet"):
        course_frame([out])
    with pytest.raises(UserError, match="named twice"):
        distinct_names([out, out])
    with pytest.raises(UserError, match="no figure in common"):
        training_figure(pd.DataFrame({"run": ["a", "b"], "step": 1, "figure": ["x", "y"], "value": 1.0}))
