"""``runtime.tier=auto`` on a GPU: the fastest tier that works, whatever fails, and one line that says why."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime import loading
from bench.runtime.decoder import Decoder
from bench.runtime.tier_choice import soundest
from bench.runtime.tiers.eager import EagerDecoder
from bench.runtime.tiers.graph.decoder import GraphDecoder
from bench.runtime.tiers.graph.recorder import Recording, Work
from tests.runtime.pretended_cuda.device import PretendedCuda
from tests.runtime.pretended_cuda.models import decoder_on
from tests.runtime.pretended_cuda.recorder import PretendedRecorder
from tests.runtime.pretended_cuda.tensors import CUDA

Step = Callable[[Decoder, Tensor, int], Tensor]
STATIC_STEP, GRAPH_STEP = Decoder.step, GraphDecoder.step


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[GraphDecoder]:
    with PretendedCuda() as device:
        monkeypatch.setattr(loading, "CudaRecorder", lambda _: PretendedRecorder(device))
        made = decoder_on(3, CUDA, "graph")
        assert isinstance(made, GraphDecoder)
        yield made


def broken(value: float) -> Step:
    def step(self: Decoder, ids: Tensor, base: int) -> Tensor:
        return STATIC_STEP(self, ids, base).fill_(value)

    return step


def other_tokens(self: Decoder, ids: Tensor, base: int) -> Tensor:
    logits = STATIC_STEP(self, ids, base)
    return torch.neg(logits)


def break_tier(monkeypatch: pytest.MonkeyPatch, tier: str, step: Step) -> None:
    """Let one tier's steps give what `step` does; the other tiers stay as they are."""
    if tier == "graph":
        monkeypatch.setattr(GraphDecoder, "step", step)
    elif tier == "eager":
        monkeypatch.setattr(EagerDecoder, "step", step)
    else:

        def chosen(self: Decoder, ids: Tensor, base: int) -> Tensor:
            return (step if type(self) is Decoder else STATIC_STEP)(self, ids, base)

        monkeypatch.setattr(Decoder, "step", chosen)


def test_a_sound_gpu_keeps_the_fastest_tier(decoder: GraphDecoder, caplog: pytest.LogCaptureFixture) -> None:
    assert soundest(decoder) is decoder
    assert caplog.text == ""
    assert decoder.cache.length == 0


@pytest.mark.parametrize("fault", [broken(float("nan")), broken(float("inf")), other_tokens])
@pytest.mark.parametrize(("tier", "chosen"), [("graph", "static"), ("static", "graph"), ("eager", "graph")])
def test_a_fault_of_one_tier_leaves_that_tier(
    tier: str, chosen: str, fault: Step, decoder: GraphDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_tier(monkeypatch, tier, fault)
    assert soundest(decoder).tier == chosen


def test_what_cannot_be_recorded_runs_kernel_by_kernel(
    decoder: GraphDecoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: PretendedRecorder, work: Work) -> Recording:
        raise UserError("recording a CUDA graph failed: out of memory", "use runtime.tier=static")

    monkeypatch.setattr(PretendedRecorder, "record", fail)
    with caplog.at_level(logging.WARNING):
        assert soundest(decoder).tier == "static"
    assert len(caplog.records) == 1
    assert caplog.messages[0].startswith(
        "runtime.tier=auto takes static: graph fails (recording a CUDA graph failed: out of memory"
    )


def test_two_faults_leave_the_tier_that_is_finite(
    decoder: GraphDecoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for tier in ("graph", "static"):
        break_tier(monkeypatch, tier, broken(float("nan")))
    assert soundest(decoder).tier == "eager"
    assert "graph gives logits that are not finite; static gives logits that are not finite" in caplog.text


def test_a_model_that_is_finite_nowhere_is_refused(
    decoder: GraphDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder.final_norm.fill_(float("nan"))
    with pytest.raises(UserError, match="the model decodes on no tier of this GPU"):
        soundest(decoder)
