"""The messages of a conversation, and the chat template that makes one text of them.

From turns and answers come messages, some parts of which a template may not have. A template is Jinja text
from the checkpoint. It is given messages with their roles, the tools that the model may call, and arguments
such as Qwen3's ``enable_thinking``; it runs with a fixed clock and within a time.
"""

from __future__ import annotations

import inspect
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from bench.errors import UserError
from bench.records.model import Message
from bench.tasks.prompt_files.conversation import ASSISTANT, TOOL, USER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_S = 20.0
"""Seconds that a chat template may take: its loops can go on for ever."""
TEMPLATE_TIME = datetime(2024, 7, 26)
"""What templates that print the date or the time print, such as Llama 3's: with the clock's time, both arms
would get other prompts, and a resumed run too."""
TEMPLATE_DATE = f"{TEMPLATE_TIME:%d %b %Y}"
_CLOCK_CALL = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
_FAULTS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)
"""What the code in a template may raise, beside the errors of its own language."""


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


def apply_template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    is_prompt: bool,
    tools: Sequence[Mapping[str, Any]] = (),
    arguments: Mapping[str, Any] | None = None,
) -> str:
    """Messages as text by the tokenizer's own template.

    Args:
        tokenizer: Whose template it is.
        messages: Of all sides, the system message first if there is one.
        is_prompt: Whether the text ends where the next answer starts.
        tools: What the model may call.
        arguments: Further arguments of the template by name.

    Raises:
        UserError: If the template rejects the conversation, or does not end.
    """
    from jinja2 import TemplateError

    given: dict[str, Any] = {"date_string": TEMPLATE_DATE, **(arguments or {})}
    try:
        with limited_time():
            text = tokenizer.apply_chat_template(
                [{"role": message.role, "content": message.text, **message.extra} for message in messages],
                tools=[dict(tool) for tool in tools] or None,
                tokenize=False,
                add_generation_prompt=is_prompt,
                chat_template=with_fixed_time(str(tokenizer.get_chat_template())),
                **given,
            )
    except (TemplateError, *_FAULTS) as error:
        raise UserError(
            f"the tokenizer's chat template rejects the conversation: {error}",
            "Add model.template=raw to do without it.",
        ) from error
    return str(text)


def require_known_arguments(
    tokenizer: PreTrainedTokenizerBase, source: str, arguments: Mapping[str, Any]
) -> None:
    """Refuse arguments that a template cannot read, since its text does not name them.

    Args:
        tokenizer: Whose template it is.
        source: The template's text.
        arguments: By name.

    Raises:
        UserError: If there is one, or one that this program sets itself.
    """
    own = inspect.signature(tokenizer.apply_chat_template).parameters
    for name in map(str, arguments):
        if name in own:
            raise UserError(
                f"chat.template_args names {name}, which is set for every prompt already",
                f"Leave {name} out of chat.template_args.",
            )
        if not re.search(rf"\b{re.escape(name)}\b", source):
            raise UserError(
                f"chat.template_args names {name}, which does not occur in the model's chat template",
                "Check the name in the checkpoint's chat_template, or leave it out.",
            )


@contextmanager
def limited_time() -> Iterator[None]:
    """Inside, a template that goes on for more than `TEMPLATE_S` is refused; only the main thread can do so.

    Raises:
        UserError: If the time is over.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: object) -> NoReturn:
        raise UserError(
            f"the chat template has not ended after {TEMPLATE_S:g} s",
            "Add model.template=raw to do without it.",
        )

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, TEMPLATE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@cache
def with_fixed_time(template: str) -> str:
    """A Jinja template that prints `TEMPLATE_TIME` where it asked for the clock's.

    Raises:
        UserError: If it asks in a way that cannot be read.
    """
    fixed = _CLOCK_CALL.sub(lambda call: repr(TEMPLATE_TIME.strftime(call[2])), template)
    if "strftime_now(" in fixed:
        raise UserError(
            "the chat template prints the time in a format that it computes, so no two prompts are alike",
            "Write the format into the template, as in strftime_now('%d %b %Y'), or add model.template=raw.",
        )
    return fixed
