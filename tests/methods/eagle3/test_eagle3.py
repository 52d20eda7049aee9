"""EAGLE-3: decoding computes what training computes, and every round starts from the target's rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.modules import save_module
from bench.runtime.sampling import Sampler
from methods.core.chain import Draft
from methods.eagle3.draft import Eagle3, default_taps, layout_of
from methods.eagle3.module import TrainedDrafter
from tests.methods.small import UNLIKE_LLAMA, prompt, random_decoder, run

STEPS = 3


@dataclass
class Dialogue:
    """The part of `TrainingRows` that the drafter's steps read."""

    ids: Tensor
    lengths: tuple[int, ...] = field(default=())

    def __post_init__(self) -> None:
        self.lengths = (self.ids.numel(),)


class Watched(Eagle3):
    """Notes where each round began and the rows that left the layer in it."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(weights=None, draft_length=STEPS, threshold=0.0, unroll=STEPS, own_lm_head=True)
        self.module = random_drafter(self, decoder)
        trained = self.trainer().provenance(decoder)
        self.use(decoder, self.module.state_dict(), layout_of(trained, decoder, Path("drafter")))
        self.rounds: list[tuple[int, list[Tensor], Tensor]] = []
        advance = self._layer.advance

        def watched(embedded: Tensor, hidden: Tensor) -> Tensor:
            rows = advance(embedded, hidden)
            if self.rounds:
                self.rounds[-1][1].append(rows[-1])
            return rows

        self._layer.advance = watched  # type: ignore[method-assign]

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        self.rounds.append((base, [], root))
        draft = super().draft(root, base, room, sampler)
        self.rounds[-1] = (base, self.rounds[-1][1], torch.cat([root, draft.tokens]))
        return draft


def random_drafter(method: Eagle3, decoder: Decoder) -> TrainedDrafter:
    """A drafter with random weights, embeddings included."""
    torch.manual_seed(3)
    module = method.trainer().new_module(decoder)
    assert isinstance(module, TrainedDrafter)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return module


def steps(module: TrainedDrafter, decoder: Decoder, text: Tensor) -> list[Tensor]:
    """Rows of every training step over a text."""
    taps = dict.fromkeys(default_taps(decoder.depth), decoder.embedding)
    decoder.prefill(text, taps)
    rows: Any = Dialogue(text)
    side_by_side = torch.cat([taps[layer] for layer in default_taps(decoder.depth)], dim=1)
    with torch.no_grad():
        return list(module.steps(side_by_side, rows, decoder, STEPS))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", *UNLIKE_LLAMA])
def test_a_draft_is_what_the_training_steps_compute(family: str) -> None:
    decoder = random_decoder(family)
    method, ids = Watched(decoder), prompt(9)
    output = torch.tensor(run(method, ids).ids)
    assert len(method.rounds) > 2
    for base, rows, drafted in method.rounds:
        before = torch.cat([ids, output])[:base]
        expected = steps(method.module, decoder, torch.cat([before, drafted]))
        for step, row in enumerate(rows):
            torch.testing.assert_close(row, expected[step][base - 1], rtol=1e-4, atol=1e-4)


def test_a_trained_list_of_tokens_is_drafted_by_its_own_rows() -> None:
    decoder = random_decoder()
    method = Watched(decoder)
    facts = method.trainer().provenance(decoder) | {"draft_ids": [3, 8, 40]}
    layout = layout_of(facts, decoder, Path("drafter"))
    tensors = method.module.state_dict() | {"lm_head.weight": torch.eye(3, decoder.config.width)}
    method.use(decoder, tensors, layout)
    head = method._layer.draft_head
    assert head.tokens(torch.arange(3)).tolist() == [3, 8, 40]
    assert torch.equal(head.lm_head.weight, tensors["lm_head.weight"])


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"taps": [2, 3, 99]}, r"reads layers \[2, 3, 99\], this model has 6"),
        ({"taps": []}, r"reads layers \[\]"),
        ({"draft_ids": [5, 4]}, "not ascending ids below 96"),
        ({"draft_ids": [5, 96]}, "not ascending ids below 96"),
        ({"mlp_width": None}, "does not describe a drafter of eagle3"),
    ],
)
def test_a_drafter_of_another_model_is_refused(changes: dict[str, Any], what: str, tmp_path: Path) -> None:
    decoder = random_decoder()
    method = Watched(decoder)
    save_module(tmp_path, method.module.state_dict(), method.trainer().provenance(decoder) | changes)
    stored = Eagle3(weights=str(tmp_path), draft_length=3, threshold=0.0, unroll=1, own_lm_head=True)
    with pytest.raises(UserError, match=what):
        stored.attach(decoder)


@pytest.mark.parametrize("changes", [{"draft_length": 0}, {"unroll": 0}, {"threshold": 1.5}])
def test_settings_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"draft_length": 3, "threshold": 0.0, "unroll": 1, "own_lm_head": True}
    with pytest.raises(ValueError, match="must"):
        Eagle3(weights=None, **settings | changes)
