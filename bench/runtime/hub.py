"""Finds a model's files: local, shipped with the package, on a package index, or in a Hub repository.

The result is always a local folder or GGUF file; every error says how to fix it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import errors, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from bench import PACKAGE_PREFIX
from bench.errors import UserError
from bench.records.files import expanded
from bench.runtime.package_index import PREFIX as FETCH_PREFIX
from bench.runtime.package_index import cached_model, fetch_model

_PROJECT = Path(__file__).resolve().parents[2]
GGUF_SUFFIX = ".gguf"
COMPANIONS = ("*.json", "*.jinja", "*.model", "*.txt")
"""Files of a checkpoint other than its weights: configs and the tokenizer."""
_SAFE = ("*.safetensors", *COMPANIONS)
_TWICE = ("consolidated*", "original/*", "onnx/*")
"""The same weights again, in layouts that nothing here reads; for Mistral another 14 GB."""
_DEFAULT_BRANCH = "main"
_HUB = "https://huggingface.co"
_INCOMPLETE: type[Exception] | tuple[()] = getattr(errors, "IncompleteSnapshotError", ())
"""Raised for a half-downloaded snapshot; older clients lack it, and the empty tuple matches no exception."""
_NETWORK_ERROR: type[Exception] = HfHubHTTPError.__mro__[1]
"""The HTTPError of httpx, which the client is built on."""
_NO_LOGIN = 401


class Keys(NamedTuple):
    """Names of the settings that hold a reference and its revision, for messages."""

    path: str = "model.path"
    revision: str = "model.revision"


_MODEL = Keys()


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
        f"{reference} offers no safetensors weights at revision {revision or _DEFAULT_BRANCH}",
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
        if revision not in (None, _DEFAULT_BRANCH):
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
    return _downloaded(reference, revision, patterns, keys)


def _is_local(reference: str) -> bool:
    path = expanded(reference)
    return reference.startswith((PACKAGE_PREFIX, FETCH_PREFIX)) or path.is_dir() or is_gguf(path)


def resolved_here(reference: str, revision: str | None) -> Path | None:
    """The local folder of a model if it needs no network; None for what is not in a cache yet."""
    if reference.startswith(FETCH_PREFIX):
        return cached_model(reference.removeprefix(FETCH_PREFIX))
    if _is_local(reference):
        return resolve(reference, revision)
    try:
        return Path(snapshot_download(reference, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def _shipped(reference: str) -> Path:
    folder = (_PROJECT / reference.removeprefix(PACKAGE_PREFIX)).resolve()
    if not folder.is_relative_to(_PROJECT):
        raise UserError(f"{reference} leads out of the package", "use a plain path for a folder of your own")
    if not folder.is_dir():
        raise UserError(
            f"the package ships no folder {reference.removeprefix(PACKAGE_PREFIX)} (looked in {_PROJECT})",
            "reinstall the package, or set model.path to a folder or a Hub id",
        )
    return folder


def _downloaded(repository: str, revision: str | None, patterns: Sequence[str], keys: Keys) -> Path:
    try:
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(_TWICE)
            )
        )
    except (HFValidationError, _NETWORK_ERROR, LocalEntryNotFoundError) as error:
        answer = error.__cause__  # what the Hub answered, if it was reached
        reason = answer if isinstance(answer, HfHubHTTPError) else error
        raise _explained(reason, repository, revision, keys) from error


def _explained(error: Exception, repository: str, revision: str | None, keys: Keys) -> UserError:
    """The client's exception as a message with its fix; subclasses are matched before their bases."""
    page = f"{_HUB}/{repository}"
    match error:
        case HFValidationError():
            return UserError(
                f"{repository} is neither a folder nor a valid Hub id",
                f"set {keys.path} to a folder or to org/name",
            )
        case GatedRepoError():
            return UserError(
                f"{repository} is gated and this account has no access to it",
                f"accept the licence at {page}, then log in with: hf auth login",
            )
        case RepositoryNotFoundError():
            return UserError(
                f"there is no folder {repository}, and no repository of that name on the Hub",
                f"check the spelling of {keys.path}; for a private or gated one: hf auth login",
            )
        case RevisionNotFoundError():
            return UserError(
                f"{repository} has no revision {revision!r}",
                f"set {keys.revision} to one listed at {page}/commits/main, or to null",
            )
        case _ if isinstance(error, _INCOMPLETE):
            return UserError(
                f"the cached copy of {repository} is incomplete and the Hub cannot be reached",
                f"finish the download with a connection: the same command, or hf download {repository}",
            )
        case LocalEntryNotFoundError():
            return UserError(
                f"{repository} is not in the cache{_at(revision)} and the Hub cannot be reached",
                f"connect (and unset HF_HUB_OFFLINE), or set {keys.path} to a local folder; "
                "model=tiny needs no network",
            )
        case HfHubHTTPError() if error.response.status_code == _NO_LOGIN:
            return UserError(
                f"the Hub asks for a login that may see {repository}",
                f"check the spelling of {keys.path}, then log in (again): hf auth login",
            )
        case HfHubHTTPError():
            return UserError(
                f"the Hub refused {repository}: {str(error).strip().splitlines()[0]}",
                f"open {page} to see whether it is available to you, and try again later",
            )
    return UserError(
        f"the connection to the Hub broke while fetching {repository} ({type(error).__name__})",
        "run the command again: files that are complete are kept",
    )


def _at(revision: str | None) -> str:
    return "" if revision in (None, _DEFAULT_BRANCH) else f" at revision {revision}"
