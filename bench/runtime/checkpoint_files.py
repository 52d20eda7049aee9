"""Finds a model's files (local, shipped, on a package index, in a Hub repository) and reads the small ones.

Every JSON file of a checkpoint goes through `read_json`, every weight file through
`bench.runtime.stored_tensors`. So damage ends in a message with the file's name and the fix, whichever file
it is in, and a folder that holds something else than a checkpoint is called by its name.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import PACKAGE_PREFIX, PACKAGE_ROOT
from bench.errors import UserError
from bench.records.files import expanded
from bench.runtime.hub import DEFAULT_BRANCH, Keys, downloaded, in_cache
from bench.runtime.package_index import PREFIX as FETCH_PREFIX
from bench.runtime.package_index import cached_model, fetch_model

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
GGUF_SUFFIX = ".gguf"
COMPANIONS = ("*.json", "*.jinja", "*.model", "*.txt")
"""Files of a checkpoint other than its weights: configs and the tokenizer."""
_SAFE = ("*.safetensors", *COMPANIONS)
_MODEL = Keys()
_ADAPTER_FILE = "adapter_config.json"
_LFS_POINTER = b"version https://git-lfs.github.com/spec"
_MOST_JSON_BYTES = 1 << 28
"""More than any index or tokenizer needs; a larger file is no such file."""
_DOWNLOAD_AGAIN = "delete it and download it again"
_REGULAR = "replace it by the checkpoint's own file"


def is_gguf(path: Path) -> bool:
    """Whether `path` is a checkpoint in one GGUF file."""
    return path.suffix == GGUF_SUFFIX and path.is_file()


def resolve(reference: str, revision: str | None) -> Path:
    """The local folder, or GGUF file, of a model with its weights, downloaded first if necessary.

    Args:
        reference: A folder, a GGUF file, ``package:`` and a folder inside the installed project,
            ``fetch:`` and a model of `bench.fetch`, or a Hub repository id.
        revision: Branch, tag or commit of a Hub repository; None is its default branch.

    Raises:
        UserError: If there is no such folder or repository, access to it is not granted, or it is incomplete.
    """
    folder = fetch(reference, revision, _SAFE)
    if _is_local(reference) or any(folder.glob("*.safetensors")):
        return folder  # loading reports what a local folder lacks
    raise UserError(
        f"{reference} offers no safetensors weights at revision {revision or DEFAULT_BRANCH}",
        "set model.revision to one that does (see its pull requests), or convert its weights once: "
        f"python -m bench.convert kind=checkpoint model.path={reference} out=FOLDER, then set "
        "model.path=FOLDER",
    )


def fetch(reference: str, revision: str | None, patterns: Sequence[str], keys: Keys = _MODEL) -> Path:
    """The local folder of a reference; from a Hub repository only matching files are downloaded.

    Args:
        reference: As for `resolve`.
        revision: As for `resolve`.
        patterns: Names of the files to download, with wildcards.
        keys: The settings that hold the reference.

    Raises:
        UserError: If there is no such folder or repository, access to it is not granted, or it is incomplete.
    """
    if reference.startswith(PACKAGE_PREFIX):
        return _shipped(reference)
    if reference.startswith(FETCH_PREFIX):
        return fetch_model(reference.removeprefix(FETCH_PREFIX))
    folder = expanded(reference)
    if folder.is_dir() or is_gguf(folder):
        if revision not in (None, DEFAULT_BRANCH):
            raise UserError(
                f"{keys.revision}={revision} is set, but {reference} is a local folder",
                f"set {keys.revision}=null: only repositories of the Hub have revisions",
            )
        return folder
    is_path = folder.is_absolute() or reference.startswith((".", "~")) or folder.suffix == GGUF_SUFFIX
    if is_path or reference.count("/") != 1:
        raise UserError(
            f"there is no folder {reference}",
            f"set {keys.path} to an existing folder or a Hub id such as org/name",
        )
    return downloaded(reference, revision, patterns, keys)


def _is_local(reference: str) -> bool:
    path = expanded(reference)
    return reference.startswith((PACKAGE_PREFIX, FETCH_PREFIX)) or path.is_dir() or is_gguf(path)


def resolved_here(reference: str, revision: str | None) -> Path | None:
    """The local folder of a model if it needs no network; None for what is not in a cache yet."""
    if reference.startswith(FETCH_PREFIX):
        return cached_model(reference.removeprefix(FETCH_PREFIX))
    if _is_local(reference):
        return resolve(reference, revision)
    return in_cache(reference, revision)


def _shipped(reference: str) -> Path:
    folder = (PACKAGE_ROOT / reference.removeprefix(PACKAGE_PREFIX)).resolve()
    if not folder.is_relative_to(PACKAGE_ROOT):
        raise UserError(f"{reference} leads out of the package", "use a plain path for a folder of your own")
    if not folder.is_dir():
        raise UserError(
            f"the package ships no folder {reference.removeprefix(PACKAGE_PREFIX)} in {PACKAGE_ROOT}",
            "reinstall the package, or set model.path to a folder or a Hub id",
        )
    return folder


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: If the file is missing, no regular file, a git-lfs pointer, not JSON, or holds no object.
    """
    require_file(file)
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror}", "give this user the right to read it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON: {str(error).splitlines()[0]}", _DOWNLOAD_AGAIN) from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a JSON {type(content).__name__}, not an object", _DOWNLOAD_AGAIN)
    return content


