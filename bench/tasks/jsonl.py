"""The user's own prompts: ``task=jsonl``; `bench.tasks.task` reads the file."""

from dataclasses import dataclass, replace

from bench.errors import UserError
from bench.tasks.task import LoadedTask, SourceName, TaskSource, check_selection, read_questions, select


@dataclass(frozen=True, slots=True)
class JsonlTask:
    """The user's own prompts: ``task=jsonl task.path=my.jsonl``.

    Args:
        name: Name of the task, and the subtask of lines that name none.
        path: JSONL file, plain or gz.
        limit: Number of prompts to run, spread evenly over subtasks; None runs all.
        ids: Ids of the prompts to run.
    """

    name: str
    path: str | None = None
    limit: int | None = None
    ids: list[str | int] | None = None

    def __post_init__(self) -> None:
        check_selection(self.limit, self.ids)
        if self.path is None:
            raise UserError(f"task={self.name} needs a file of prompts", "Add task.path=my.jsonl.")

    def load(self) -> LoadedTask:
        """Read the file.

        Raises:
            UserError: If the file cannot be read, or an id is unknown.
        """
        file = read_questions(str(self.path))
        prompts = [replace(prompt, subtask=prompt.subtask or self.name) for prompt in file.prompts]
        chosen = select(prompts, self.limit, self.ids)
        partial = len(chosen) < len(prompts)
        source = TaskSource(SourceName.OWN, str(self.path), file.sha256, len(chosen), partial)
        return LoadedTask(chosen, source)
