"""Kangaroo: the caches of target and adapter in every round, the adapter, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.draft_step import DraftStep, DraftStepper
from bench.runtime.modules import save_module
from bench.runtime.sampling import Sampler, Sampling
from bench.train.trainers.modules import observe
from methods.core.autoregressive import Autoregressive
from methods.core.chain import Draft
from methods.early_exit.prefix import PrefixExit
from methods.kangaroo.draft import Kangaroo
from methods.kangaroo.module import Adapter
from tests.methods.small import prompt, random_decoder, run

EXIT = 2


class PerfectStepper(DraftStepper):
    """Steps whose logits are those of `Watched._adapt`."""

    def __init__(self, method: Watched) -> None:
        super().__init__(method._decoder, EXIT, method._head, method._adapter)
        self._method = method

    def step(self, row: Tensor, position: int, *, has_confidence: bool) -> DraftStep:
        assert not has_confidence
        decoder, token = self._target, self._method._adapt(row).argmax(dim=-1)
        place = decoder.placement.chain(position + 1, 1)
        return DraftStep(token, decoder.run_layers(decoder.embed(token), place, 0, EXIT), None)


class Watched(Kangaroo):
    """Kangaroo that notes the lengths of its three stores at every step of a round.

    With `is_perfect` the adapter is replaced by the true deep stack: every draft is the target's own token.
    """

    def __init__(self, decoder: Decoder, *, is_perfect: bool, threshold: float = 0.0) -> None:
        super().__init__(weights=None, exit_layer=EXIT, draft_length=3, threshold=threshold)
        torch.manual_seed(1)
        self.use(decoder, self.trainer().new_module(decoder).state_dict(), EXIT)
        self.is_perfect = is_perfect
        if is_perfect:
            self._stepper = PerfectStepper(self)
        self.notes: list[tuple[str, int, int, int]] = []
        self.carried: list[bool] = []

    def stores(self) -> tuple[int, int, int]:
        lengths = self._decoder.cache.lengths
        return lengths[0], lengths[EXIT], self._adapter.cache.lengths[0]

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        self.carried.append(self._carried is not None)
        self.notes.append(("before", *self.stores()))
        draft = super().draft(root, base, room, sampler)
        self.notes.append(("drafted", *self.stores()))
        return draft

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        logits = super().verify(root, draft, base)
        self.notes.append(("verified", *self.stores()))
        return logits

    def _adapt(self, row: Tensor) -> Tensor:
        logits = super()._adapt(row)
        if not self.is_perfect:
            return logits
        decoder = self._decoder
        end = decoder.cache.lengths[0]
        rows = decoder.run_layers(row, decoder.placement.chain(end - 1, 1), EXIT)
        return decoder.head(rows)


@pytest.mark.parametrize("is_perfect", [True, False], ids=["all accepted", "next to none accepted"])
def test_stores_keep_their_invariants_in_every_round(is_perfect: bool) -> None:
    decoder = random_decoder()
    method = Watched(decoder, is_perfect=is_perfect)
    got = run(method, prompt(10), new=33)
    n = 10
    for index, round_ in enumerate(got.rounds):
        before, drafted, verified = method.notes[3 * index : 3 * index + 3]
        trailing = index > 0 and got.rounds[index - 1].accepted == got.rounds[index - 1].drafted
        assert before[1:3] == (n, n)
        assert before[3] == (n - 1 if trailing else n)
        assert method.carried[index] is trailing
        assert drafted[1] == n + round_.drafted + 1
        assert drafted[3] == n + round_.drafted
        assert verified[2] == n + round_.drafted + 1
        n += round_.emitted
    assert n == 10 + 32


def test_a_perfect_adapter_has_every_draft_accepted() -> None:
    decoder = random_decoder()
    baseline = Autoregressive()
    baseline.attach(decoder)
    got = run(Watched(decoder, is_perfect=True), prompt(10), new=33)
    assert got.ids == run(baseline, prompt(10), new=33).ids
    assert [(round_.drafted, round_.accepted) for round_ in got.rounds] == [(3, 3)] * 8


def test_drafting_stops_behind_an_unsure_token_and_keeps_it() -> None:
    got = run(Watched(random_decoder(), is_perfect=False, threshold=1.0), prompt(10), new=20)
    assert {round_.drafted for round_ in got.rounds[:-1]} == {1}
    assert {round_.stop for round_ in got.rounds[:-1]} == {"confidence"}


def test_sampling_is_repeatable_and_fills_the_budget() -> None:
    decoder = random_decoder()
    first, second = (
        run(Watched(decoder, is_perfect=False), prompt(10), new=25, sampling=Sampling(1.0), seed=5)
        for _ in range(2)
    )
    assert first.ids == second.ids
    assert len(first.ids) == 25


def test_adapter_decodes_what_it_was_trained_as() -> None:
    """One row at a time with a cache, or all rows at once in training: the same logits."""
    decoder = random_decoder()
    method = Watched(decoder, is_perfect=False)
    ids = prompt(14)
    with torch.inference_mode():
        method.prefill(ids[:10])
        method._exit = PrefixExit(decoder, 10, EXIT)
        stepped = [method._adapt(method._exit.advance(token)) for token in ids[10:, None]]
    rows = observe(method.trainer(), decoder, ids.tolist(), [True] * 14)
    torch.manual_seed(1)
    module = method.trainer().new_module(decoder)
    cos, sin = decoder.placement.rotation(0, 14)
    whole = decoder.lm_head(module(rows.hidden[EXIT], cos, sin, rows.lengths))
    torch.testing.assert_close(torch.cat(stepped), whole[10:], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("width", "heads", "parameters"),
    [(4096, 32, 67_117_056), (5120, 40, 104_867_840), (6656, 52, 177_222_656)],
    ids=["Vicuna-7B", "Vicuna-13B", "Vicuna-33B"],
)
def test_adapter_has_the_published_size(width: int, heads: int, parameters: int) -> None:
    with torch.device("meta"):
        module = Adapter(width, heads, heads, width // heads, 1e-6)
    assert sum(weight.numel() for weight in module.parameters()) == parameters
    assert len(module.state_dict()) == 6


def test_training_lowers_the_loss_on_answer_positions_only() -> None:
    decoder = random_decoder()
    method = Kangaroo(weights=None, exit_layer=EXIT, draft_length=3, threshold=0.0)
    torch.manual_seed(0)
    module = method.trainer().new_module(decoder)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    rows = observe(method.trainer(), decoder, prompt(30).tolist(), [False] * 10 + [True] * 20)
    assert rows.mask.tolist() == [False] * 9 + [True] * 20 + [False]
    losses = []
    for _ in range(30):
        loss, figures = method.trainer().loss(module, rows, decoder)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert 0 <= figures["accept"] <= 1
    assert decoder.embedding.grad is None


def adapter_for(decoder: Decoder, folder: Path, **facts: object) -> None:
    module = (
        Kangaroo(weights=None, exit_layer=EXIT, draft_length=1, threshold=0).trainer().new_module(decoder)
    )
    save_module(folder, module.state_dict(), {"method": "kangaroo", "exit_layer": EXIT, **facts})


def test_missing_weights_name_the_command_that_makes_them(tmp_path: Path) -> None:
    method = Kangaroo(weights=str(tmp_path), exit_layer=None, draft_length=3, threshold=0.6)
    with pytest.raises(UserError, match=r"holds no module\.safetensors.*\n.*bench\.train method=kangaroo"):
        method.attach(random_decoder())


def test_an_adapter_of_another_shape_is_refused_by_tensor_name(tmp_path: Path) -> None:
    adapter_for(random_decoder(), tmp_path)
    method = Kangaroo(weights=str(tmp_path), exit_layer=None, draft_length=3, threshold=0.6)
    other = random_decoder()
    object.__setattr__(other.config, "width", 64)
    with pytest.raises(UserError, match=r"norm\.weight has shape \(32,\), this model needs \(64,\)"):
        method.attach(other)


def test_an_adapter_of_another_exit_is_refused(tmp_path: Path) -> None:
    adapter_for(random_decoder(), tmp_path)
    method = Kangaroo(weights=str(tmp_path), exit_layer=3, draft_length=3, threshold=0.6)
    with pytest.raises(UserError, match="trained for exit_layer 2, not 3"):
        method.attach(random_decoder())


def test_a_module_of_another_method_is_refused(tmp_path: Path) -> None:
    adapter_for(random_decoder(), tmp_path, method="medusa")
    method = Kangaroo(weights=str(tmp_path), exit_layer=None, draft_length=3, threshold=0.6)
    with pytest.raises(UserError, match="a module of 'medusa', not of 'kangaroo'"):
        method.attach(random_decoder())
