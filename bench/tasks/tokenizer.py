"""Loads the tokenizer of a checkpoint, and reads what its ``generation_config.json`` says of answers.

Code in a checkpoint is never run, and every damaged file is named.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UserError
from bench.runtime.checkpoint_files import COMPANIONS, CONFIG_FILE, is_gguf, read_json, require_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_GENERATION_FILE = "generation_config.json"
_SAMPLE = "".join(map(chr, range(32, 127))) + "\n é 猫 \U0001f426"
_SENTENCEPIECE = ("sentencepiece", "google.protobuf")
"""Libraries that read a ``tokenizer.model``; without them transformers mistakes its format and fails."""


_NEUTRAL = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": None,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "num_beams": 1,
    "guidance_scale": None,
}
"""Settings of generation that change which token wins, by name: the value that changes nothing."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a checkpoint's folder, or in its GGUF file.

    Raises:
        UserError: If there is none, it cannot be read, or a library that reads its format is not installed.
    """
    from transformers import AutoTokenizer  # slow to import

    if is_gguf(folder):
        return _gguf_tokenizer(folder)
    if not any((folder / name).exists() for name in _TOKENIZER_FILES):
        raise UserError(
            f"{folder} holds no tokenizer (none of {', '.join(_TOKENIZER_FILES)})",
            "copy the tokenizer's files beside the weights, or set model.tokenizer to where they are",
        )
    _require_readable(folder)
    if not (folder / "tokenizer.json").is_file() and (folder / "tokenizer.model").is_file():
        _require_sentencepiece(folder)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        _try_out(tokenizer)
    except Exception as error:
        raise UserError(
            f"the tokenizer in {folder} cannot be read: {_reason(error)}",
            "download its files again, or set model.tokenizer to an intact one",
        ) from error
    return tokenizer


def eos_ids(folder: Path, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int] = ()) -> frozenset[int]:
    """End tokens of a model: those it declares, that of the tokenizer, and `stop_ids`.

    A model declares them in ``generation_config.json``, or in ``config.json`` where there is no such file, as
    in transformers; a GGUF file in its metadata.

    Raises:
        UserError: If one of `stop_ids` is beyond the tokenizer's vocabulary, or a file is damaged.
    """
    unknown = [token for token in stop_ids if token >= len(tokenizer)]
    if unknown:
        raise UserError(
            f"model.stop_ids names {unknown}, and the tokenizer ends at {len(tokenizer) - 1}",
            "set model.stop_ids=[] or to ids of this model; the end tokens it declares count anyway",
        )
    ends = {tokenizer.eos_token_id, *stop_ids}
    if is_gguf(folder):
        from bench.runtime.gguf import gguf_end_ids, read_gguf  # imports torch

        ends |= gguf_end_ids(read_gguf(folder))
    elif (folder / _GENERATION_FILE).exists():
        ends |= _declared_ends(folder / _GENERATION_FILE)
    elif (folder / CONFIG_FILE).exists():
        ends |= _declared_ends(folder / CONFIG_FILE)
    return frozenset(token for token in ends if token is not None)


def ignored_generation_settings(folder: Path) -> str:
    """Settings that change which token wins, and that no arm applies, such as ``repetition_penalty=1.3``."""
    file = folder / _GENERATION_FILE
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # the end tokens are read from the same file, and refuse it
        return ""
    if not isinstance(settings, dict):
        return ""
    changed = {
        key: settings.get(key)
        for key, neutral in _NEUTRAL.items()
        if settings.get(key) not in (None, neutral)
    }
    return ", ".join(f"{key}={value}" for key, value in changed.items())


def ends_beside_config(
    folder: Path, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int] = ()
) -> list[int] | None:
    """The end tokens, sorted, if ``generation_config.json`` makes them others than those of the config and
    the tokenizer; else None.

    Raises:
        UserError: As `eos_ids`.
    """
    eos_ids(folder, tokenizer, stop_ids)  # refuses unknown ones
    return None if is_gguf(folder) else other_ends(folder, {tokenizer.eos_token_id, *stop_ids})


def other_ends(folder: Path, own: Set[int | None]) -> list[int] | None:
    """The end tokens, sorted, if ``generation_config.json`` makes them others than the config; else None.

    Args:
        folder: A checkpoint's.
        own: End tokens that count anyway: the tokenizer's and those that are set.

    Raises:
        UserError: If a file is damaged.
    """
    if not (folder / _GENERATION_FILE).exists():
        return None
    ends = {*own, *_declared_ends(folder / _GENERATION_FILE)}
    others = {*own, *(_declared_ends(folder / CONFIG_FILE) if (folder / CONFIG_FILE).exists() else ())}
    known = {token for token in ends if token is not None}
    return None if known == others - {None} else sorted(known)


def _declared_ends(file: Path) -> set[int | None]:
    declared: Any = read_json(file).get("eos_token_id")
    ends = declared if isinstance(declared, list) else [declared]
    if not all(token is None or type(token) is int for token in ends):
        raise UserError(
            f"{file}: eos_token_id is {declared!r}, not a token id or a list of them",
            "use the file as the model's authors published it",
        )
    return set(ends)


def _require_readable(folder: Path) -> None:
    """Read every JSON file that transformers may read on the way to the tokenizer, to name a damaged one."""
    for pattern in COMPANIONS:
        for file in sorted(folder.glob(pattern)):
            require_file(file)
    for name in (CONFIG_FILE, "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"):
        if (folder / name).exists():
            read_json(folder / name)


def _try_out(tokenizer: PreTrainedTokenizerBase) -> None:
    """Encode and decode a text, since some damage shows only then."""
    tokenizer.decode(list(tokenizer(_SAMPLE)["input_ids"]))
    ends = tokenizer.eos_token_id, tokenizer.bos_token_id
    if not all(token is None or type(token) is int for token in ends):
        raise ValueError(f"its end and start tokens {ends} are not single tokens")


def _gguf_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that a GGUF file describes, converted by transformers."""
    from transformers import PreTrainedTokenizerFast  # slow to import

    from bench.runtime.gguf import read_gguf  # imports torch

    read_gguf(file)  # refuses a damaged file with a message of its own
    try:
        tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(
            file.parent, gguf_file=file.name
        )
        _try_out(tokenizer)
    except Exception as error:
        raise UserError(
            f"transformers cannot make a tokenizer of {file}: {_reason(error)}",
            "set model.tokenizer to a folder or a Hub id that holds this model's tokenizer",
        ) from error
    return tokenizer


def _reason(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


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
    except ModuleNotFoundError:  # the package that would hold it is missing too
        return False
