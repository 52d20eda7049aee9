"""Runs a tokenizer's chat template: with a fixed clock, within a time, with the caller's own arguments.

The template is Jinja text from the checkpoint. It is given messages with their roles, the tools that the
model may call, and arguments such as Qwen3's ``enable_thinking``.
"""

from __future__ import annotations

import inspect
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from bench.errors import UserError
from bench.records.model import Message

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
