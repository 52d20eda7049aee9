"""The text of a run's questions, which records do not hold: read again from where the run had them."""

from __future__ import annotations

from collections.abc import Sequence

from bench.compose.components import Component
from bench.errors import UserError
from bench.records.model import Prompt, Run


def turns_of(run: Run, prompt_id: str) -> tuple[str, ...]:
    """The turns of one question.

    Raises:
        UserError: If the questions cannot be read, or are not those that the run asked.
    """
    node = run.config.get("task")
    if node is None:
        raise UserError("the record names no task", "it was made by older code")
    loaded = Component.from_node("task", run.task, node).build().load()
    if loaded.source.sha256 != run.identity.get("questions"):
        what = f"{loaded.source.location} is not the file whose questions were asked"
        raise UserError(what, "put the file of that run in its place")
    return _turns(loaded.prompts, prompt_id)


def question_text(run: Run, prompt_id: str, turn: int) -> tuple[str, str]:
    """The question of a turn, and why there is none where it cannot be read; one of the two is empty."""
    try:
        turns = turns_of(run, prompt_id)
    except UserError as mistake:
        return "", f"The question's text is not in the record, and cannot be read here: {mistake.what}."
    return (turns[turn], "") if turn < len(turns) else ("", f"The file has no turn {turn + 1} of it.")


def _turns(prompts: Sequence[Prompt], prompt_id: str) -> tuple[str, ...]:
    for prompt in prompts:
        if prompt.id == prompt_id:
            return prompt.turns
    raise UserError(f"the task holds no question {prompt_id!r}", "name one that the run asked")
