"""``runtime.tier=auto`` on CUDA: the fastest tier whose passes are right, on a device that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.tiers.eager import EagerDecoder
from bench.runtime.tiers.graph.decoder import GraphDecoder
from bench.runtime.tiers.self_check import Sound, soundest
from tests.methods.test_on_cuda import decoder_on
from tests.runtime.pretended_cuda import CUDA, PretendedCuda, TapeOnCuda

pytestmark = pytest.mark.usefixtures("torch_products")


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoder]:
    with PretendedCuda() as device:
        monkeypatch.setattr("bench.runtime.loading.CudaRecorder", lambda _: TapeOnCuda(device))
        yield decoder_on(CUDA, 2, "graph")


def spoiled(monkeypatch: pytest.MonkeyPatch, kind: type[Decoder], name: str, change: Any) -> None:
    """Let a function of a tier return something else."""
    own = getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda self, *args, **more: change(own(self, *args, **more)))


def test_the_graph_tier_is_taken_where_it_is_right(decoder: Decoder) -> None:
    assert soundest(decoder) == Sound("graph")


def test_wrong_tokens_leave_the_static_tier(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spoiled(monkeypatch, GraphDecoder, "step", torch.neg)
    sound = soundest(decoder)
    assert "runtime.tier=static is used: tier graph chooses other tokens" in caplog.text
    assert sound.tier == "static"
    assert sound.complaints[0].startswith("tier graph chooses other tokens than the textbook's passes (")


def test_a_recording_that_fails_leaves_the_static_tier(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nadvice")

    monkeypatch.setattr(TapeOnCuda, "record", fail)
    reason = "tier graph fails: operation not permitted when stream is capturing"
    assert soundest(decoder) == Sound("static", (reason,))


def test_where_both_are_wrong_the_textbook_is_left(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled(monkeypatch, Decoder, "_attend", lambda rows: rows * torch.nan)
    sound = soundest(decoder)
    assert sound.tier == "eager"
    assert sound.complaints == tuple(
        f"tier {tier} returns logits that are not finite" for tier in ("graph", "static")
    )


def test_a_model_that_gives_no_numbers_is_refused(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled(monkeypatch, EagerDecoder, "head", lambda logits: logits * torch.nan)
    with pytest.raises(UserError, match="not finite, even by the textbook's passes"):
        soundest(decoder)
