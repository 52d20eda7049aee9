"""Where the built-in questions lie: six subtasks for the embedded model, held out from its training.

They are in the format of `bench.tasks.jsonl` (``id``, ``subtask``, ``turns``, ``references``, ``checks``).
"""

from pathlib import Path

from bench.errors import UserError
from bench.tasks.jsonl import QuestionFile, read_questions

BUILTIN_LOCATION = "bench/assets/prompts/builtin.jsonl"
BUILTIN_FILE = Path(__file__).parents[2] / BUILTIN_LOCATION


def read_builtin() -> QuestionFile:
    """The built-in questions.

    Raises:
        UserError: If the installation lacks them.
    """
    if not BUILTIN_FILE.is_file():
        raise UserError(
            f"the built-in prompts are missing from this installation ({BUILTIN_LOCATION})",
            "Install the package again, or give your own file with task.path=my.jsonl.",
        )
    return read_questions(BUILTIN_FILE)
