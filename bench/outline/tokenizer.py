"""What a run's id needs of a tokenizer, chat template and end token, from the files that state them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.outline import Unclear
from bench.outline.gguf_file import read_gguf_header
from bench.runtime.checkpoint_files import is_gguf, read_json
from bench.tasks.chat import RAW_SEPARATOR, VICUNA_END, VICUNA_SYSTEM, Template, template_hash, vicuna_text

_CONFIG, _TOKENS, _TEMPLATE = "tokenizer_config.json", "tokenizer.json", "chat_template.jinja"
_OTHER_FILES = ("special_tokens_map.json", "additional_chat_templates", "added_tokens.json")
"""Older and rarer files that transformers reads as well; a folder with one of them is left to it."""


@dataclass(frozen=True, slots=True)
class TokenizerOutline:
    """What the files state.

    Args:
        template: Source of its chat template; None if it has none.
        end: Its end token as text; None if the file is GGUF, whose end tokens need no tokenizer.
        end_id: The end token's number; None as for `end`.
        tokens: How many there are.
    """

    template: str | None
    end: str | None
    end_id: int | None
    tokens: int


def tokenizer_outline(folder: Path) -> TokenizerOutline:
    """What a checkpoint's folder, or its GGUF file, states of the tokenizer.

    Raises:
        Unclear: If the files leave something to transformers, or something is wrong with them.
    """
    if is_gguf(folder):
        return _of_gguf(folder)
    if any((folder / name).exists() for name in _OTHER_FILES):
        raise Unclear("the tokenizer's files are of an older layout")
    try:
        config = read_json(folder / _CONFIG)
    except UserError as error:
        raise Unclear(error.what) from error
    end = _text_of(config.get("eos_token"))
    from tokenizers import Tokenizer  # a hundredth of what transformers imports

    try:
        tokenizer = Tokenizer.from_file(str(folder / _TOKENS))
    except Exception as error:  # the library raises Exception itself
        raise Unclear(f"{folder / _TOKENS} cannot be read") from error
    end_id = tokenizer.token_to_id(end)
    if end_id is None:
        raise Unclear("the end token is none of the tokenizer's")
    return TokenizerOutline(
        _folder_template(folder, config), end, end_id, tokenizer.get_vocab_size(with_added_tokens=True)
    )


def hash_of_template(template: str, outline: TokenizerOutline) -> str:
    """What `bench.tasks.chat.ChatFormat.template_hash` is with this tokenizer.

    Raises:
        Unclear: If the tokenizer has no template, or does not fit it.
    """
    if template == Template.RAW:
        return template_hash(template, RAW_SEPARATOR)
    if template == Template.VICUNA and outline.end == VICUNA_END:
        return template_hash(template, vicuna_text(["{0}", "{1}"], ["{2}"], VICUNA_SYSTEM))
    if template != Template.AUTO or outline.template is None:
        raise Unclear("the tokenizer does not state a chat template")
    return template_hash(template, outline.template)


def _of_gguf(file: Path) -> TokenizerOutline:
    try:
        header = read_gguf_header(file)
    except UserError as error:
        raise Unclear(error.what) from error
    template, tokens = header.metadata.get("tokenizer.chat_template"), header.tokens
    if tokens is None:
        raise Unclear(f"{file} holds no tokenizer")
    return TokenizerOutline(template if isinstance(template, str) else None, None, None, tokens)


def _folder_template(folder: Path, config: dict[str, Any]) -> str | None:
    if (folder / _TEMPLATE).is_file():
        return (folder / _TEMPLATE).read_text(encoding="utf-8")
    stated = config.get("chat_template")
    if isinstance(stated, list):  # several, each with a name
        stated = {entry.get("name"): entry.get("template") for entry in stated}.get("default")
    return stated if isinstance(stated, str) else None


def _text_of(token: Any) -> str:  # noqa: ANN401 - a text, or an object that holds it
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise Unclear("the tokenizer's files state no end token")
    return text
