"""A model published as pickles becomes safetensors; one published as safetensors needs nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.convert.checkpoint import convert_checkpoint
from bench.errors import UserError
from bench.runtime.checkpoint_files import weight_files
from bench.runtime.loading import load_decoder
from bench.runtime.tensor_header import count_parameters
from methods.early_exit.layerskip import LayerSkip
from tests.convert.published import CONFIG, State, save_config
from tests.methods.small import prompt, random_decoder, run
from tests.runtime.models import options

PROBE = "model.layers.3.mlp.up_proj.weight"
SKIP = {"exit_layer": 2, "draft_length": 3, "policy": "static", "threshold": 0.6, "target": 0.8}
TABLE = "model.layers.0.self_attn.rotary_emb.inv_freq"


def random_state() -> State:
    """The weights of `random_decoder`, by their names in a checkpoint."""
    torch.manual_seed(0)
    return {
        name: tensor.clone() for name, tensor in AutoModelForCausalLM.from_config(CONFIG).state_dict().items()
    }


def save_pickles(folder: Path, state: State, shards: int) -> Path:
    """lmsys/vicuna-*-v1.3: numbered shards, an index, rotary tables among the weights."""
    save_config(folder)
    (folder / "tokenizer.model").write_bytes(b"as it is")
    state = {**state, TABLE: torch.ones(4)}
    names = [f"pytorch_model-{n:05d}-of-{shards:05d}.bin" for n in range(1, shards + 1)]
    if shards == 1:
        names = ["pytorch_model.bin"]
    weight_map = {name: names[place % shards] for place, name in enumerate(state)}
    for file in names:
        torch.save({name: state[name] for name, where in weight_map.items() if where == file}, folder / file)
    if shards > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("shards", [1, 3])
def test_a_pickled_model_decodes_as_before(tmp_path: Path, shards: int) -> None:
    state = random_state()
    written = convert_checkpoint(save_pickles(tmp_path / "bins", state, shards), tmp_path / "out")
    assert written == weight_files(tmp_path / "out")
    assert sum(map(count_parameters, written)) == sum(tensor.numel() for tensor in state.values())
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == b"as it is"
    assert not (tmp_path / "out" / "pytorch_model.bin.index.json").exists()
    method, expected = LayerSkip(**SKIP), LayerSkip(**SKIP)
    method.attach(load_decoder(tmp_path / "out", options(max_length=256)))
    expected.attach(random_decoder())
    assert run(method, prompt()).ids == run(expected, prompt()).ids


def test_a_layerskip_checkpoint_is_a_plain_llama_and_loads_as_it_is(tmp_path: Path) -> None:
    """facebook/layerskip-*: bf16 safetensors in shards, nothing beside a Llama's tensors."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(CONFIG)).bfloat16()  # saving notes the precision in it
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(weight_files(tmp_path)) > 1
    decoder = load_decoder(tmp_path, options(max_length=256))
    method, plain = LayerSkip(**SKIP), LayerSkip(**(SKIP | {"exit_layer": 5}))
    method.attach(decoder)
    got = run(method, prompt())
    plain.attach(decoder)
    assert got.ids == run(plain, prompt()).ids


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda state: state.pop(PROBE), r"model\.layers\.3\.mlp\.up_proj\.weight is missing"),
        (lambda state: state.update({PROBE: torch.zeros(2, 2)}), r"up_proj\.weight has shape \(2, 2\)"),
        (lambda state: state.update({"model.extra": torch.ones(1)}), r"model\.extra is unexpected"),
        (
            lambda state: state[PROBE].fill_(float("inf")),
            r"up_proj\.weight holds numbers that are not finite",
        ),
    ],
    ids=["missing", "misshapen", "unexpected", "not finite"],
)
def test_what_does_not_fit_is_refused_by_the_name_of_the_key(
    tmp_path: Path, change: Callable[[State], object], what: str
) -> None:
    state = random_state()
    change(state)
    with pytest.raises(UserError, match=what):
        convert_checkpoint(save_pickles(tmp_path / "bins", state, 2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = save_pickles(tmp_path / "bins", random_state(), 3)
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(UserError, match=r"names pytorch_model-00002-of-00003\.bin"):
        convert_checkpoint(folder, tmp_path / "out")


def test_a_model_that_is_safetensors_already_needs_no_conversion(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no pytorch_model\.bin") as caught:
        convert_checkpoint(save_config(tmp_path), tmp_path / "out")
    assert "need no conversion" in caught.value.fix


def test_the_pickles_are_not_written_over(tmp_path: Path) -> None:
    folder = save_pickles(tmp_path / "bins", random_state(), 1)
    with pytest.raises(UserError, match="is where the pickled weights are"):
        convert_checkpoint(folder, folder)
