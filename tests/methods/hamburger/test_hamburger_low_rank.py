"""A base tuned by low-rank changes: it starts as the model, stores the changes alone, decodes as trained."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.errors import UserError
from bench.runtime.low_rank import merged
from bench.runtime.modules import save_model
from bench.train.trainers.checkpoint import trained_state
from methods.core.autoregressive import Autoregressive
from methods.hamburger.checkpoint import checkpoint_of
from methods.hamburger.draft import Hamburger
from methods.hamburger.module import HamburgerModel
from methods.hamburger.shape import HamburgerShape
from tests.methods.hamburger.hamburgers import unattached
from tests.methods.small import FAMILIES, prompt, random_decoder, run
from tests.runtime.models import AUTO

RANK = 4


def changed_model(seed: int = 3) -> HamburgerModel:
    """The whole model with random changes and random new parts."""
    torch.manual_seed(seed)
    decoder = random_decoder()
    shape = HamburgerShape.for_model(decoder.config, 4, 1, 24, RANK)
    model = HamburgerModel.from_decoder(decoder, shape).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.copy_(torch.randn_like(weight) * 0.25)
    return model


def saved(model: HamburgerModel, folder: Path) -> Hamburger:
    config = FAMILIES["llama"].to_dict() | {"architectures": ["LlamaForCausalLM"]}
    tensors: dict[str, Tensor] = {name: value.detach() for name, value in trained_state(model).items()}
    save_model(folder, tensors, config | {"hamburger": model.shape.plain()})
    return unattached(weights=str(folder), confidence=0.5)


def test_before_training_it_decodes_as_the_model_does() -> None:
    decoder, method, plain = random_decoder(), unattached(confidence=1.1, rank=RANK), Autoregressive()
    model = method.model_trainer().new_model(decoder)
    assert isinstance(model, HamburgerModel)
    method.use(checkpoint_of(model.state_dict(), model.shape, decoder, decoder.capacity))
    plain.attach(decoder)
    assert run(method, prompt(), new=24).ids == run(plain, prompt(), new=24).ids


def test_only_changes_and_new_parts_are_trained_and_stored(tmp_path: Path) -> None:
    model = changed_model()
    saved(model, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    base = {name.removeprefix("model.") for name in stored if name.startswith("model.")}
    assert base == set(model.shape.change_shapes(random_decoder().config))
    assert len(stored) > len(base)


@pytest.mark.parametrize("tier", sorted({"static", AUTO}))
def test_what_is_stored_decodes_as_the_model_in_memory(tier: str, tmp_path: Path) -> None:
    model = changed_model()
    loaded, in_memory = saved(model, tmp_path), unattached(confidence=0.5)
    decoder = random_decoder(tier=tier)  # type: ignore[arg-type]
    loaded.attach(decoder)
    in_memory.use(checkpoint_of(model.state_dict(), model.shape, random_decoder(), 256))
    got = run(loaded, prompt(), new=40)
    assert got.ids == run(in_memory, prompt(), new=40).ids
    plain = Autoregressive()
    plain.attach(decoder)
    assert got.ids != run(plain, prompt(), new=40).ids


def test_the_passes_of_training_are_those_of_the_merged_weights() -> None:
    """A projection with a change multiplies as the sum of both does."""
    model, x = changed_model(), torch.randn(5, 32)
    whole = merged(model.state_dict())
    for name in ("self_attn.k_proj", "mlp.down_proj"):
        place = f"model.model.layers.2.{name}"
        projection, weight = model.get_submodule(place), whole[f"{place}.weight"]
        inputs = torch.randn(5, weight.shape[1]) if weight.shape[1] != 32 else x
        torch.testing.assert_close(projection(inputs), inputs @ weight.T, atol=1e-4, rtol=1e-4)


def test_nothing_else_is_learnt() -> None:
    decoder, method = random_decoder(), unattached(rank=RANK, singles=1.0)
    trainer = method.model_trainer()
    model = trainer.new_model(decoder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.5)
    examples = trainer.examples(model, prompt(20).tolist(), [False] * 8 + [True] * 12, decoder, Random(0))
    trainer.joint_loss(model, examples, decoder)[0].backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in moved if name.startswith("model.")} == {
        name for name in before if name.endswith(".lora_B") and name.startswith("model.")
    }


def test_changes_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    method = saved(changed_model(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("model.model.layers.3.mlp.up_proj.lora_B")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.layers\.3\.mlp\.up_proj\.lora_B is missing"):
        method.attach(random_decoder())
