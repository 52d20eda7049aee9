"""NVIDIA's SPEED-Bench: eleven kinds of questions, and prompts of about 1 to 32 thousand tokens.

Its published files hold placeholders where the questions belong to other data sets; NVIDIA's
``prepare_data.py`` (Model-Optimizer, ``examples/specdec_bench``) fills them in and writes
``speed/<config>/test.parquet``. This task reads those files and fetches nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.records.files import expanded
from bench.records.model import Prompt
from bench.tasks.prompt_files.faults import RowError
from bench.tasks.prompt_files.reader import read_prompt
from bench.tasks.rows import read_rows
from bench.tasks.task import LoadedTask, SourceName, TaskSource, check_selection, select, suggest

CONFIGS = (
    "qualitative",
    *("throughput_1k", "throughput_2k", "throughput_8k", "throughput_16k", "throughput_32k"),
)
CATEGORIES = (
    *("coding", "humanities", "math", "multilingual", "qa", "rag", "reasoning", "roleplay", "stem"),
    *("summarization", "writing"),
)
"""Of the config ``qualitative``, 80 questions each; the others have low_entropy, mixed and high_entropy."""
ENTROPIES = ("low_entropy", "mixed", "high_entropy")
PLACEHOLDER = "FULL BENCHMARK DATA SHOULD BE FETCHED FROM THE SOURCE"
"""How a turn begins that was not filled in."""
_PREPARE = "Prepare them with examples/specdec_bench/prepare_data.py of NVIDIA's Model-Optimizer"


@dataclass(frozen=True, slots=True)
class SpeedBenchTask:
    """Prepared questions of SPEED-Bench; their category is the subtask.

    Args:
        name: Name of the task.
        configs: Which of its parts; with several, ids begin with the part's name.
        categories: Which categories; None takes all.
        path: The folder that ``prepare_data.py`` wrote, or one file of a single config.
        limit: Number of prompts to run, spread evenly over subtasks; None runs all.
        ids: Ids of the prompts to run.
    """

    name: str
    configs: list[str]
    categories: list[str] | None = None
    path: str | None = None
    limit: int | None = None
    ids: list[str | int] | None = None

    def __post_init__(self) -> None:
        check_selection(self.limit, self.ids)
        for key, given, known in (
            ("configs", self.configs, CONFIGS),
            ("categories", self.categories or (), (*CATEGORIES, *ENTROPIES)),
        ):
            if isinstance(given, str) or (key == "configs" and not given):
                raise UserError(
                    f"task.{key} must be a list, got {given!r}", f"Write 'task.{key}=[{known[0]}]'."
                )
            for wrong in [name for name in given if name not in known]:
                raise UserError(f"task.{key} names {wrong!r}", suggest(str(wrong), known))
        if self.path is None:
            raise UserError(
                f"task={self.name} needs prepared files", f"{_PREPARE}, then add task.path=FOLDER."
            )

    def load(self) -> LoadedTask:
        """Read the prepared files.

        Raises:
            UserError: If one is missing, damaged or not prepared, or an id is unknown.
        """
        prompts: list[Prompt] = []
        hashes: list[str] = []
        for config in self.configs:
            file = self._file(config)
            rows, sha256 = read_rows(str(file))
            prompts += self._prompts(rows, config, file)
            hashes.append(sha256)
        if not prompts:
            raise UserError(f"{self.path} has no question of task.categories", "Leave task.categories=null.")
        chosen = select(prompts, self.limit, self.ids)
        digest = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
        is_partial = len(chosen) < len(prompts)
        return LoadedTask(chosen, TaskSource(SourceName.OWN, str(self.path), digest, len(chosen), is_partial))

    def _file(self, config: str) -> Path:
        """Where a config's rows are: in the folder of its name, or in the file given for the only one."""
        given = expanded(str(self.path))
        if not given.is_dir():
            if len(self.configs) > 1:
                raise UserError(
                    f"task.path={self.path} is one file for several configs", "Give their folder."
                )
            return given
        places = (given / config, given / "speed" / config)
        found = next((place for place in places if place.is_dir()), given if len(self.configs) == 1 else None)
        if found is None:
            raise UserError(f"task.path={self.path} has no folder {config}", f"{_PREPARE} --config {config}.")
        return found

    def _prompts(self, rows: Sequence[Mapping[str, Any]], config: str, file: Path) -> list[Prompt]:
        made = []
        for number, row in enumerate(rows, start=1):
            if self.categories is not None and row.get("category") not in self.categories:
                continue
            try:
                prompt = read_prompt(
                    {key: row.get(key) for key in ("question_id", "category", "turns")}, number
                )
            except RowError as error:
                raise UserError(f"row {number} of {file}: {error}", "Give a file of SPEED-Bench.") from error
            if any(turn.startswith(PLACEHOLDER) for turn in prompt.turns):
                raise UserError(f"row {number} of {file} holds a placeholder, not a question", f"{_PREPARE}.")
            name = prompt.id if len(self.configs) == 1 else f"{config}/{prompt.id}"
            made.append(replace(prompt, id=name, subtask=prompt.subtask or self.name))
        return made
