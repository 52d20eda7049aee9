"""The installed Hub client against a Hub on this machine: no stand-in for the client itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.runtime.checkpoint_files import resolve
from tests.runtime.hub_server import COMMIT, FILES, LISTING, HubServer, serving

CONTENT = {
    "config.json": b"{}",
    "model.safetensors": b"w" * 4096,
    "consolidated.safetensors": b"the same once more",
    "pytorch_model.bin": b"pickle",
    "README.md": b"",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with serving(CONTENT) as server:
        template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", server.address)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def refusal(revision: str | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        resolve("org/name", revision)
    return caught.value


def test_weights_are_fetched_once_and_neither_pickles_nor_copies_are(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = resolve("org/name", "main")
    assert folder.name == COMMIT
    assert sorted(hub.sent) == ["config.json", "model.safetensors"]
    assert resolve("org/name", None) == folder
    assert len(hub.sent) == 2
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve("org/name", "main") == folder


@pytest.mark.parametrize(
    ("part", "status", "code", "what", "fix"),
    [
        (LISTING, 404, "RepoNotFound", "no repository of that name", "hf auth login"),
        (LISTING, 401, "", "the Hub asks for a login", "hf auth login"),
        (LISTING, 503, "", "the Hub refused org/name: Server error '503", "try again later"),
        (LISTING, 404, "RevisionNotFound", "has no revision 'v9'", "model.revision"),
        (LISTING, 403, "GatedRepo", "is gated", "accept the licence"),
        (FILES, 403, "GatedRepo", "is gated", "accept the licence"),
        (FILES, 403, "", "the Hub refused org/name: 403 Forbidden", "see whether it is available"),
    ],
    ids=["unknown", "logged out", "overloaded", "revision", "gated listing", "gated files", "forbidden"],
)
def test_refusals_of_the_hub(hub: HubServer, part: str, status: int, code: str, what: str, fix: str) -> None:
    hub.refusals[part] = status, code
    error = refusal("v9")
    assert what in error.what
    assert fix in error.fix


def test_a_download_cut_off_is_finished_by_the_same_command(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.broken.add("model.safetensors")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its tries
    cut = refusal()
    assert "broke while fetching org/name" in cut.what
    assert "run the command again" in cut.fix
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    half = refusal()
    assert half.what == "the cached copy of org/name is incomplete and the Hub cannot be reached"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.broken.clear()
    assert (resolve("org/name", None) / "model.safetensors").read_bytes() == CONTENT["model.safetensors"]


def test_no_network_and_nothing_in_the_cache(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = refusal("v9")
    assert error.what == "org/name is not in the cache at revision v9 and the Hub cannot be reached"
    assert "HF_HUB_OFFLINE" in error.fix
