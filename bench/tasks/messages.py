"""The messages of a conversation: from turns and answers, and which parts of them a template may not have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.errors import UserError
from bench.records.model import Message
from bench.tasks.prompt_files.conversation import ASSISTANT, TOOL, USER


def said(turns: Sequence[str], answers: Sequence[str], opening: Sequence[Message] = ()) -> list[Message]:
    """The messages of a conversation up to the last turn, which is the one to answer.

    Args:
        turns: User messages.
        answers: Answers to all turns but the last; white space around them is dropped.
        opening: Messages up to the first turn and with it; empty if there is that turn alone.

    Raises:
        ValueError: If there is not exactly one turn more than answers.
    """
    if len(turns) != len(answers) + 1:
        raise ValueError(f"need one turn more than answers, got {len(turns)} and {len(answers)}")
    messages = list(opening) or [Message(USER, turns[0])]
    for answer, turn in zip(answers, turns[1:], strict=True):
        messages += [Message(ASSISTANT, answer.strip()), Message(USER, turn)]
    return messages


def changed_parts(
    messages: Sequence[Message], system: str, tools: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, tuple[Sequence[Message], str, Sequence[Mapping[str, Any]]]]]:
    """Parts that a template may have no form for, each with a conversation that differs in this part alone.

    Args:
        messages: Of user, model and tools.
        system: System message; empty if there is none.
        tools: What the model may call.
    """
    if system:
        yield "system message", (messages, f"{system}.", tools)
    if tools:
        yield "tools", (messages, system, ())
    if any(message.role == TOOL for message in messages):
        for role, more in ((TOOL, "."), (USER, ""), (ASSISTANT, "")):
            others = [
                replace(message, role=role, text=message.text + more) if message.role == TOOL else message
                for message in messages
            ]
            yield "results of tools", (others, system, tools)
    if any("tool_calls" in message.extra for message in messages):
        kept = [replace(message, extra=_without_calls(message.extra)) for message in messages]
        yield "calls of tools", (kept, system, tools)


def _without_calls(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in extra.items() if key != "tool_calls"}


def require_plain(messages: Sequence[Message], tools: Sequence[object], template: str) -> None:
    """Refuse what is no text: only a tokenizer's own template has a form for it.

    Raises:
        UserError: If there are tools, or calls of them.
    """
    if tools or any("tool_calls" in message.extra for message in messages):
        raise UserError(
            f"model.template={template} has no form for tools, which a prompt has",
            "Use model.template=auto, or drop the tools and their calls.",
        )
