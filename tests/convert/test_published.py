"""Published files are located and read, and no code in them is run."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.convert.published import locate, only_tensors, read_file
from bench.errors import UserError


class Payload:
    """Writes a file when it is unpickled by a reader that runs code."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._target,)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "the format before it"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, is_zip: bool) -> None:
    file, trace = tmp_path / "medusa_lm_head.pt", tmp_path / "was_here"
    content = {"0.1.weight": torch.ones(2), "x": Payload(trace)}
    torch.save(content, file, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(UserError, match="holds more than tensors, and unpickling the rest could run code"):
        read_file(file)
    assert not trace.exists()


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "the format before it"])
def test_tensors_are_read_as_they_are(tmp_path: Path, is_zip: bool) -> None:
    tensor = torch.randn(3, 2).bfloat16()
    torch.save({"a.weight": tensor}, tmp_path / "x.bin", _use_new_zipfile_serialization=is_zip)
    assert torch.equal(only_tensors(read_file(tmp_path / "x.bin"), tmp_path)["a.weight"], tensor)


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_a_file_cut_short(tmp_path: Path, name: str) -> None:
    file, tensors = tmp_path / name, {"a": torch.randn(500)}
    if name.endswith("safetensors"):
        save_file(tensors, file)
    else:
        torch.save(tensors, file)
    file.write_bytes(file.read_bytes()[:-700])
    with pytest.raises(UserError, match=f"{name} is damaged or cut short"):
        read_file(file)


@pytest.mark.parametrize("content", [b"", b"not a pickle at all", b"<html>404</html>"])
def test_a_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.pt (is damaged|holds more than tensors)"):
        read_file(tmp_path / "x.pt")


def test_a_pickle_of_something_else(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "x.pt")
    with pytest.raises(UserError, match="holds a list, not tensors by name"):
        read_file(tmp_path / "x.pt")


def test_an_entry_that_is_no_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="epoch is a int, not a tensor"):
        only_tensors({"a": torch.ones(1), "epoch": 3}, tmp_path / "x.pt")


def test_a_plain_pickle_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Payload(tmp_path / "was_here"), protocol=2))
    with pytest.raises(UserError, match=r"x\.pt"):
        read_file(tmp_path / "x.pt")
    assert not (tmp_path / "was_here").exists()


class TestLocate:
    def test_a_file_is_itself_and_a_folder_is_searched_in_order(self, tmp_path: Path) -> None:
        for name in ("b.pt", "a.safetensors"):
            (tmp_path / name).write_bytes(name.encode())
        assert locate(str(tmp_path / "b.pt"), None, ["a.safetensors"]).file == tmp_path / "b.pt"
        origin = locate(str(tmp_path), None, ["a.safetensors", "b.pt"])
        assert origin.file == tmp_path / "a.safetensors"
        assert origin.facts()["file"] == "a.safetensors"

    def test_of_several_none_is_chosen(self, tmp_path: Path) -> None:
        for name in ("epoch-1.ckpt", "epoch-2.ckpt", "model.pth"):
            (tmp_path / name).touch()
        with pytest.raises(UserError, match=r"holds several such files: epoch-1\.ckpt, epoch-2\.ckpt"):
            locate(str(tmp_path), None, ["*.ckpt", "model.pth"])

    def test_nothing_there_lists_what_was_looked_for(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"holds none of medusa_lm_head\.pt") as caught:
            locate(str(tmp_path), None, ["medusa_lm_head.pt"])
        assert "Hub id" in caught.value.fix

    def test_a_revision_of_a_folder_is_refused_by_its_own_key(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"^revision=refs/pr/1 is set, but .* is a local folder"):
            locate(str(tmp_path), "refs/pr/1", ["x"])

    def test_no_such_place(self) -> None:
        with pytest.raises(UserError, match=r"there is no folder \./nowhere") as caught:
            locate("./nowhere", None, ["x"])
        assert caught.value.fix.startswith("set source to")
