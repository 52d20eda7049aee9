"""Where a model's files are: a local folder, a folder shipped with the package, or a Hugging Face repository.

Whatever the reference, the result is a local folder; what stands in the way is said with its fix.
"""

from __future__ import annotations

from pathlib import Path

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

PACKAGE_PREFIX = "package:"
"""Marks a folder relative to the one that holds the ``bench`` package: shipped weights."""

_PROJECT = Path(__file__).resolve().parents[2]
_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]  # weights, configs, tokenizer files
_HUB = "https://huggingface.co"
_INCOMPLETE: type[Exception] | tuple[()] = getattr(errors, "IncompleteSnapshotError", ())
"""Older clients do not tell a half-downloaded snapshot from a missing one: there, none is of this kind."""
_NETWORK_ERROR: type[Exception] = HfHubHTTPError.__mro__[
    1
]  # HTTPError of the httpx that the client is built on


def resolve(reference: str, revision: str | None) -> Path:
    """The local folder of a model, downloaded first where it has to be.

    Args:
        reference: A folder, ``package:`` and a folder inside the installed project, or a Hub repository id.
        revision: Branch, tag or commit of a Hub repository; None is its default branch.

    Raises:
        UserError: If there is no such folder or repository, access to it is not granted, or it is incomplete.
    """
    if reference.startswith(PACKAGE_PREFIX):
        return _shipped(reference)
    folder = Path(reference).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UserError(
                f"model.revision={revision} is set, but {reference} is a local folder",
                "leave model.revision unset: only repositories of the Hub have revisions",
            )
        return folder
    if folder.is_absolute() or reference.startswith((".", "~")) or reference.count("/") != 1:
        raise UserError(
            f"there is no folder {reference}",
            "set model.path to an existing folder or a Hub id such as org/name",
        )
    return _downloaded(reference, revision)


def resolved_here(reference: str, revision: str | None) -> Path | None:
    """The local folder of a model if it needs no network: a folder, or a repository in the cache."""
    if reference.startswith(PACKAGE_PREFIX) or Path(reference).expanduser().is_dir():
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


def _downloaded(repository: str, revision: str | None) -> Path:
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=_PATTERNS))
    except (HFValidationError, _NETWORK_ERROR, LocalEntryNotFoundError) as error:
        raise _explained(error, repository, revision) from error
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{repository} offers no safetensors weights at revision {revision or 'main'}",
            "set model.revision to one that does (see its pull requests), or convert the weights: "
            "AutoModelForCausalLM.from_pretrained(id).save_pretrained(folder), and set model.path to it",
        )
    return folder


def _explained(error: Exception, repository: str, revision: str | None) -> UserError:
    """What the Hub's exception means to the user; subclasses are asked for before their bases."""
    page = f"{_HUB}/{repository}"
    match error:
        case HFValidationError():
            return UserError(
                f"{repository} is neither a folder nor a valid Hub id",
                "set model.path to a folder or to org/name",
            )
        case GatedRepoError():
            return UserError(
                f"{repository} is gated and this account has no access to it",
                f"accept the licence at {page}, then log in with: hf auth login",
            )
        case RepositoryNotFoundError():
            return UserError(
                f"there is no folder {repository}, and no repository of that name on the Hub",
                "check the spelling of model.path; if the repository is private, log in with: hf auth login",
            )
        case RevisionNotFoundError():
            return UserError(
                f"{repository} has no revision {revision!r}",
                f"set model.revision to one listed at {page}/commits/main, or leave it unset",
            )
        case _ if isinstance(error, _INCOMPLETE):
            return UserError(
                f"the cached copy of {repository} is incomplete and the Hub cannot be reached",
                f"finish the download with a connection: hf download {repository}",
            )
        case LocalEntryNotFoundError():
            return UserError(
                f"{repository} is not in the cache and the Hub cannot be reached",
                "connect (and unset HF_HUB_OFFLINE), or set model.path to a local folder; "
                "model=tiny needs no network",
            )
        case HfHubHTTPError():
            return UserError(
                f"the Hub refused {repository}: {str(error).splitlines()[0]}",
                f"open {page} to see whether it is available to you, and try again later",
            )
    return UserError(
        f"the connection to the Hub broke while fetching {repository} ({type(error).__name__})",
        "run the command again: what is complete is kept",
    )
