"""LongBench's subsets, each asked in the benchmark's own words.

The wording is not part of the rows: LongBench keeps it in one file, ``dataset2prompt.json``, which is fetched
with the data (at a fixed commit) or given as a local file. Its four categories with short answers are those
that HAMburger's quality was measured on; few-shot and code subsets are left out, as there.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bench.errors import UserError
from bench.tasks.dataset import DatasetTask
from bench.tasks.jsonl import read_content
from bench.tasks.rows import PublishedRows
from bench.tasks.task import LoadedTask, suggest

PROMPTS_URL = (
    "https://raw.githubusercontent.com/THUDM/LongBench/"
    "8ae23fd444b0ed5837e993fb8d764f70b388c568/config/dataset2prompt.json"
)
FILES = "zip://data/{subset}.jsonl::hf://datasets/THUDM/LongBench/data.zip"
ROWS = {"multifieldqa_en": 150}
"""Rows of subsets that do not hold `USUAL_ROWS`."""
USUAL_ROWS = 200
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class LongBenchTask:
    """One subset of LongBench.

    Args:
        name: Name of the task.
        subset: Which one; also the subtask of its prompts.
        budgets: Tokens that an answer may take, by subset.
        budget: That of this subset; an experiment may set ``max_new_tokens=${task.budget}``.
        prompts_path: Local copy of ``dataset2prompt.json``.
        path: Local file of the subset in LongBench's format.
        limit: Number of prompts to ask, spread evenly; None asks all.
        ids: Prompts to ask, by id.
    """

    name: str
    subset: str
    budgets: Mapping[str, int] = field(default_factory=dict)
    budget: int | None = None
    prompts_path: str | None = None
    path: str | None = None
    limit: int | None = None
    ids: list[str | int] | None = None

    def __post_init__(self) -> None:
        if self.subset not in self.budgets:
            raise UserError(
                f"task.subset={self.subset} is unknown", suggest(str(self.subset), list(self.budgets))
            )
        self._rows("")  # checks limit and ids

    def load(self) -> LoadedTask:
        """Read the wording and the rows.

        Raises:
            UserError: If a file, the network or a setting is at fault.
        """
        wording = self._wording()
        if self.subset not in wording:
            raise UserError(
                f"{self.prompts_path or PROMPTS_URL} has no prompt for {self.subset}",
                suggest(self.subset, list(wording)),
            )
        return self._rows(jinja(wording[self.subset])).load()

    def unfetched_turns(self) -> int | None:
        """Questions of the subset; None if local files hold it and its wording."""
        rows = self._rows("").unfetched_turns() or USUAL_ROWS
        return None if self.path is not None and self.prompts_path is not None else rows

    def _rows(self, prompt: str) -> DatasetTask:
        files = FILES.format(subset=self.subset)
        source = PublishedRows("json", ROWS.get(self.subset, USUAL_ROWS), split="train", files=files)
        answer = "{{ answers | join('\\n') }}"
        task = DatasetTask(self.subset, source, prompt, answer, "{{ _id }}", path=self.path)
        return replace(task, limit=self.limit, ids=self.ids)

    def _wording(self) -> dict[str, str]:
        if self.prompts_path is not None:
            content = read_content(self.prompts_path, "task.prompts_path")
        else:
            content = _fetch(PROMPTS_URL)
        try:
            found: dict[str, str] = json.loads(content)
        except ValueError as error:
            raise UserError(
                f"{self.prompts_path or PROMPTS_URL} is not JSON: {error}",
                "Give LongBench's config/dataset2prompt.json as task.prompts_path.",
            ) from error
        return found


def jinja(wording: str) -> str:
    """LongBench's ``{field}`` as a template of `DatasetTask`."""
    for name in ("context", "input"):
        wording = wording.replace(f"{{{name}}}", f"{{{{ {name} }}}}")
    return wording


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            content: bytes = response.read()
    except OSError as error:
        raise UserError(
            f"LongBench's prompts could not be fetched from {url}: {getattr(error, 'reason', error)}",
            "Download the file yourself and add task.prompts_path=dataset2prompt.json.",
        ) from error
    return content
