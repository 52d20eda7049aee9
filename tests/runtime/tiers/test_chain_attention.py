"""Recorded chains that attend by their length, on a device that pretends to have the Flash kernel."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from bench.errors import UserError
from bench.runtime import loading
from bench.runtime.decoder import Decoder
from bench.runtime.tier_choice import settle_attention, settled, tier_labels
from bench.runtime.tiers.graph import length_check, lengths
from bench.runtime.tiers.graph.decoder import GraphDecoder
from bench.runtime.tiers.graph.length_check import length_fault
from tests.runtime.pretended_cuda import flash
from tests.runtime.pretended_cuda.device import PretendedCuda
from tests.runtime.pretended_cuda.flash import Rule
from tests.runtime.pretended_cuda.models import CAPACITY, decoder_on
from tests.runtime.pretended_cuda.recorder import PretendedRecorder
from tests.runtime.pretended_cuda.tensors import CUDA

pytestmark = pytest.mark.usefixtures("torch_products")
WRONG: dict[str, Rule] = {
    "top left": flash.top_left,
    "one slot short": flash.one_slot_short,
    "one slot long": flash.one_slot_long,
    "not causal": flash.not_causal,
    "without lengths": flash.without_lengths,
}


@dataclass
class Place:
    """A pretended GPU with a model on it."""

    device: PretendedCuda
    decoder: GraphDecoder


@contextmanager
def place(
    patch: pytest.MonkeyPatch,
    rule: Rule = flash.documented,
    dtype: torch.dtype = torch.bfloat16,
    family: str = "llama",
    capability: tuple[int, int] = (8, 0),
) -> Iterator[Place]:
    with PretendedCuda(rule, capability) as device:
        patch.setattr(loading, "CudaRecorder", lambda _: PretendedRecorder(device))
        decoder = decoder_on(3, CUDA, "graph", family, dtype=dtype)
        assert isinstance(decoder, GraphDecoder)
        yield Place(device, decoder)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "smollm3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_kernel_that_does_as_documented_is_taken(
    dtype: torch.dtype, family: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with place(monkeypatch, dtype=dtype, family=family) as here:
        assert settled(here.decoder, "auto", is_tier_free=True) is here.decoder
        assert here.decoder.attention == "lengths"
        assert tier_labels(here.decoder) == {"tier": "graph", "attention": "lengths"}
        assert here.decoder.cache.length == 0
    assert caplog.text == ""


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_wrong_kernel_is_left_with_one_line(
    dtype: torch.dtype, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with place(monkeypatch, WRONG[name], dtype) as here:
        settle_attention(here.decoder, "auto")
        assert here.decoder.attention == "masked"
        assert tier_labels(here.decoder) == {"tier": "graph"}
    (line,) = caplog.messages
    assert line.startswith("runtime.attention=auto takes masked: the Flash kernel is off by ")


def text(length: int) -> torch.Tensor:
    return (torch.arange(length) * 7 + 3) % 24


@pytest.mark.parametrize("family", ["llama", "smollm3"])
@pytest.mark.parametrize("count", [1, 3, 8, 9, 19])
def test_logits_are_those_of_the_mask_at_every_end_of_a_bucket_and_of_the_cache(
    count: int, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """9 and 19 rows are recorded with one row of padding, for which there is no room at the cache's end."""
    monkeypatch.setattr(lengths, "HALF_PRECISIONS", (torch.float32,))
    with place(monkeypatch, dtype=torch.float32, family=family) as here:
        ids = text(CAPACITY).to(CUDA)
        plain = decoder_on(3, CUDA, "static", family)
        settle_attention(here.decoder, "lengths")
        for end in (40, 127, 128, 129, 192, 193, CAPACITY):
            base = end - count
            for decoder in (plain, here.decoder):
                decoder.prefill(ids[:base])
            got, wanted = (decoder.step(ids[base:end], base) for decoder in (here.decoder, plain))
            torch.testing.assert_close(got.cpu(), wanted.cpu(), rtol=1e-4, atol=1e-3)


def counts(here: Place, attention: str) -> tuple[int, int, int]:
    """Waits, uploads and launches of two passes by lengths of text that were recorded before."""
    settle_attention(here.decoder, attention)
    ids, decoder = text(30).to(CUDA), here.decoder
    for _ in range(2):
        decoder.prefill(ids[:20])
        here.device.clear()
        decoder.step(ids[20:24], 20)
        decoder.run_layers(decoder.embed(ids[24:26]), decoder.placement.chain(24, 2), 0, 2)
    return (
        here.device.waits.total(),
        here.device.uploads.total(),
        here.device.launches.total(),
    )


