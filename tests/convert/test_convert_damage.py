"""Whatever is damaged in a published file: a converted module, or a message with the fix."""

import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.convert.checkpoint import convert_checkpoint
from bench.convert.hamburger import convert_hamburger
from bench.convert.kangaroo import convert_kangaroo
from bench.convert.medusa import convert_medusa
from bench.convert.published import only_tensors, read_file
from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.model_config import decoder_config
from tests.convert.published import CONFIG, State, hamburger_state, kangaroo_adapter, medusa_heads
from tests.convert.test_checkpoint import random_state, save_pickles
from tests.methods.hamburger.hamburgers import random_model
from tests.methods.small import random_decoder

SHAPE = decoder_config(CONFIG)
HEADS = ("7.0.linear.weight", "999999999.0.linear.weight", "\u00b2.x")
NAMES = ("", "module.", "0", "0.", "state_dict", "x", *HEADS)
VALUES: tuple[Any, ...] = (None, 3, "x", [], {}, torch.zeros(0), torch.ones(2, dtype=torch.int8),
                           torch.ones(2, dtype=torch.complex64), torch.full((2,), float("nan")),
                           torch.ones(2, 2).to_sparse(), torch.empty(2, device="meta"))  # fmt: skip


def damaged(state: State, random: Random) -> dict[Any, Any]:
    changed: dict[Any, Any] = dict(state)
    name = random.choice(sorted(state))
    match random.randrange(5):
        case 0:
            del changed[name]
        case 1:
            changed[random.choice([*NAMES, 5, None])] = changed.pop(name)
        case 2:
            changed[name] = random.choice(VALUES)
        case 3:
            inner, settings = random.choice([*VALUES, changed]), random.choice(VALUES)
            changed = {"state_dict": inner, "hyper_parameters": settings}
        case 4:
            changed[random.choice([*NAMES, 5])] = random.choice(VALUES)
    return changed


def tuned(target: Decoder) -> State:
    return hamburger_state(random_model(target))


def convert(kind: str, file: Path) -> object:
    content = read_file(file)
    if kind == "hamburger":
        return convert_hamburger(content, SHAPE, file)
    tensors: dict[str, Tensor] = only_tensors(content, file)
    if kind == "medusa":
        return convert_medusa(tensors, SHAPE, file)
    return convert_kangaroo(tensors, SHAPE, file, 2)


@pytest.mark.parametrize(
    ("kind", "make"),
    [("medusa", medusa_heads), ("kangaroo", kangaroo_adapter), ("hamburger", tuned)],
    ids=["medusa", "kangaroo", "hamburger"],
)
def test_damage_ends_in_a_message(kind: str, make: Callable[[Any], State], tmp_path: Path) -> None:
    state, file, wrong = make(random_decoder("llama")), tmp_path / "published.bin", []
    for seed in range(int(os.environ.get("DAMAGES", "150")) // 10):
        random = Random(seed)
        torch.save(damaged(state, random), file)
        if random.random() < 0.2:
            file.write_bytes(file.read_bytes()[: random.randrange(file.stat().st_size)])
        try:
            convert(kind, file)
        except UserError:
            continue
        except Exception as error:  # noqa: BLE001 - the point of the test
            wrong.append(f"{seed}: {type(error).__name__}: {error}")
    assert wrong == []


class TestLinks:
    """Conversion copies files, so a link in a folder must not name any file of this machine."""

    def test_a_link_out_of_the_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "secret.txt").write_text("secret")
        folder = save_pickles(tmp_path / "bins", random_state(), 1)
        (folder / "notes.txt").symlink_to(tmp_path / "secret.txt")
        with pytest.raises(UserError, match=r"notes\.txt is a link that leads out of its folder"):
            convert_checkpoint(folder, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_links_of_the_hub_s_cache_are_followed(self, tmp_path: Path) -> None:
        folder = save_pickles(tmp_path / "models--org--name" / "snapshots" / "0a1b", random_state(), 1)
        (folder.parents[1] / "blobs").mkdir()
        config = (folder / "config.json").rename(folder.parents[1] / "blobs" / "aa")
        (folder / "config.json").symlink_to(config)
        convert_checkpoint(folder, tmp_path / "out")
        assert (tmp_path / "out" / "config.json").read_bytes() == config.read_bytes()
        assert not (tmp_path / "out" / "config.json").is_symlink()

    def test_an_index_that_leads_out_of_the_folder(self, tmp_path: Path) -> None:
        folder = save_pickles(tmp_path / "bins", random_state(), 3)
        index = folder / "pytorch_model.bin.index.json"
        index.write_text(index.read_text().replace("pytorch_model-00002", "../pytorch_model-00002"))
        with pytest.raises(UserError, match="outside of the folder"):
            convert_checkpoint(folder, tmp_path / "out")
