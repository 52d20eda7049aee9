"""Memory beside weights, modules and cache: as estimated, and as a decoder really holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.compose.settings import Settings
from bench.errors import UserError
from bench.plan import buffers, empty_model
from bench.plan.empty_model import require_room_for_all
from bench.plan.outlook import estimate
from bench.plan.planning import outlook_lines
from bench.plan.size import Size
from bench.runtime import linear, loading, rows
from bench.runtime.loading import RuntimeOptions, load_decoder
from bench.runtime.sampling import Sampler, Sampling
from bench.runtime.tiers.graph.decoder import GraphDecoder
from bench.runtime.tiers.graph.sizes import MOST_ROWS, row_sizes
from methods.core.base import Budget, Method, NoClock
from tests.harness import ROOT, composed_settings
from tests.methods.small import config_of, prompt
from tests.plan.held import held_bytes
from tests.runtime.pretended_cuda.device import PretendedCuda
from tests.runtime.pretended_cuda.recorder import PretendedRecorder
from tests.runtime.pretended_cuda.tensors import CUDA

TINY = ROOT / "bench" / "assets" / "tiny"
CAPACITY = 256
CPU = torch.device("cpu")
STEPPING = ("prompt_lookup", "sam method.draft_length=3")
"""Methods that verify by whole steps, whose logits are recorded; every size of a pass takes its time."""


def settings_of(name: str, *overrides: str) -> Settings:
    return composed_settings("model=tiny", f"method={name}", f"runtime.max_length={CAPACITY}", *overrides)


def sized(settings: Settings) -> Size:
    size = estimate(settings).size
    assert size is not None
    return size


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "name",
    [
        "autoregressive",
        "kangaroo",
        "eagle3",
        "two_model",
        "medusa",
        "layerskip",
        "hamburger",
        "hamburger_verified",
    ],
)
def test_a_decoder_on_a_cpu_holds_what_was_estimated(name: str, dtype: str) -> None:
    settings = settings_of(name, f"runtime.dtype={dtype}", "runtime.device=cpu")
    decoder = load_decoder(TINY, RuntimeOptions(CPU, getattr(torch, dtype), CAPACITY))
    method: Method = settings.method.build()
    method.attach(decoder)
    size = sized(settings)
    assert held_bytes(decoder, method) == pytest.approx(size.total_bytes, rel=0.05)
    assert size.buffers.copy_bytes > 0  # or the test would not see it missing


@pytest.mark.parametrize("name", ["autoregressive", *STEPPING, "layerskip", "kangaroo"])
def test_a_decoder_on_a_gpu_holds_what_was_estimated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(*name.split(), "runtime.dtype=float32", "bench.device=h100")
    with PretendedCuda() as device:
        monkeypatch.setattr(loading, "CudaRecorder", lambda _: PretendedRecorder(device))
        monkeypatch.setattr(loading, "require_room", lambda *_: None)  # it asks the driver
        decoder = load_decoder(TINY, RuntimeOptions(CUDA, torch.float32, CAPACITY, "graph"))
        method: Method = settings.method.build()
        method.attach(decoder)
        ids = prompt(60, vocabulary=2048).to(CUDA)
        method.generate(ids, Budget(8, frozenset()), Sampler(Sampling(), CUDA, 0), NoClock())
        if name in STEPPING:  # its longest draft, which random text may not bring about
            decoder.prefill(ids[:4])
            decoder.step(ids[: settings.method.params["draft_length"] + 1], 4)
        decoder.prepare(CAPACITY)
        held = held_bytes(decoder, method)
    size = sized(settings)
    assert held == pytest.approx(size.total_bytes - size.buffers.scratch_bytes, rel=0.03)
    assert logits_held(decoder) <= size.buffers.logits_bytes
    if name in STEPPING:
        assert logits_held(decoder) == size.buffers.logits_bytes


def logits_held(decoder: Any) -> int:
    assert isinstance(decoder, GraphDecoder)
    buffers = [inputs._logits for inputs in decoder._inputs.values() if inputs._logits is not None]
    return sum(buffer.numel() * buffer.element_size() for buffer in buffers)


def test_the_sizes_that_torch_free_arithmetic_repeats_are_those_of_the_runtime() -> None:
    assert buffers.PACKED_SIZE == linear.PACKED_SIZE
    assert buffers.TEMPLATE_ROWS == rows._TEMPLATE_ROWS


def test_passes_are_recorded_up_to_the_longest_draft_or_the_largest_tree() -> None:
    def recorded(*names: str) -> tuple[int, bool]:
        passes = buffers.recorded_passes([settings_of(name).method.params for name in names])
        return passes.rows, passes.has_trees

    assert recorded("autoregressive") == (1, False)
    assert recorded("autoregressive", "prompt_lookup") == (11, False)
    assert recorded("prompt_lookup", "sam") == (40, False)
    assert recorded("prompt_lookup", "medusa") == (MOST_ROWS, True)
    assert recorded("swift") == (MOST_ROWS, True)
    assert row_sizes(11) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12]
    assert row_sizes(500)[-1] == MOST_ROWS


def test_only_passes_on_one_gpu_are_recorded() -> None:
    def logits(*overrides: str) -> int:
        return sized(settings_of("sam", *overrides)).buffers.logits_bytes

    assert logits("bench.device=h100") == 2 * 2048 * sum(row_sizes(40))
    assert logits() == logits("bench.device=h100", "runtime.tier=static") == 0
    assert logits("bench.device=h100", "runtime.devices=2") == 0


def test_a_gpu_needs_no_copies_of_weights_and_a_cpu_says_what_it_copies() -> None:
    on_gpu = sized(settings_of("kangaroo", "bench.device=h100")).buffers
    assert on_gpu.copy_bytes == 0
    assert on_gpu.drafter_bytes == CAPACITY * 2 * 160 * 2
    plain, compiled = (
        sized(settings_of("kangaroo", "runtime.device=cpu", f"runtime.dtype={dtype}"))
        for dtype in ("bfloat16", "float32")
    )
    assert plain.buffers.copy_bytes > 0.9 * plain.weight_bytes
    assert compiled.buffers.copy_bytes == 4 * 2048 * 160  # the head of a tied model


def test_rows_of_the_head_that_drafting_copies_are_copied_again_for_a_cpu() -> None:
    def of(*overrides: str) -> Size:
        return sized(settings_of("layerskip", "runtime.device=cpu", "runtime.dtype=bfloat16", *overrides))

    few, all_rows = of("method.draft_vocab=500"), of("method.draft_vocab=null")
    assert few.module_bytes - all_rows.module_bytes == 2 * 500 * 160
    assert few.buffers.copy_bytes - all_rows.buffers.copy_bytes == 2 * 500 * 160


def test_a_drafter_in_several_files_is_counted_whole(tmp_path: Path) -> None:
    config = config_of("llama", vocab_size=2048)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "whole")
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "cut", max_shard_size="200KB")
    assert len(list((tmp_path / "cut").glob("*.safetensors"))) > 1
    whole, cut = (
        sized(settings_of("two_model", f"method.weights={tmp_path / name}", "bench.device=h100"))
        for name in ("whole", "cut")
    )
    assert whole == cut
    assert cut.module_bytes > 2 * 2048 * 32
    assert cut.buffers.drafter_bytes == CAPACITY * 6 * 2 * 2 * 8 * 2


def test_the_plan_lists_what_its_buffers_are() -> None:
    memory, parts, *_ = outlook_lines(estimate(settings_of("sam", "bench.device=h100")))
    assert "of recorded passes" in parts
    assert "their intermediate results" in parts
    assert "and buffers" in parts
    assert memory.startswith("  memory  about ")


def test_methods_that_fit_by_their_weights_but_not_with_their_buffers_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of("kangaroo", "runtime.device=cpu", "runtime.dtype=bfloat16")
    size = sized(settings)
    room = size.total_bytes - size.buffers.total_bytes
    monkeypatch.setattr(empty_model, "memory_bytes", lambda _: room)
    with pytest.raises(UserError, match="of buffers"):
        require_room_for_all(settings)
    monkeypatch.setattr(empty_model, "memory_bytes", lambda _: size.total_bytes)
    require_room_for_all(settings)