def test_a_pass_by_length_costs_the_host_what_a_masked_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with place(monkeypatch) as here:
        masked = counts(here, "masked")
    with place(monkeypatch) as here:
        assert counts(here, "lengths") == masked
        assert here.decoder.attention == "lengths"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"dtype": torch.float32},
            "the Flash kernel runs in float16 and bfloat16, and this model in float32",
        ),
        ({"family": "gemma3"}, "the model has a sliding window"),
        ({"capability": (7, 5)}, "the Flash kernel needs compute capability 8.0, and this GPU has 7.5"),
    ],
)
def test_what_the_kernel_cannot_do_stays_masked_and_is_refused_where_it_is_asked_for(
    change: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with place(monkeypatch, **change) as here, caplog.at_level(logging.INFO):
        settle_attention(here.decoder, "masked")
        assert caplog.messages == []
        settle_attention(here.decoder, "auto")
        assert caplog.messages == [f"runtime.attention=auto takes masked: {reason}"]
        assert here.decoder.attention == "masked"
        with pytest.raises(UserError, match=f"runtime.attention=lengths is not possible: {reason}"):
            settle_attention(here.decoder, "lengths")
        assert here.device.flash_runs == 0


def test_a_torch_without_the_argument_stays_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    with place(monkeypatch) as here:
        monkeypatch.setattr(lengths, "_takes_lengths", lambda: False)
        assert "takes no lengths" in str(lengths.why_masked(here.decoder))


def test_a_kernel_that_raises_is_left_with_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with place(monkeypatch, flash.failing) as here:
        settle_attention(here.decoder, "auto")
        assert here.decoder.attention == "masked"
        assert caplog.messages == [
            "runtime.attention=auto takes masked: the Flash kernel fails "
            "(no kernel image is available for execution on the device)"
        ]
        with pytest.raises(UserError, match="the Flash kernel fails"):
            settle_attention(here.decoder, "lengths")


def test_attention_that_is_not_finite_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with place(monkeypatch) as here:
        monkeypatch.setattr(
            length_check, "attend_by_length", lambda queries, *_: queries.flatten(1) * float("nan")
        )
        assert "is off by nan" in str(length_fault(here.decoder))


@pytest.mark.parametrize("name", ["top left", "one slot short"])
def test_the_short_decode_alone_finds_other_tokens(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with place(monkeypatch, WRONG[name]) as here:
        monkeypatch.setattr("bench.runtime.tier_choice.length_fault", lambda _: None)
        settle_attention(here.decoder, "auto")
        assert here.decoder.attention == "masked"
        assert caplog.messages == [
            "runtime.attention=auto takes masked: a short decode has other tokens than with the mask"
        ]
        assert here.decoder._recordings == {}


def test_what_cannot_be_recorded_by_length_stays_masked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with place(monkeypatch, flash.failing) as here:
        monkeypatch.setattr("bench.runtime.tier_choice.length_fault", lambda _: None)
        settle_attention(here.decoder, "auto")
        assert here.decoder.attention == "masked"
    assert "takes masked: graph fails (no kernel image is available" in caplog.text


def test_drafters_attend_as_their_target_and_second_models_are_checked_themselves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with place(monkeypatch) as here:
        target = here.decoder
        settle_attention(target, "lengths")
        assert target.companion(target.layers[:1], target.final_norm).attention == "lengths"
        good, windowed = (
            decoder_on(3, CUDA, "graph", name, dtype=target.dtype) for name in ("llama", "gemma3")
        )
        for second in (good, windowed):
            target.adopt(second)
    assert [tier_labels(second).get("attention") for second in (good, windowed)] == ["lengths", None]
    assert caplog.messages == ["the second model's chains attend under masks: the model has a sliding window"]


@pytest.mark.parametrize("tier", ["static", "eager"])
def test_a_tier_that_records_nothing_has_no_choice(tier: Any) -> None:
    decoder: Decoder = decoder_on(3, torch.device("cpu"), tier)
    settle_attention(decoder, "auto")
    assert tier_labels(decoder) == {"tier": tier}
    with pytest.raises(UserError, match=f"and this run decodes on the tier {tier}"):
        settle_attention(decoder, "lengths")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_real_gpu_attends_by_length(dtype: torch.dtype) -> None:
    decoder = decoder_on(3, torch.device("cuda"), "graph", dtype=dtype)
    settle_attention(decoder, "lengths")
    assert tier_labels(decoder)["attention"] == "lengths"