def require_file(file: Path, most_bytes: int = _MOST_JSON_BYTES) -> None:
    """Refuse a file that would be read wrongly or without end.

    Raises:
        UserError: If the file is missing, no regular file, larger than `most_bytes`, or a git-lfs pointer.
    """
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{file} is not a regular file", _REGULAR)
        if status.st_size > most_bytes:
            raise UserError(f"{file} has {status.st_size} bytes, too many for such a file", _REGULAR)
        with file.open("rb") as opened:
            start = opened.read(len(_LFS_POINTER))
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist", "finish the download, or correct the path") from error
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror}", "give this user the right to read it"
        ) from error
    if start == _LFS_POINTER:
        raise UserError(
            f"{file} is a git-lfs pointer: the repository was cloned without its large files",
            f"run 'git lfs pull' in {file.parent}, or download the model with 'hf download'",
        )


def weight_files(folder: Path) -> list[Path]:
    """Weight files of a checkpoint, as transformers chooses them; a GGUF file is its own.

    That is ``model.safetensors``, or the files that ``model.safetensors.index.json`` names.

    Raises:
        UserError: If there are none, or the index is damaged, leads out of the folder or names no file.
    """
    if is_gguf(folder):
        return [folder]
    if (folder / WEIGHTS_FILE).exists():
        return [folder / WEIGHTS_FILE]
    if (folder / INDEX_FILE).exists():
        return indexed_files(folder / INDEX_FILE)
    raise _no_weights(folder)


def indexed_files(index: Path) -> list[Path]:
    """The weight files that an index names, sorted.

    Raises:
        UserError: If the index is damaged, a name leads out of its folder, or a file is missing.
    """
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{index} has no weight_map from tensors to files", _DOWNLOAD_AGAIN)
    files = sorted(set(names.values()))
    outside = [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise UserError(
            f"{index}: weight_map names {outside[0]!r}, which lies outside of the folder",
            "take the index as the model's authors published it",
        )
    missing = [name for name in files if not (index.parent / name).is_file()]
    if missing:
        raise UserError(
            f"{index} names {', '.join(missing[:3])}, which {index.parent} does not hold",
            "finish the download: all shards of the index must be there",
        )
    return [index.parent / name for name in files]


def no_checkpoint(folder: Path) -> UserError:
    """The message about a folder without ``config.json``, which says what it holds instead."""
    return _something_else(folder) or UserError(
        f"{folder} holds no {CONFIG_FILE}, so it is not a Hugging Face checkpoint",
        "point model.path at a folder with config.json and *.safetensors, a .gguf file, or a hub id",
    )


def require_whole_model(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a folder whose ``config.json`` is of a draft head, which is no model of its own.

    Raises:
        UserError: If it is a draft head of EAGLE, Medusa or the library speculators.
    """
    names = str(config.get("architectures")).lower()
    kind = None
    if any(key.startswith("speculators_") for key in config):
        kind = "of the library speculators"
    elif "eagle" in names or "draft_vocab_size" in config:
        kind = "of EAGLE"
    elif "medusa" in names or "medusa_num_heads" in config:
        kind = "of Medusa"
    if kind is not None:
        raise draft_head(folder, kind)


def draft_head(folder: Path, kind: str) -> UserError:
    """The message about a draft head that was given as a model."""
    return UserError(
        f"{folder} holds a draft head {kind}, not a whole model",
        "set model.path to the model that it drafts for; for heads of Medusa and adapters of Kangaroo see "
        "python -m bench.convert --help",
    )


def adapter(folder: Path, base: str = "") -> UserError:
    """The message about a PEFT adapter that was given as a model."""
    return UserError(
        f"{folder} holds a PEFT adapter{f' of {base}' if base else ''}, not a whole model",
        "merge it into its base (peft: merge_and_unload, then save_pretrained); set model.path to the result",
    )


def _no_weights(folder: Path) -> UserError:
    if (other := _something_else(folder)) is not None:
        return other
    if sorted(folder.glob("*.bin")):
        return UserError(
            f"{folder} holds pickled .bin weights, which can run code when they are loaded",
            f"convert them once: python -m bench.convert kind=checkpoint model.path={folder} out=FOLDER, "
            "then set model.path=FOLDER",
        )
    if sorted(folder.glob("model-*-of-*.safetensors")):
        return UserError(f"{folder} holds shards of a model, but no {INDEX_FILE}", "download the index too")
    return UserError(f"{folder} holds no {WEIGHTS_FILE}", "finish the download or point model.path elsewhere")


def _something_else(folder: Path) -> UserError | None:
    """What the folder holds instead of a checkpoint, as far as its files tell."""
    if (folder / _ADAPTER_FILE).exists():
        try:
            base = read_json(folder / _ADAPTER_FILE).get("base_model_name_or_path")
        except UserError:  # a damaged adapter is an adapter all the same
            base = None
        return adapter(folder, base if isinstance(base, str) else "")
    if files := sorted(folder.glob("*.gguf")):
        return UserError(f"{folder} is a folder with a GGUF file", f"set model.path={files[0]}")
    if sorted(folder.glob("consolidated*")):
        return UserError(
            f"{folder} holds weights in the original layout of Meta or Mistral (consolidated*)",
            "use the same model in the layout of transformers: config.json and model*.safetensors",
        )
    inner = sorted(folder.glob(f"*/{CONFIG_FILE}"))
    if inner and not (folder / CONFIG_FILE).exists():
        return UserError(
            f"{folder} holds {len(inner)} checkpoints in folders", f"set model.path={inner[-1].parent}"
        )
    return None
