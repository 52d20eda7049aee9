"""Experts in pinned memory of the host, on the pretended GPU: the ids of the model whose experts all fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.records.model import Generation
from bench.runtime.sampling import Sampler, Sampling
from methods.core.autoregressive import Autoregressive
from methods.core.base import Budget, Method, NoClock
from tests.methods.options import settings_of
from tests.methods.small import SPARSE, prompt
from tests.runtime.pretended_cuda.device import PretendedCuda
from tests.runtime.pretended_cuda.models import VOCABULARY, decoder_on
from tests.runtime.pretended_cuda.tensors import CUDA

pytestmark = pytest.mark.usefixtures("torch_products")
LAYERS = 6


class Stream:
    """A stream that is not there; says what it was asked."""

    log: ClassVar[list[str]] = []

    def __init__(self, _: torch.device) -> None:
        self.log.clear()

    def wait_stream(self, _: Any) -> None:
        self.log.append("waits for the passes")

    def synchronize(self) -> None:
        self.log.append("is done")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedCuda]:
    """The pretended GPU, on which the loading thread finds itself when it uses its stream."""
    with PretendedCuda() as pretended:

        @contextmanager
        def entered(stream: Stream) -> Iterator[None]:
            TorchDispatchMode.__enter__(pretended)
            try:
                yield
                stream.log.append("copies")
            finally:
                TorchDispatchMode.__exit__(pretended, None, None, None)

        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", entered)
        monkeypatch.setattr(torch.cuda, "default_stream", lambda _: None)
        yield pretended


def decoded(method: Method) -> Generation:
    ids = prompt(12, vocabulary=VOCABULARY).to(CUDA)
    return method.generate(ids, Budget(8, frozenset()), Sampler(Sampling(), CUDA, 0), NoClock())


@pytest.mark.parametrize("slots", [2, 12])
@pytest.mark.parametrize("name", ["moe_lru", "moe_previous", "moe_next_layer"])
def test_a_store_on_a_gpu_gives_the_ids_of_all_experts_in_memory(
    name: str, slots: int, device: PretendedCuda
) -> None:
    decoder = decoder_on(LAYERS, CUDA, "static", SPARSE)
    plain = Autoregressive()
    plain.attach(decoder)
    method: Method = settings_of(name, f"method.slots={slots}", "method.megabytes_per_s=1e6").method.build()
    method.attach(decoder)
    made = decoded(method)
    assert made.ids == decoded(plain).ids
    assert made.counts["experts_loaded"] > 0


def test_a_copy_waits_for_the_passes_and_is_waited_for(device: PretendedCuda) -> None:
    method: Method = settings_of("moe_lru", "method.slots=2", "method.megabytes_per_s=1e6").method.build()
    method.attach(decoder_on(LAYERS, CUDA, "static", SPARSE))
    loads = decoded(method).counts["experts_loaded"]
    steps = ["waits for the passes", "copies", "is done"]
    assert len(Stream.log) >= 3 * loads
    assert Stream.log == steps * (len(Stream.log) // 3)
    assert any("pinned_memory" in site for site in device.uploads)
