"""The six Spec-Bench subtasks, with the official questions or shipped ones.

The model's configuration sets `source`. The embedded model cannot answer the official questions sensibly, so
it gets questions of the same six subtasks that are held out from its training (``builtin``). For other models
120 questions in everyday language are shipped (``natural``), which need no network. `path` replaces any of
these with a file in the official format. The official file is downloaded once, checked against its hash and
kept in the user's cache folder.
"""

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.errors import UserError
from bench.records.files import write_bytes
from bench.records.model import Prompt
from bench.tasks.prompt_files.files import PromptFile, read_content
from bench.tasks.prompt_files.reader import QuestionFile, parse_questions, read_prompts
from bench.tasks.task import LoadedTask, SourceName, TaskSource, check_selection, select, suggest

SUBTASKS = ("mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag")
MT_BENCH_CATEGORIES = (
    "writing",
    "roleplay",
    "reasoning",
    "math",
    "coding",
    "extraction",
    "stem",
    "humanities",
)
"""Categories of MT-bench's questions, ten each: all of them count as the subtask ``mt_bench``."""
QUESTIONS_PER_SUBTASK: Mapping[str, int] = {
    SourceName.OFFICIAL: 80,
    SourceName.BUILTIN: 80,
    SourceName.NATURAL: 20,
}
"""By source; other sources have no fixed number."""
OFFICIAL_URL = "https://raw.githubusercontent.com/hemingkx/Spec-Bench/main/data/spec_bench/question.jsonl"
OFFICIAL_SHA256 = "4b6d33e79484f9841c487ee87d1cf6aa8c6066f61d5d482ff09e5a007fafdf04"
MAX_BYTES = 16 * 2**20  # the file has 0.7 MB; anything larger is not it
TIMEOUT_S = 30.0
BUILTIN_LOCATION = "bench/assets/prompts/builtin.jsonl"
BUILTIN_FILE = Path(__file__).parents[2] / BUILTIN_LOCATION
NATURAL_LOCATION = "bench/assets/prompts/natural.jsonl"
NATURAL_FILE = Path(__file__).parents[2] / NATURAL_LOCATION


@dataclass(frozen=True, slots=True)
class QuestionTask:
    """Questions of some or all Spec-Bench subtasks.

    Args:
        name: Name of the task.
        source: ``official``, ``builtin`` or ``natural``; the model's configuration sets it.
        subtasks: Subtasks to run; None runs all in the file.
        path: File in the official format, plain or gz, that replaces `source`.
        limit: Number of prompts to run, spread evenly over subtasks; None runs all.
        ids: Ids of the prompts to run.
    """

    name: str
    source: str
    subtasks: list[str] | None = None
    path: str | None = None
    limit: int | None = None
    ids: list[str | int] | None = None

    def __post_init__(self) -> None:
        check_selection(self.limit, self.ids)
        if self.source not in QUESTIONS_PER_SUBTASK:
            sources = [str(source) for source in QUESTIONS_PER_SUBTASK]
            raise UserError(f"task.source={self.source} is unknown", suggest(str(self.source), sources))
        if isinstance(self.subtasks, str) or (self.subtasks is not None and not self.subtasks):
            raise UserError(
                f"task.subtasks must be a list of subtasks, got {self.subtasks!r}",
                "Write 'task.subtasks=[qa,rag]'.",
            )
        for subtask in self.subtasks or ():
            if subtask not in SUBTASKS:
                raise UserError(
                    f"task.subtasks names {subtask!r}, which is unknown", suggest(str(subtask), SUBTASKS)
                )

    def load(self) -> LoadedTask:
        """Read the file that `path` or `source` names.

        Raises:
            UserError: If the file cannot be read or fetched, or a setting does not fit it.
        """
        file, name, location = self._read()
        prompts = [self._with_subtask(prompt, location) for prompt in file.prompts]
        available = self._of_subtasks(prompts, location)
        chosen = select(available, self.limit, self.ids)
        source = TaskSource(name, location, file.sha256, len(chosen), len(chosen) < len(available))
        return LoadedTask(chosen, source)

    def unfetched_turns(self) -> int | None:
        """Turns to run if the official questions must be downloaded first, else None.

        MT-bench's questions have two turns each, all others one.
        """
        if self.path is not None or self.source != SourceName.OFFICIAL or _cached_file().is_file():
            return None
        subtasks = self.subtasks or SUBTASKS
        turns = QUESTIONS_PER_SUBTASK[self.source] * (len(subtasks) + ("mt_bench" in subtasks))
        questions = QUESTIONS_PER_SUBTASK[self.source] * len(subtasks)
        chosen = min(questions, self.limit or questions, len(self.ids or range(questions)))
        return round(turns * chosen / questions)

    def _read(self) -> tuple[QuestionFile, SourceName, str]:
        if self.path is not None:
            file = read_prompts(PromptFile(str(self.path)))
            is_official = file.sha256 == OFFICIAL_SHA256
            return file, SourceName.OFFICIAL if is_official else SourceName.MODIFIED, self.path
        if self.source == SourceName.BUILTIN:
            return read_builtin(), SourceName.BUILTIN, BUILTIN_LOCATION
        if self.source == SourceName.NATURAL:
            return read_natural(), SourceName.NATURAL, NATURAL_LOCATION
        return parse_questions(official_content(), OFFICIAL_URL), SourceName.OFFICIAL, OFFICIAL_URL

    def _with_subtask(self, prompt: Prompt, location: str) -> Prompt:
        """The prompt with its subtask; a prompt without a category gets that of a task with only one."""
        subtask = "mt_bench" if prompt.subtask in MT_BENCH_CATEGORIES else prompt.subtask
        if not subtask and self.subtasks is not None and len(self.subtasks) == 1:
            subtask = self.subtasks[0]
        if subtask not in SUBTASKS:
            what = (
                f"has category {subtask!r}, which Spec-Bench does not know" if subtask else "has no category"
            )
            fix = suggest(subtask, SUBTASKS) if subtask else f"Choose from: {', '.join(SUBTASKS)}."
            raise UserError(
                f"{location}: prompt {prompt.id} {what}", f"{fix} For other prompts use task=jsonl."
            )
        return replace(prompt, subtask=subtask)

    def _of_subtasks(self, prompts: list[Prompt], location: str) -> list[Prompt]:
        present = list(dict.fromkeys(prompt.subtask for prompt in prompts))
        subtasks = present if self.subtasks is None else self.subtasks
        for subtask in subtasks:
            if subtask not in present:
                fix = f"It holds {', '.join(present)}; choose among these or give another task.path."
                raise UserError(f"{location} holds no question of subtask {subtask}", fix)
        return [prompt for prompt in prompts if prompt.subtask in subtasks]


