"""The course of a training run: a line per logged step, no step doubled or missing whatever interrupts it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.errors import UserError
from bench.runtime.sampling import DraftHead
from bench.train.trainers.course import COURSE_FILE, Course, read_course
from bench.train.trainers.joint import JointTraining
from bench.train.trainers.loop import Dialogue
from bench.train.trainers.modules import ModuleTraining, observed
from bench.train.trainers.recipe import JointRecipe, ModuleRecipe
from methods.kangaroo.draft import Kangaroo
from tests.methods.hamburger.hamburgers import unattached
from tests.methods.small import prompt, random_decoder

MODULES = ModuleRecipe(steps=7, batch=2, warmup_steps=2, checkpoint_every=3, log_every=2)
JOINT = JointRecipe(steps=7, batch=2, warmup_steps=2, checkpoint_every=3, log_every=2, micro_tokens=32)
LOGGED = [2, 4, 6, 7]


def dialogues() -> Iterator[Dialogue]:
    """Random ids whose second half is the answer; the same stream at every call."""
    for seed in itertools.count():
        yield prompt(20, seed).tolist(), [False] * 10 + [True] * 10


def module_trainer(out: Path, **changes: Any) -> ModuleTraining:
    """A training that takes dialogues, as that of the whole model does."""
    trainer = Kangaroo(weights=None, exit_layer=2, draft_length=3, threshold=0.0).trainer()
    decoder = random_decoder()

    class OfDialogues(ModuleTraining):
        def run(self, items: Iterator[Any]) -> dict[str, float]:
            return super().run(observed(trainer, decoder, DraftHead(decoder), items, MODULES.max_tokens))

    return OfDialogues(trainer, decoder, replace(MODULES, **changes), out)


def joint_trainer(out: Path, **changes: Any) -> JointTraining:
    return JointTraining(unattached().model_trainer(), random_decoder(), replace(JOINT, **changes), out)


def untimed(folder: Path) -> list[dict[str, Any]]:
    timed = ("seconds", "tokens_per_s")
    return [{key: value for key, value in line.items() if key not in timed} for line in read_course(folder)]


TRAINERS = pytest.mark.parametrize(
    "trainer", [module_trainer, joint_trainer], ids=["frozen model", "whole model"]
)


@TRAINERS
def test_every_logged_step_is_a_line_of_json(trainer: Callable[..., Any], tmp_path: Path) -> None:
    figures = trainer(tmp_path).run(dialogues())
    lines = [json.loads(text) for text in (tmp_path / COURSE_FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == LOGGED
    assert lines[0]["lr"] == pytest.approx(2e-3 * trainer(tmp_path / "x")._recipe.lr_factor(1))
    assert all(line["tokens_per_s"] > 0 for line in lines)
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    assert {"loss", "top1"} <= set(figures)
    assert "tokens" not in figures
    assert figures.items() <= lines[-1].items()


@TRAINERS
def test_a_resumed_run_has_the_lines_of_an_undisturbed_one(
    trainer: Callable[..., Any], tmp_path: Path
) -> None:
    """Killed after step 4, it resumes from step 3, whose figures belong to an unfinished line."""
    trainer(tmp_path / "whole").run(dialogues())
    with pytest.raises(InterruptedError):
        trainer(tmp_path / "halves").run(interrupted(dialogues(), 5 * 2 - 1))
    assert [line["step"] for line in read_course(tmp_path / "halves")] == [2, 4]
    trainer(tmp_path / "halves").run(dialogues())
    assert untimed(tmp_path / "halves") == untimed(tmp_path / "whole")


def interrupted(stream: Iterator[Dialogue], after: int) -> Iterator[Dialogue]:
    yield from itertools.islice(stream, after)
    raise InterruptedError


def test_a_run_without_a_checkpoint_starts_its_lines_anew(tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        module_trainer(tmp_path, checkpoint_every=99).run(interrupted(dialogues(), 6))
    module_trainer(tmp_path, checkpoint_every=99).run(dialogues())
    assert [line["step"] for line in read_course(tmp_path)] == LOGGED


def test_a_finished_run_called_again_keeps_its_figures(tmp_path: Path) -> None:
    first = module_trainer(tmp_path, checkpoint_every=7).run(dialogues())
    assert module_trainer(tmp_path, checkpoint_every=7).run(dialogues()) == first != {}


def test_seconds_go_on_over_an_interrupt_and_speed_counts_answer_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count(0, 10.0)
    monkeypatch.setattr("bench.train.trainers.course.time.perf_counter", lambda: next(now))
    first = Course(tmp_path, steps=4, log_every=2)
    first.begin(0)
    assert first.passed(1, 0.1, {"tokens": 30.0, "loss": 2.0}) is None
    assert first.passed(2, 0.1, {"tokens": 10.0, "loss": 1.0}) == {"loss": 1.5}
    state = first.state
    second = Course(tmp_path, steps=4, log_every=2)
    second.begin(2, state)
    second.passed(3, 0.1, {"tokens": 30.0, "loss": 1.0})
    second.passed(4, 0.1, {"tokens": 30.0, "loss": 1.0})
    lines = read_course(tmp_path)
    assert [line["seconds"] for line in lines] == [10, 30]
    assert [line["tokens_per_s"] for line in lines] == [4, 3]


def test_a_figure_that_is_not_finite_leaves_valid_json(tmp_path: Path) -> None:
    course = Course(tmp_path, steps=1, log_every=1)
    course.begin(0)
    course.passed(1, 0.1, {"tokens": 1.0, "loss": math.nan})
    assert "null" in (tmp_path / COURSE_FILE).read_text()
    assert math.isnan(read_course(tmp_path)[0]["loss"])


def test_a_line_that_is_being_written_is_left_out_and_a_damaged_one_refused(tmp_path: Path) -> None:
    path = tmp_path / COURSE_FILE
    path.write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "lo')
    assert [line["step"] for line in read_course(tmp_path)] == [2]
    path.write_text('{"step": 2, "loss": 1.0}\n{"st\n{"step": 6}\n')
    with pytest.raises(UserError, match="line 2 of"):
        read_course(tmp_path)
    with pytest.raises(UserError, match=r"holds no training\.jsonl"):
        read_course(tmp_path / "elsewhere")
