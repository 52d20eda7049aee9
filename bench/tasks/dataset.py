"""Data sets of the papers: a template turns a row into a prompt, with `shots` worked examples in front.

A template is Jinja over the fields of a row, such as ``Question: {{ question }}``. The questions are those of
the published split, or of a local file in the data set's own format; examples come from another split. Papers
that use only a part of a split draw it at random: `draw` and `seed` choose the same rows as
``Dataset.shuffle(seed)`` of the `datasets` library.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jinja2 import StrictUndefined, Template, TemplateError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bench.compose.components import require_least
from bench.errors import UserError
from bench.records.model import Prompt
from bench.tasks.checkers import is_right
from bench.tasks.prompt_files.faults import SURROGATE
from bench.tasks.rows import PublishedRows, Row, read_rows
from bench.tasks.task import LoadedTask, SourceName, TaskSource, check_selection, select


@dataclass(frozen=True, slots=True)
class DatasetTask:
    """Questions of one data set.

    Args:
        name: Name of the task, and the subtask of its prompts.
        source: Where the data set is published.
        prompt: Template of a question, up to where the answer begins.
        answer: Template of its reference answer; None if the data set has none.
        id: Template of its id; None numbers the rows of the split from 1.
        shots: Worked examples in front of every question, the same for all.
        shots_split: Split that examples are drawn from.
        shots_path: Local file of that split, for use with `path`.
        separator: Between examples, and before the question.
        draw: Questions drawn at random from the split; None takes all.
        seed: Seed of the drawn questions and of the drawn examples.
        budget: Length limit of an answer in the papers, in tokens; an experiment may set
            ``max_new_tokens=${task.budget}``.
        path: Local file or folder in place of the published split, see `bench.tasks.rows.read_rows`.
        limit: Number of prompts to run, spread evenly over those drawn; None runs all.
        ids: Ids of the prompts to run.
        subtask: Template of a question's column in the tables; None puts all of them under `name`.
        check: Spec of a right answer for `bench.tasks.checkers`, each value a template; None checks nothing.
        layout: Brings a row into the form that the templates read.
    """

    name: str
    source: PublishedRows
    prompt: str
    answer: str | None = None
    id: str | None = None
    shots: int = 0
    shots_split: str = "train"
    shots_path: str | None = None
    separator: str = "\n\n"
    draw: int | None = None
    seed: int = 42
    budget: int | None = None
    path: str | None = None
    limit: int | None = None
    ids: list[str | int] | None = None
    subtask: str | None = None
    check: Mapping[str, str] | None = None
    layout: Callable[[Row], Row] | None = None

    def __post_init__(self) -> None:
        check_selection(self.limit, self.ids)
        require_least("task.shots", self.shots, 0)
        require_least("task.draw", self.draw, 1)
        require_least("task.seed", self.seed, 0)
        if self.shots and self.answer is None:
            raise UserError(f"task={self.name} has no answers to make examples of", "Leave task.shots=0.")
        if self.shots and self.path is not None and self.shots_path is None:
            raise UserError(
                f"task.shots={self.shots} needs worked examples beside task.path={self.path}",
                f"Add task.shots_path=FILE with the {self.shots_split} split, or task.shots=0.",
            )

    def load(self) -> LoadedTask:
        """Read the rows and write the prompts.

        Raises:
            UserError: If rows cannot be read or fetched, or do not fit the settings.
        """
        rows, sha256 = self._rows()
        places = draw_places(len(rows), self.draw, self.seed)
        examples = self._examples()
        prompts = [self._prompt(rows[place], place, examples) for place in places]
        sha256 = sha256 or _digest(rows, places)
        self._check_ids(prompts)
        chosen = select(prompts, self.limit, self.ids)
        is_published = self.path is None or sha256 == self.source.sha256
        kind = SourceName.PUBLISHED if is_published else SourceName.OWN
        location = self.path or f"{self.source.location} {self.source.split}"
        return LoadedTask(chosen, TaskSource(kind, location, sha256, len(chosen), len(chosen) < len(rows)))

    def unfetched_turns(self) -> int | None:
        """Number of questions to run from the published split; None with a local file."""
        if self.path is not None:
            return None
        bounds = (self.source.rows, self.draw, self.limit, len(self.ids or ()) or None)
        return min(bound for bound in bounds if bound is not None)

    def _rows(self) -> tuple[Sequence[Row], str]:
        """Rows of the questions and the sha256 of their file; an empty hash if they were fetched."""
        if self.path is None:
            return self.source.fetch(self.source.split), ""
        return read_rows(self.path, split=self.source.split, subset=self.source.subset)

    def _examples(self) -> list[str]:
        """Worked examples as text: the first rows of a random order of their split."""
        if not self.shots:
            return []
        if self.shots_path is None:
            rows = self.source.fetch(self.shots_split)
        else:
            rows = read_rows(self.shots_path, "task.shots_path", self.shots_split, self.source.subset)[0]
        if len(rows) < self.shots:
            raise UserError(
                f"task.shots={self.shots}, but split {self.shots_split} holds {len(rows)} rows",
                f"Use task.shots={len(rows)} or fewer.",
            )
        order = np.random.default_rng(self.seed).permutation(len(rows))[: self.shots]
        return [self._example(rows[int(place)], int(place)) for place in order]

    def _example(self, row: Row, place: int) -> str:
        question = self._write("prompt", self.prompt, row, place)
        return f"{question} {self._write('answer', str(self.answer), row, place)}"

    def _prompt(self, row: Row, place: int, examples: Sequence[str]) -> Prompt:
        row = self._laid_out(row, place)
        question = self._write("prompt", self.prompt, row, place)
        if not question.strip() or SURROGATE.search(question):
            wrong = "holds half of a surrogate pair" if question.strip() else "is empty"
            raise UserError(
                f"row {place + 1} of task={self.name}: its prompt {wrong}", "Mend or drop the row."
            )
        name = str(place + 1) if self.id is None else self._write("id", self.id, row, place)
        answer = "" if self.answer is None else self._write("answer", self.answer, row, place)
        turn = self.separator.join([*examples, question])
        subtask = self.name if self.subtask is None else self._write("subtask", self.subtask, row, place)
        return Prompt(name, subtask, (turn,), (answer,) if answer else (), self._checks(row, place))

    def _laid_out(self, row: Row, place: int) -> Row:
        if self.layout is None:
            return row
        try:
            return self.layout(row)
        except (ValueError, TypeError) as error:
            raise UserError(
                f"row {place + 1} of task={self.name} has another layout: {error}",
                f"Its fields: {', '.join(row)}. Give a file of this data set.",
            ) from error

    def _checks(self, row: Row, place: int) -> tuple[Mapping[str, str], ...]:
        if self.check is None:
            return ()
        spec = {key: self._write("check", text, row, place) for key, text in self.check.items()}
        try:
            is_right(spec, "")
        except (ValueError, KeyError) as error:
            raise UserError(f"task.check cannot be used: {error}", "See bench/tasks/checkers.py.") from error
        return (spec,)

    def _write(self, key: str, template: str, row: Row, place: int) -> str:
        """One template of this task, filled in.

        Raises:
            UserError: If the template is broken or uses a field that the row lacks.
        """
        try:
            return _compiled(template).render(row)
        except UndefinedError as error:
            raise UserError(
                f"row {place + 1} of task={self.name} does not fit task.{key}: {error.message}",
                f"Its fields: {', '.join(row)}. Give a file of this data set, or change task.{key}.",
            ) from error
        except (TemplateError, TypeError) as error:
            raise UserError(
                f"task.{key} cannot be filled in from row {place + 1}: {error}", "Write Jinja: {{ field }}."
            ) from error

    def _check_ids(self, prompts: Sequence[Prompt]) -> None:
        repeated = [name for name, count in Counter(prompt.id for prompt in prompts).items() if count > 1]
        if repeated:
            raise UserError(
                f"task={self.name}: id {repeated[0]!r} belongs to several rows",
                "Drop the repeated rows, or add task.id=null to number them.",
            )


def draw_places(rows: int, count: int | None, seed: int) -> list[int]:
    """Places of `count` random rows in ascending order; all of them for None."""
    if count is None or count >= rows:
        return list(range(rows))
    return sorted(np.random.default_rng(seed).permutation(rows)[:count].tolist())


def _digest(rows: Sequence[Row], places: Sequence[int]) -> str:
    """A hash of the chosen rows, for rows that `datasets` fetched and that are no single file."""
    digest = hashlib.sha256()
    for place in places:
        digest.update(json.dumps(rows[place], sort_keys=True, default=str).encode())
    return digest.hexdigest()


@cache
def _compiled(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(template)
