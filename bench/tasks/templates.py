"""Texts around messages: Vicuna's template, and Jinja templates that would print the clock's time."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import NoReturn

from bench.errors import UserError

TEMPLATE_S = 20.0
"""Seconds that a chat template may take: its loops can go on for ever."""
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
VICUNA_END = "</s>"
TEMPLATE_TIME = datetime(2024, 7, 26)
"""What templates that print the date or the time print, such as Llama 3's: with the clock's time, both arms
would get other prompts, and a resumed run too."""
_CLOCK_CALL = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
TEMPLATE_DATE = f"{TEMPLATE_TIME:%d %b %Y}"


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


def vicuna_text(turns: Sequence[str], answers: Sequence[str], system: str) -> str:
    """FastChat's ``vicuna_v1.1``: a space after system and user text, the end token after answers."""
    history = "".join(
        f"USER: {turn} ASSISTANT: {answer}{VICUNA_END}"
        for turn, answer in zip(turns[:-1], answers, strict=True)
    )
    return f"{system} {history}USER: {turns[-1]} ASSISTANT:"
