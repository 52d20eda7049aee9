"""Downloads a model's files from the Hugging Face Hub; every error says how to fix it."""

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

from bench.errors import UserError

_TWICE = ("consolidated*", "original/*", "onnx/*")
"""The same weights again, in layouts that nothing here reads; for Mistral another 14 GB."""
DEFAULT_BRANCH = "main"
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


def in_cache(repository: str, revision: str | None) -> Path | None:
    """The folder of a repository that was downloaded before; None if it was not."""
    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def downloaded(repository: str, revision: str | None, patterns: Sequence[str], keys: Keys) -> Path:
    """The local folder of a repository, of which only matching files are downloaded.

    Raises:
        UserError: If there is no such repository, access to it is not granted, or it is incomplete.
    """
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
    return "" if revision in (None, DEFAULT_BRANCH) else f" at revision {revision}"
