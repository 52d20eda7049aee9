"""Prompt ids from a conversation, and text from answer ids.

Every method gets its prompts from here. The chat template writes the text and the tokenizer encodes it
without adding special tokens. One start token (BOS) is then put in front if the tokenizer uses one and the
text does not begin with it, so it is never doubled: in vLLM a doubled start token cut EAGLE-3's acceptance
length from 2.79 to 2.2 (vllm#25916).

Shapes: P prompt tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from bench.errors import UserError
from bench.records.model import Message, Prompt
from bench.tasks.messages import apply_template, changed_parts, require_known_arguments, require_plain, said
from bench.tasks.prompt_files.conversation import ASSISTANT, SYSTEM, USER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
VICUNA_END = "</s>"
RAW_SEPARATOR = "\n\n"
HASH_LENGTH = 16
NO_FORM = "Use another model, or drop it; model.template=raw writes the text of every message."


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
        system: System message of conversations that have none of their own; the key ``chat.system``.
        template_args: Arguments of the tokenizer's template by name; the key ``chat.template_args``.

    Raises:
        UserError: If the template is unknown, does not fit the tokenizer, or does not know an argument.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str = Template.AUTO,
        vocabulary: int | None = None,
        *,
        system: str = "",
        template_args: Mapping[str, Any] | None = None,
    ) -> None:
        if template not in set(Template):
            raise UserError(f"model.template={template} is unknown", f"Choose from: {', '.join(Template)}.")
        self.tokenizer = tokenizer
        self.template = Template(template)
        self._vocabulary = len(tokenizer) if vocabulary is None else vocabulary
        self._source = self._template_source()
        self._bos = _used_bos(tokenizer)
        self.system, self.template_args = system, dict(template_args or {})
        self._check_arguments()

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
            system: System message; empty takes that of the settings, or leaves it to the template.

        Raises:
            ValueError: If there is not exactly one turn more than answers.
            UserError: If the tokenizer's template rejects the conversation.
        """
        return self.text_of(said(turns, answers), system)

    def prompt_ids(self, turns: Sequence[str], answers: Sequence[str], system: str = "") -> list[int]:
        """The conversation as token ids, shape [P], with one BOS in front if the tokenizer uses one.

        Raises:
            ValueError: If there is not exactly one turn more than answers.
            UserError: If the text itself begins with two BOS, holds no token, or one that the model does not
                know.
        """
        return self._encoded(self.prompt_text(turns, answers, system))

    def ids_of(self, prompt: Prompt, answers: Sequence[str] = ()) -> list[int]:
        """As `prompt_ids`, of a question: its turn after these answers, after all that it gives before."""
        messages = said(prompt.turns[: len(answers) + 1], answers, prompt.opening)
        return self._encoded(self.text_of(messages, prompt.system, tools=prompt.tools))

    def text_of(
        self,
        messages: Sequence[Message],
        system: str = "",
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        is_prompt: bool = True,
    ) -> str:
        """Messages as text.

        Args:
            messages: Of user, model and tools.
            system: System message; empty takes that of the settings, or leaves it to the template.
            tools: What the model may call.
            is_prompt: Whether the text ends where the next answer starts; the other templates than ``auto``
                write nothing else.

        Raises:
            UserError: If the template rejects the conversation, or leaves out a part of it.
        """
        system = system or self.system
        if self.template != Template.AUTO:
            require_plain(messages, tools, self.template)
            if self.template == Template.VICUNA:
                return _vicuna_conversation(messages, system or VICUNA_SYSTEM)
            return RAW_SEPARATOR.join([*filter(None, [system]), *(message.text for message in messages)])
        text = self._by_template(messages, system, tools, is_prompt=is_prompt)
        if not is_prompt:
            return text
        for what, others in changed_parts(messages, system, tools):
            if self._is_same(text, *others):
                raise UserError(
                    f"the chat template has no form for the {what}",
                    NO_FORM,
                )
        return text

    def _is_same(
        self, text: str, messages: Sequence[Message], system: str, tools: Sequence[Mapping[str, Any]]
    ) -> bool:
        """Whether another conversation has the same text; one that the template rejects has not."""
        try:
            return text == self._by_template(messages, system, tools, is_prompt=True)
        except UserError:
            return False

    def _by_template(
        self,
        messages: Sequence[Message],
        system: str,
        tools: Sequence[Mapping[str, Any]],
        *,
        is_prompt: bool,
    ) -> str:
        whole = [Message(SYSTEM, system), *messages] if system else messages
        return apply_template(
            self.tokenizer, whole, is_prompt=is_prompt, tools=tools, arguments=self.template_args
        )

    def _encoded(self, text: str) -> list[int]:
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

    def _check_arguments(self) -> None:
        if self.template_args and self.template != Template.AUTO:
            raise UserError(
                f"chat.template_args is set, and model.template={self.template} takes no arguments",
                "Leave out one of them.",
            )
        require_known_arguments(self.tokenizer, self._source, self.template_args)

    def _check_vicuna(self) -> None:
        """Vicuna's answers end in ``</s>``, which another tokenizer would encode as plain text."""
        if self.tokenizer.eos_token != VICUNA_END:
            raise UserError(
                f"model.template=vicuna needs a tokenizer that ends with {VICUNA_END}, "
                f"this one ends with {self.tokenizer.eos_token}",
                "Use model.template=auto or raw.",
            )


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


def _vicuna_conversation(messages: Sequence[Message], system: str) -> str:
    """Messages of user and model in turn; Vicuna knows no other order."""
    roles = [message.role for message in messages]
    if roles != [USER if place % 2 == 0 else ASSISTANT for place in range(len(roles))]:
        raise UserError(
            f"model.template=vicuna needs messages of user and assistant in turn, got {', '.join(roles)}",
            "Use model.template=auto or raw.",
        )
    texts = [message.text for message in messages]
    return vicuna_text(texts[::2], texts[1::2], system)


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
