"""The verified drafter: which row it reads, its training windows, that training and decoding agree."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.modules import save_module
from bench.runtime.sampling import Sampler, Sampling
from bench.train.trainers.modules import observe
from methods.core.base import Exactness, Trainable
from methods.core.chain import Draft
from methods.hamburger.decoder import features_at, new_taps
from methods.hamburger.groups import entropies, segment
from methods.hamburger.verified_trainer import _features, _Windows
from tests.methods.hamburger.hamburgers import checkpoint, random_model, saved_verified, verified
from tests.methods.small import CPU, prompt, random_decoder, run

IDS = prompt(30, seed=5).tolist()
MASK = [False] * 6 + [True] * 12 + [False] * 3 + [True] * 9
GREEDY = Sampler(Sampling(), CPU, 0)


def test_drafts_start_from_the_row_that_chose_the_root(tmp_path: Path) -> None:
    decoder, other = random_decoder(), random_decoder()
    method = saved_verified(decoder, tmp_path)
    method.attach(decoder)
    seen: list[tuple[int, Tensor]] = []
    draft = method.draft

    def noted(root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        seen.append((base, features_at(decoder, method._taps, method._shape, method._last)))
        return draft(root, base, room, sampler)

    method.draft = noted  # type: ignore[method-assign]
    whole = torch.tensor([*prompt().tolist(), *run(method, prompt(), new=20).ids])
    for base, features in seen:
        taps = new_taps(other, method._shape)
        other.prefill(whole[:base], taps)
        assert torch.allclose(features, features_at(other, taps, method._shape, -1), atol=1e-4)
    assert len(seen) > 3


def test_above_confidence_one_nothing_is_drafted(tmp_path: Path) -> None:
    decoder = random_decoder()
    method = saved_verified(decoder, tmp_path, confidence=1.1)
    method.attach(decoder)
    got = run(method, prompt(), new=12)
    assert {step.drafted for step in got.rounds} == {0}
    assert {step.stop for step in got.rounds[:-1]} == {"confidence"}


def test_drafts_of_sampled_decoding_carry_their_distributions(tmp_path: Path) -> None:
    decoder = random_decoder()
    method = saved_verified(decoder, tmp_path, confidence=0.0)
    method.attach(decoder)
    sampler = Sampler(Sampling(temperature=0.7), CPU, 0)
    assert method.exactness(sampler) is Exactness.SAMPLING_EXACT
    root = sampler.pick(method.prefill(prompt()))
    draft = method.draft(root, 12, 10, sampler)
    assert draft.tokens.shape == (3,)
    assert draft.probs is not None
    assert torch.allclose(draft.probs.sum(dim=-1), torch.ones(3))


def test_a_window_is_the_group_that_would_begin_there() -> None:
    decoder, method = random_decoder(), verified()
    rows = observe(method.trainer(), decoder, IDS, MASK)
    windows = _Windows(rows, 4)
    inside, last = windows.borders(3.6, 0.9)
    hidden = {decoder.depth: decoder.embedding}
    with torch.no_grad():
        decoder.prefill(torch.tensor(IDS), hidden)
    values = entropies(decoder.head(hidden[decoder.depth])).tolist()
    sizes = []
    for row, anchor in enumerate(windows.anchors.tolist()):
        end = next(i for i in range(anchor, 30) if i + 1 == 30 or not MASK[i + 1])
        size = segment(values[anchor:end], 4, 3.6, 0.9)[0]
        assert int(inside[row].sum()) == min(size, 3)
        assert bool(last[row].any()) == (size < 4)
        sizes.append(size)
    assert set(sizes) == {1, 2, 3, 4}


def test_drafted_tokens_stay_within_one_answer() -> None:
    decoder = random_decoder()
    windows = _Windows(observe(verified().trainer(), decoder, IDS, MASK), 4)
    reach = dict(zip(windows.anchors.tolist(), windows.is_drafted.sum(dim=1).tolist(), strict=True))
    assert reach[5] == 3
    assert reach[14] == 2
    assert reach[16] == 0
    assert reach[20] == 3
    assert reach[28] == 0


def test_training_rows_are_those_of_decoding() -> None:
    decoder, method = random_decoder(), verified(confidence=0.0)
    model = random_model(decoder)
    parts = checkpoint(decoder, model)
    method.use(decoder, parts.micro, parts.shape)
    rows = observe(method.trainer(), decoder, IDS, MASK)
    windows = _Windows(rows, 4)
    features = _features(rows, decoder, windows.anchors)
    rotation = decoder.placement.rotation(0, decoder.capacity)
    with torch.no_grad():
        batched = model.micro_step_decoder(features, decoder.embed(windows.inputs), rotation)
    anchor = 3
    start = int(windows.anchors[anchor])
    micro = method._micro
    micro._layers.cache.truncate(0)
    inputs = torch.cat([features[anchor], decoder.embed(torch.tensor(IDS[start + 1 : start + 2]))])
    for index in range(3):
        assert torch.allclose(micro._advance(inputs)[0], batched[anchor, index], atol=1e-5)
        inputs = decoder.embed(torch.tensor(IDS[start + 2 + index : start + 3 + index]))


def test_the_loss_reaches_every_weight() -> None:
    decoder, method = random_decoder(), verified(floor=1.0, ratio=0.9)
    module = method.trainer().new_module(decoder)
    loss, figures = method.trainer().loss(module, observe(method.trainer(), decoder, IDS, MASK), decoder)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in module.parameters())
    assert set(figures) == {"accept", "top1", "stop", "stop_right"}
    assert isinstance(method, Trainable)


def test_a_narrow_micro_step_decoder_is_stored_and_read_as_such(tmp_path: Path) -> None:
    decoder = random_decoder()
    trainer = verified(micro_mlp_width=24).trainer()
    module = trainer.new_module(decoder)
    assert module.get_parameter("decoders.0.mlp.up_proj.weight").shape == (24, decoder.config.width)
    save_module(tmp_path, module.state_dict(), trainer.provenance(decoder))
    reader = verified(weights=str(tmp_path))
    reader.attach(decoder)
    assert reader._shape.micro_mlp_width == 24


def test_weights_for_another_depth_are_refused(tmp_path: Path) -> None:
    decoder = random_decoder()
    method = saved_verified(decoder, tmp_path)
    path = tmp_path / "module.json"
    path.write_text(path.read_text().replace("5\n", "7\n"))
    with pytest.raises(UserError, match=r"layers \[1, 2, 3, 7\]"):
        method.attach(decoder)


@pytest.mark.parametrize(
    "changes", [{"max_group": 1}, {"micro_layers": 0}, {"micro_mlp_width": 0}, {"floor": -1.0}], ids=str
)
def test_impossible_settings_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="got"):
        verified(**changes)
