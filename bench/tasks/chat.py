"""Prompt ids from a conversation, and text from answer ids.

Every method gets its prompts from here. The chat template writes the text and the tokenizer encodes it
without adding special tokens. One start token (BOS) is then put in front if the tokenizer uses one and the
text does not begin with it, so it is never doubled: in vLLM a doubled start token cut EAGLE-3's acceptance
length from 2.79 to 2.2 (vllm#25916).

Shapes: P prompt tokens.
"""

from __future__ import annotations

import hashlib
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, NoReturn

from bench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
RAW_SEPARATOR = "\n\n"
_TEMPLATE_FAULTS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)
"""What the code in a template may raise, beside the errors of its own language."""
HASH_LENGTH = 16


class Template(StrEnum):
    """How a conversation is written as text."""

    AUTO = "auto"
    """The tokenizer's own chat template."""
    VICUNA = "vicuna"
    """Vicuna v1.1, as Spec-Bench writes it; Vicuna's tokenizer has no template of its own."""
    RAW = "raw"
    """No template: the messages joined by an empty line, for base models."""


class ChatFormat:
    """Writes conversations for one tokenizer.

    Args:
        tokenizer: The model's tokenizer.
        template: ``auto``, ``vicuna`` or ``raw``; the key ``model.template``.
        vocabulary: Rows of the model's embedding; None if they are not known.

    Raises:
        UserError: If the template is unknown or does not fit the tokenizer.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: str = Template.AUTO, vocabulary: int | None = None
    ) -> None:
        if template not in set(Template):
            raise UserError(f"model.template={template} is unknown", f"Choose from: {', '.join(Template)}.")
        self.tokenizer = tokenizer
        self.template = Template(template)
        self._vocabulary = len(tokenizer) if vocabulary is None else vocabulary
        self._source = self._template_source()
        self._bos = _used_bos(tokenizer)

    @property
    def has_unknown_tokens(self) -> bool:
        """Whether the tokenizer has tokens that the model's embedding has no row for."""
        return len(self.tokenizer) > self._vocabulary

    @property
    def template_hash(self) -> str:
        """16 hex digits of the template's name and text; kept with a run to recognise its template."""
        return template_hash(self.template, self._source)

    def prompt_text(self, turns: Sequence[str], answers: Sequence[str], system: str = "") -> str:
        """The conversation as text, up to where the next answer starts.

        Args:
            turns: User messages; the last is the one to answer.
            answers: Answers to all turns but the last; white space around them is dropped, as in Spec-Bench.
            system: System message; empty leaves it to the template.

        Raises:
            ValueError: If there is not exactly one turn more than answers.
            UserError: If the tokenizer's template rejects the conversation.
        """
        if len(turns) != len(answers) + 1:
            raise ValueError(f"need one turn more than answers, got {len(turns)} and {len(answers)}")
        answers = [answer.strip() for answer in answers]
        if self.template == Template.VICUNA:
            return vicuna_text(turns, answers, system or VICUNA_SYSTEM)
        messages = [text for exchange in zip(turns[:-1], answers, strict=True) for text in exchange]
        if self.template == Template.RAW:
            return RAW_SEPARATOR.join([*filter(None, [system]), *messages, turns[-1]])
        messages = [*messages, turns[-1]]
        text = self.apply_template(messages, is_prompt=True, system=system)
        if system and text == self.apply_template(messages, is_prompt=True):
            raise UserError(
                "the chat template drops the system message", "Add model.template=raw, or drop it."
            )
        return text

    def prompt_ids(self, turns: Sequence[str], answers: Sequence[str], system: str = "") -> list[int]:
        """The conversation as token ids, shape [P], with one BOS in front if the tokenizer uses one.

        Raises:
            ValueError: If there is not exactly one turn more than answers.
            UserError: If the text itself begins with two BOS, holds no token, or one that the model does not
                know.
        """
        text = self.prompt_text(turns, answers, system)
        encoded = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = [int(token) for token in encoded]
        ids = [*self.missing_start(ids), *ids]
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            raise UserError(
                f"the prompt starts with two start tokens ({self.tokenizer.bos_token})",
                "Remove the start token from the chat template or from the prompt's text.",
            )
        if self.has_unknown_tokens and max(ids, default=0) >= self._vocabulary:
            raise UserError(
                f"the prompt holds token {max(ids)} ({self.tokenizer.decode([max(ids)])}), and the model's "
                f"embedding ends at {self._vocabulary - 1}: tokens were added without resizing it",
                "set model.tokenizer to the tokenizer that the model was trained with",
            )
        if not ids:
            raise UserError("the prompt holds no token", "Choose a model.template that fits this tokenizer.")
        return ids

    def missing_start(self, ids: Sequence[int]) -> list[int]:
        """The BOS that encoded text still needs in front; empty if it needs none."""
        return [] if self._bos is None or list(ids[:1]) == [self._bos] else [self._bos]

    def text(self, ids: Sequence[int]) -> str:
        """The text of answer ids, without special tokens."""
        decoded = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(decoded)

    def text_tokens(self, text: str) -> int:
        """Length of a text in tokens, with the special tokens that the tokenizer adds."""
        return len(self.tokenizer(text)["input_ids"])

    def apply_template(self, messages: Sequence[str], *, is_prompt: bool, system: str = "") -> str:
        """Messages as text by the tokenizer's own template.

        Args:
            messages: Of user and model in turn, the user first.
            is_prompt: Whether the text ends where the next answer starts.
            system: System message; empty leaves it to the template.

        Raises:
            UserError: If the template rejects the conversation, or does not end.
        """
        from jinja2 import TemplateError

        conversation = [{"role": "system", "content": system}] if system else []
        conversation += [
            {"role": "assistant" if place % 2 else "user", "content": message}
            for place, message in enumerate(messages)
        ]
        try:
            with limited_time():
                text = self.tokenizer.apply_chat_template(
                    conversation,
                    tokenize=False,
                    add_generation_prompt=is_prompt,
                    chat_template=with_fixed_time(str(self.tokenizer.get_chat_template())),
                    date_string=TEMPLATE_DATE,
                )
        except (TemplateError, *_TEMPLATE_FAULTS) as error:
            raise UserError(
                f"the tokenizer's chat template rejects the conversation: {error}",
                "Add model.template=raw to do without it.",
            ) from error
        return str(text)

    def _template_source(self) -> str:
        """The template's text; for ``vicuna`` and ``raw`` the fixed strings they are made of."""
        if self.template == Template.VICUNA:
            self._check_vicuna()
            return vicuna_text(["{0}", "{1}"], ["{2}"], VICUNA_SYSTEM)
        if self.template == Template.RAW:
            return RAW_SEPARATOR
        try:
            return str(self.tokenizer.get_chat_template())
        except ValueError as error:  # none, or several and no default
            raise UserError(
                "this tokenizer has no chat template (or several and none is the default)",
                "Add model.template=raw for plain text, or model.template=vicuna for Vicuna.",
            ) from error

    def _check_vicuna(self) -> None:
        """Vicuna's answers end in ``</s>``, which another tokenizer would encode as plain text."""
        if self.tokenizer.eos_token != VICUNA_END:
            raise UserError(
                f"model.template=vicuna needs a tokenizer that ends with {VICUNA_END}, "
                f"this one ends with {self.tokenizer.eos_token}",
                "Use model.template=auto or raw.",
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


def vicuna_text(turns: Sequence[str], answers: Sequence[str], system: str) -> str:
    """FastChat's ``vicuna_v1.1``: a space after system and user text, the end token after answers."""
    history = "".join(
        f"USER: {turn} ASSISTANT: {answer}{VICUNA_END}"
        for turn, answer in zip(turns[:-1], answers, strict=True)
    )
    return f"{system} {history}USER: {turns[-1]} ASSISTANT:"


def template_hash(template: str, source: str) -> str:
    """16 hex digits of a template's name, a value of `Template`, and its text."""
    return _hash(f"{template}\n{source}")


def prompt_hash(ids: Sequence[int]) -> str:
    """16 hex digits that identify a prompt by its ids."""
    return _hash(",".join(str(token) for token in ids))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def _used_bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The start token if the tokenizer puts it in front of a text; Qwen's and GPT-2's do not."""
    bos = tokenizer.bos_token_id
    starts = list(tokenizer("a")["input_ids"])[:1]
    return int(bos) if bos is not None and starts == [bos] else None
