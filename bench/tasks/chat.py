"""From a conversation to prompt ids and from answer ids to text; one way for every method.

The template writes the text, the tokenizer encodes it without adding special tokens, and one start token
(BOS) is put in front only where the tokenizer uses one and the text does not begin with it. So it is never
doubled: in vLLM a doubled one cut EAGLE-3's acceptance length from 2.79 to 2.2 (vllm#25916).

Shapes: P prompt tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

from bench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
VICUNA_END = "</s>"
RAW_SEPARATOR = "\n\n"
TEMPLATE_DATE = "26 Jul 2024"
"""Llama 3's templates print a date; today's would make yesterday's half of a resumed run another prompt."""
HASH_LENGTH = 16


class Template(StrEnum):
    """How a conversation is written down."""

    AUTO = "auto"
    """The tokenizer's own chat template."""
    VICUNA = "vicuna"
    """Vicuna v1.1, as Spec-Bench writes it; Vicuna's tokenizer carries no template."""
    RAW = "raw"
    """No template: messages behind one another, for models that were never taught to chat."""


class ChatFormat:
    """Writes conversations for one tokenizer.

    Args:
        tokenizer: The model's tokenizer.
        template: ``auto``, ``vicuna`` or ``raw``; the key ``model.template``.

    Raises:
        UserError: If the template is unknown or does not fit the tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str = Template.AUTO) -> None:
        if template not in set(Template):
            raise UserError(f"model.template={template} is unknown", f"Choose from: {', '.join(Template)}.")
        self.tokenizer = tokenizer
        self.template = Template(template)
        self._source = self._template_source()
        self._bos = _used_bos(tokenizer)

    @property
    def template_hash(self) -> str:
        """What tells two templates apart in provenance: 16 hex digits of its name and text."""
        return _hash(f"{self.template}\n{self._source}")

    def prompt_text(self, turns: Sequence[str], answers: Sequence[str]) -> str:
        """The conversation as text, up to where the next answer starts.

        Args:
            turns: User messages, the last one still to be answered.
            answers: Answers to all of `turns` but the last; surrounding blanks are dropped, as in Spec-Bench.

        Raises:
            ValueError: If there is not exactly one turn more than answers.
            UserError: If the tokenizer's template rejects the conversation.
        """
        if len(turns) != len(answers) + 1:
            raise ValueError(
                f"need one turn more than answers, got {len(turns)} turns, {len(answers)} answers"
            )
        answers = [answer.strip() for answer in answers]
        if self.template == Template.VICUNA:
            return _vicuna(turns, answers)
        if self.template == Template.RAW:
            return RAW_SEPARATOR.join(_alternate(turns, answers))
        return self._own_template(turns, answers)

    def prompt_ids(self, turns: Sequence[str], answers: Sequence[str]) -> list[int]:
        """The conversation as token ids, shape [P], with one BOS in front where the tokenizer uses one.

        Raises:
            ValueError: If there is not exactly one turn more than answers.
            UserError: If the text itself begins with two BOS, or holds no token.
        """
        encoded = self.tokenizer(self.prompt_text(turns, answers), add_special_tokens=False)["input_ids"]
        ids = [int(one) for one in encoded]
        if self._bos is not None and ids[:1] != [self._bos]:
            ids.insert(0, self._bos)
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            raise UserError(
                f"the prompt starts with two start tokens ({self.tokenizer.bos_token})",
                "Remove the start token from the chat template or from the prompt's text.",
            )
        if not ids:
            raise UserError("the prompt holds no token", "Choose a model.template that fits this tokenizer.")
        return ids

    def dialogue_ids(self, turns: Sequence[str], answers: Sequence[str]) -> tuple[list[int], list[bool]]:
        """A whole dialogue for training, written as its prompts are.

        Returns:
            Ids, length T, and a mask of length T that is true on answer tokens and the end token behind each.

        Raises:
            ValueError: If there is not one answer per turn.
            UserError: If the template rejects the dialogue, or does not write history as it writes prompts.
        """
        if len(turns) != len(answers) or not turns:
            raise ValueError(f"need one answer per turn, got {len(turns)} turns, {len(answers)} answers")
        answers = [answer.strip() for answer in answers]
        text = self._dialogue_text(turns, answers)
        spans = [self._answer_span(text, turns[: i + 1], answers[: i + 1]) for i in range(len(turns))]
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = [int(one) for one in encoded["input_ids"]]
        offsets = [(int(start), int(end)) for start, end in encoded["offset_mapping"]]
        mask = [any(a <= start and end <= b for a, b in spans) for start, end in offsets]
        if self._bos is not None and ids[:1] != [self._bos]:
            return [self._bos, *ids], [False, *mask]
        return ids, mask

    def text(self, ids: Sequence[int]) -> str:
        """The text of answer ids, without special tokens."""
        decoded = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(decoded)

    def _template_source(self) -> str:
        """The template's text; for ``vicuna`` and ``raw`` what they are made of."""
        if self.template == Template.VICUNA:
            self._check_vicuna()
            return _vicuna(["{0}", "{1}"], ["{2}"])
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
        """Vicuna's answers end in its end token; to another tokenizer it would be plain text."""
        if self.tokenizer.eos_token != VICUNA_END:
            raise UserError(
                f"model.template=vicuna needs a tokenizer that ends with {VICUNA_END}, "
                f"this one ends with {self.tokenizer.eos_token}",
                "Use model.template=auto or raw.",
            )

    def _dialogue_text(self, turns: Sequence[str], answers: Sequence[str]) -> str:
        """All turns and answers; behind the last answer stands what ends one."""
        if self.template == Template.AUTO:
            return self._apply([*_alternate(turns, answers[:-1]), answers[-1]], is_prompt=False)
        is_vicuna = self.template == Template.VICUNA
        separator, end = (" ", VICUNA_END) if is_vicuna else (RAW_SEPARATOR, self._end)
        return f"{self.prompt_text(turns, answers[:-1])}{separator}{answers[-1]}{end}"

    def _answer_span(self, text: str, turns: Sequence[str], answers: Sequence[str]) -> tuple[int, int]:
        """Where the last of these answers begins and ends in a dialogue's text, its end token included."""
        prompt = self.prompt_text(turns, answers[:-1])
        found = text.find(answers[-1], len(prompt))
        if not text.startswith(prompt) or found < 0:
            raise UserError(
                "the chat template writes a dialogue's history otherwise than its prompts",
                "Train with model.template=raw, or another checkpoint's template.",
            )
        end = found + len(answers[-1])
        return len(prompt), end + len(self._end) * text.startswith(self._end, end)

    @property
    def _end(self) -> str:
        return str(self.tokenizer.eos_token or "")

    def _own_template(self, turns: Sequence[str], answers: Sequence[str]) -> str:
        return self._apply(_alternate(turns, answers), is_prompt=True)

    def _apply(self, contents: Sequence[str], *, is_prompt: bool) -> str:
        """The tokenizer's template over messages of user and model in turn."""
        from jinja2 import TemplateError

        messages = [
            {"role": "assistant" if place % 2 else "user", "content": content}
            for place, content in enumerate(contents)
        ]
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=is_prompt, date_string=TEMPLATE_DATE
            )
        except TemplateError as error:
            raise UserError(
                f"the tokenizer's chat template rejects the conversation: {error}",
                "Add model.template=raw to do without it.",
            ) from error
        return str(text)


def prompt_hash(ids: Sequence[int]) -> str:
    """16 hex digits that tell two prompts apart by their ids."""
    return _hash(",".join(str(one) for one in ids))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def _vicuna(turns: Sequence[str], answers: Sequence[str]) -> str:
    """FastChat's ``vicuna_v1.1``: a blank behind system and user text, the end token behind answers."""
    done = "".join(
        f"USER: {turn} ASSISTANT: {answer}{VICUNA_END}"
        for turn, answer in zip(turns[:-1], answers, strict=True)
    )
    return f"{VICUNA_SYSTEM} {done}USER: {turns[-1]} ASSISTANT:"


def _alternate(turns: Sequence[str], answers: Sequence[str]) -> list[str]:
    """Turn, answer, turn, ..., turn."""
    pairs = zip(turns[:-1], answers, strict=True)
    return [message for pair in pairs for message in pair] + [turns[-1]]


def _used_bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The start token, where the tokenizer itself puts it before a text; Qwen and GPT-2 have none in use."""
    bos = tokenizer.bos_token_id
    starts = list(tokenizer("a")["input_ids"])[:1]
    return int(bos) if bos is not None and starts == [bos] else None
