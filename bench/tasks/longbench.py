"""LongBench's subsets, each with the benchmark's own prompt.

The prompts are not part of the rows: LongBench keeps them in one file, ``dataset2prompt.json``, which is
fetched with the data (at a fixed commit) or given as a local file. Only the four categories on which
HAMburger's quality was measured are offered, without few-shot and code subsets.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bench.errors import UserError
from bench.tasks.dataset import DatasetTask
from bench.tasks.prompt_files.files import read_content
from bench.tasks.rows import PublishedRows
from bench.tasks.task import LoadedTask, suggest

PROMPTS_URL = (
    "https://raw.githubusercontent.com/THUDM/LongBench/"
    "8ae23fd444b0ed5837e993fb8d764f70b388c568/config/dataset2prompt.json"
)
FILES = "zip://data/{subset}.jsonl::hf://datasets/THUDM/LongBench/data.zip"
ROWS = {"multifieldqa_en": 150}
"""Row counts of subsets whose count is not `USUAL_ROWS`."""
USUAL_ROWS = 200
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class LongBenchTask:
    """One subset of LongBench.

    Args:
        name: Name of the task.
        subset: Name of the subset; also the subtask of its prompts.
        budgets: Length limit of an answer in tokens, by subset.
        budget: The limit of this subset; an experiment may set ``max_new_tokens=${task.budget}``.
        prompts_path: Local copy of ``dataset2prompt.json``.
        path: Local file of the subset in LongBench's format.
        limit: Number of prompts to run, spread evenly; None runs all.
        ids: Ids of the prompts to run.
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
        """Read the prompt of the subset and its rows.

        Raises:
            UserError: If one of them cannot be read or fetched, or does not fit the settings.
        """
        wording = self._wording()
        if self.subset not in wording:
            raise UserError(
                f"{self.prompts_path or PROMPTS_URL} has no prompt for {self.subset}",
                suggest(self.subset, list(wording)),
            )
        return self._rows(jinja(wording[self.subset])).load()

    def unfetched_turns(self) -> int | None:
        """Number of questions to run; None if both the rows and the prompts are local files."""
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
            prompts: dict[str, str] = json.loads(content)
        except ValueError as error:
            raise UserError(
                f"{self.prompts_path or PROMPTS_URL} is not JSON: {error}",
                "Give LongBench's config/dataset2prompt.json as task.prompts_path.",
            ) from error
        return prompts


def jinja(wording: str) -> str:
    """LongBench's placeholders ``{field}`` in the Jinja syntax of `DatasetTask`."""
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