def read_builtin() -> QuestionFile:
    """The built-in questions: six subtasks for the embedded model, see `bench.tasks.prompt_files`.

    Raises:
        UserError: If the installation lacks them.
    """
    return _read_shipped(BUILTIN_FILE, BUILTIN_LOCATION)


def read_natural() -> QuestionFile:
    """The shipped questions in everyday language: six subtasks, for any model that can chat.

    The questions of ``mt_bench`` bear the name of their category, as in the official file.

    Raises:
        UserError: If the installation lacks them.
    """
    return _read_shipped(NATURAL_FILE, NATURAL_LOCATION)


def _read_shipped(file: Path, location: str) -> QuestionFile:
    if not file.is_file():
        raise UserError(
            f"the built-in prompts are missing from this installation ({location})",
            "Install the package again, or give your own file with task.path=my.jsonl.",
        )
    return parse_questions(file.read_bytes(), str(file))


def cache_folder() -> Path:
    """Folder for downloads: in ``$XDG_CACHE_HOME`` if that is an absolute path, else in ``~/.cache``."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "self-speculative-bench"


def official_content(fetch: Callable[[str], bytes] | None = None) -> bytes:
    """The official question file, from the cache or downloaded into it; its hash is checked either way.

    Args:
        fetch: Returns the content at an address; None uses the network.

    Raises:
        UserError: If it is not cached and cannot be fetched, or other content was fetched.
    """
    cached = _cached_file()
    if cached.is_file() and _is_official(content := read_content(cached)):
        return content
    content = _download(fetch or _fetch)
    _keep(cached, content)
    return content


def _cached_file() -> Path:
    return cache_folder() / "spec_bench" / "question.jsonl"


def _is_official(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == OFFICIAL_SHA256


def _download(fetch: Callable[[str], bytes]) -> bytes:
    fix = "Download it yourself and add task.path=question.jsonl."
    try:
        content = fetch(OFFICIAL_URL)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"the question file could not be fetched from {OFFICIAL_URL}: {reason}", fix
        ) from error
    if not _is_official(content):
        raise UserError(f"{OFFICIAL_URL} served another file than Spec-Bench's (its sha256 differs)", fix)
    return content


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        content: bytes = response.read(MAX_BYTES)
    return content


def _keep(path: Path, content: bytes) -> None:
    """Write the file and rename it into place, so that a parallel run never reads half of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content, is_shared=True)
    except OSError as error:
        fix = "Set XDG_CACHE_HOME to a folder that you may write to."
        raise UserError(
            f"the question file cannot be kept in {path.parent}: {error.strerror}", fix
        ) from error
