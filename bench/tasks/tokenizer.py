"""A checkpoint's tokenizer and the tokens that end an answer; what is missing is said with its fix."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from bench.errors import UserError
from bench.runtime.gguf import gguf_end_ids, is_gguf, read_gguf

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_SENTENCEPIECE = ("sentencepiece", "google.protobuf")
"""What reads a ``tokenizer.model``; without them transformers takes it for another format and fails."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a checkpoint's folder, or in its GGUF file.

    Raises:
        UserError: If there is none, a library that its format needs is not installed, or it cannot be read.
    """
    if is_gguf(folder):
        return _gguf_tokenizer(folder)
    if not any((folder / name).is_file() for name in _FILES):
        raise UserError(
            f"{folder} holds no tokenizer (none of {', '.join(_FILES)})",
            "copy the tokenizer's files beside the weights, or set model.tokenizer to where they are",
        )
    if not (folder / "tokenizer.json").is_file() and (folder / "tokenizer.model").is_file():
        _require_sentencepiece(folder)
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"the tokenizer in {folder} cannot be read: {reason}",
            "download its files again, or set model.tokenizer to an intact one",
        ) from error


def eos_ids(folder: Path, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int] = ()) -> frozenset[int]:
    """End tokens: of ``generation_config.json`` or a GGUF file's metadata, of the tokenizer, and `stop_ids`.

    Raises:
        UserError: If the tokenizer has no token of one of `stop_ids`.
    """
    unknown = [one for one in stop_ids if one >= len(tokenizer)]
    if unknown:
        raise UserError(
            f"model.stop_ids names {unknown}, and the tokenizer ends at {len(tokenizer) - 1}",
            "set model.stop_ids=[] or to ids of this model; those that it declares count anyway",
        )
    found = {tokenizer.eos_token_id, *stop_ids}
    if is_gguf(folder):
        found |= gguf_end_ids(read_gguf(folder))
    if (folder / "generation_config.json").is_file():
        configured = GenerationConfig.from_pretrained(folder).eos_token_id
        found |= set(configured) if isinstance(configured, list) else {configured}
    return frozenset(one for one in found if one is not None)


def _gguf_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that a GGUF file describes, converted by transformers."""
    read_gguf(file)  # refuses a damaged file in words of its own
    try:
        tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(
            file.parent, gguf_file=file.name
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"transformers cannot make a tokenizer of {file}: {(str(error) or repr(error)).splitlines()[0]}",
            "set model.tokenizer to a folder or a Hub id that holds this model's tokenizer",
        ) from error
    return tokenizer


def _require_sentencepiece(folder: Path) -> None:
    missing = [name for name in _SENTENCEPIECE if not _is_installed(name)]
    if missing:
        raise UserError(
            f"{folder} has its tokenizer as tokenizer.model only, which {' and '.join(missing)} must read",
            "pip install 'self-speculative-bench[sentencepiece]'",
        )


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # not even the package that would hold it
        return False
