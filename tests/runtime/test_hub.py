"""A model reference becomes a folder, or two lines about what is wrong and how to mend it."""

from pathlib import Path

import pytest
from httpx2 import ConnectError, Request, Response
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import bench.runtime.hub
from bench.errors import UserError
from bench.runtime.checkpoint_files import resolve


def refused(status: int) -> Response:
    return Response(status, request=Request("GET", "https://huggingface.co/api/models/org/name"))


def hub(monkeypatch: pytest.MonkeyPatch, answer: Path | Exception) -> list[dict[str, object]]:
    """Put `answer` in the Hub's place; returns the list of calls made to it."""
    calls: list[dict[str, object]] = []

    def snapshot_download(
        repository: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]
    ) -> str:
        calls.append({"repository": repository, "revision": revision, "patterns": allow_patterns})
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(bench.runtime.hub, "snapshot_download", snapshot_download)
    return calls


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Calls to the Hub; a test that must not make any asserts that it stays empty."""
    return hub(monkeypatch, AssertionError("the Hub was called"))


class TestFolders:
    def test_a_folder_is_itself(self, tmp_path: Path, offline: list[dict[str, object]]) -> None:
        assert resolve(str(tmp_path), None) == tmp_path
        assert not offline

    def test_a_relative_folder_wins_over_a_hub_id(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: list[dict[str, object]]
    ) -> None:
        (tmp_path / "org" / "name").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        assert resolve("org/name", None) == Path("org/name")

    def test_the_home_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: list[dict[str, object]]
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "model").mkdir()
        assert resolve("~/model", None) == tmp_path / "model"

    @pytest.mark.parametrize(
        "reference", ["/no/such", "./model", "../model", "~/model", "a/b/c", "model", "a/b.gguf"]
    )
    def test_no_such_folder(self, reference: str, offline: list[dict[str, object]]) -> None:
        with pytest.raises(UserError, match=f"there is no folder {reference}") as caught:
            resolve(reference, None)
        assert "org/name" in caught.value.fix
        assert not offline

    def test_a_folder_has_no_revision(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"model\.revision=v1 is set, but .* is a local folder"):
            resolve(str(tmp_path), "v1")

    def test_the_default_branch_of_a_model_by_name_does_not_stand_in_the_way_of_a_copy(
        self, tmp_path: Path
    ) -> None:
        assert resolve(str(tmp_path), "main") == tmp_path


class TestShipped:
    def test_relative_to_the_installed_project(self) -> None:
        assert resolve("package:bench/runtime", None) == Path(bench.runtime.hub.__file__).parent

    def test_nothing_shipped_there(self) -> None:
        with pytest.raises(UserError, match="the package ships no folder bench/assets/none"):
            resolve("package:bench/assets/none", None)

    def test_paths_out_of_the_package_are_refused(self) -> None:
        with pytest.raises(UserError, match="leads out of the package"):
            resolve("package:../..", None)


class TestHub:
    def test_only_safe_files_of_the_asked_revision_are_fetched(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "model.safetensors").touch()
        calls = hub(monkeypatch, tmp_path)
        assert resolve("org/name", "v1") == tmp_path
        assert (calls[0]["repository"], calls[0]["revision"]) == ("org/name", "v1")
        patterns = calls[0]["patterns"]
        assert isinstance(patterns, list)
        assert {"*.safetensors", "*.json"} <= set(patterns)
        assert not any("bin" in pattern or "py" in pattern for pattern in patterns)

    def test_a_repository_of_pickles_only(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "config.json").touch()
        hub(monkeypatch, tmp_path)
        with pytest.raises(
            UserError, match="org/name offers no safetensors weights at revision main"
        ) as caught:
            resolve("org/name", None)
        assert "python -m bench.convert kind=checkpoint model.path=org/name" in caught.value.fix

    @pytest.mark.parametrize(
        ("error", "what", "fix"),
        [
            (
                GatedRepoError("403", response=refused(403)),
                "gated",
                "accept the licence at https://huggingface.co/org/name",
            ),
            (
                RepositoryNotFoundError("404", response=refused(404)),
                "no repository of that name",
                "hf auth login",
            ),
            (RevisionNotFoundError("404", response=refused(404)), "has no revision 'v1'", "commits/main"),
            (IncompleteSnapshotError("partial", snapshot_path="/x"), "is incomplete", "hf download org/name"),
            (LocalEntryNotFoundError("offline"), "is not in the cache", "HF_HUB_OFFLINE"),
            (HFValidationError("bad id"), "neither a folder nor a valid Hub id", "org/name"),
            (
                HfHubHTTPError("503 busy\nmore", response=refused(503)),
                "refused org/name: 503 busy",
                "try again later",
            ),
            (ConnectError("reset"), "the connection to the Hub broke", "run the command again"),
        ],
        ids=[
            "gated",
            "unknown",
            "revision",
            "half downloaded",
            "offline",
            "bad id",
            "server error",
            "cut off",
        ],
    )
    def test_what_stands_in_the_way_is_explained(
        self, monkeypatch: pytest.MonkeyPatch, error: Exception, what: str, fix: str
    ) -> None:
        hub(monkeypatch, error)
        with pytest.raises(UserError) as caught:
            resolve("org/name", "v1")
        assert what in caught.value.what
        assert fix in caught.value.fix
        assert "\n" not in caught.value.what + caught.value.fix

    def test_other_errors_are_not_disguised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hub(monkeypatch, KeyError("a bug"))
        with pytest.raises(KeyError, match="a bug"):
            resolve("org/name", None)

    def test_the_real_client_offline(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """No stand-in: the installed huggingface_hub in offline mode, with an empty cache."""
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(UserError, match="org/name is not in the cache and the Hub cannot be reached"):
            resolve("org/name", None)
