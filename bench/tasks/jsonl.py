"""The user's own prompts: ``task=jsonl``; `bench.tasks.prompt_files` reads the file."""

from dataclasses import dataclass, replace

from bench.errors import UserError
from bench.tasks.prompt_files.files import Format, PromptFile, require_format
from bench.tasks.prompt_files.reader import read_prompts
from bench.tasks.task import LoadedTask, SourceName, TaskSource, check_selection, select


@dataclass(frozen=True, slots=True)
class JsonlTask:
    """The user's own prompts: ``task=jsonl task.path=my.jsonl``.

    Args:
        name: Name of the task, and the subtask of rows that name none.
        path: The file or folder, in any format of `bench.tasks.prompt_files`.
        limit: Number of prompts to run, spread evenly over subtasks; None runs all.
        ids: Ids of the prompts to run.
        column: The key or column that holds the text; None finds it by the usual names.
        format: ``table``, ``lines`` (plain text, a prompt per line) or ``whole`` (the file is one prompt);
            None or ``auto`` recognises it by its content.
    """

    name: str
    path: str | None = None
    limit: int | None = None
    ids: list[str | int] | None = None
    column: str | None = None
    format: str | None = None

    def __post_init__(self) -> None:
        check_selection(self.limit, self.ids)
        if self.path is None:
            raise UserError(f"task={self.name} needs a file of prompts", "Add task.path=my.jsonl.")
        require_format("task.format", self.format)

    def load(self) -> LoadedTask:
        """Read the file.

        Raises:
            UserError: If the file cannot be read, or an id is unknown.
        """
        kind = Format(self.format or Format.AUTO)
        file = read_prompts(PromptFile(str(self.path), "task.path", kind, self.column, has_settings=True))
        prompts = [replace(prompt, subtask=prompt.subtask or self.name) for prompt in file.prompts]
        chosen = select(prompts, self.limit, self.ids)
        partial = len(chosen) < len(prompts)
        source = TaskSource(SourceName.OWN, str(self.path), file.sha256, len(chosen), partial)
        return LoadedTask(chosen, source)
