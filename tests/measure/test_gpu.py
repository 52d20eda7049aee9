"""What only a GPU can show: the runtime and the methods on CUDA. Run by ``make gpu``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from bench.compose.schema import RuntimeConfig
from bench.compose.workbench import find_target
from bench.measure.runner import execute
from bench.records.model import Arm, Generation, Verdict
from bench.records.store import load_run, load_samples
from bench.runtime.decoder import Decoder, Tier
from bench.runtime.loading import RuntimeOptions, load_decoder
from bench.runtime.sampling import Sampler, Sampling
from bench.runtime.tiers.graph.decoder import GraphDecoder
from methods.core.base import Budget, Method, NoClock
from tests.harness import save_prompts, save_random_model, settings_for
from tests.methods.core.test_waiting import ROUND
from tests.runtime.tiers.test_graphs import METHODS
from tests.runtime.tiny import built, settings

pytestmark = pytest.mark.gpu
TIERS: tuple[Tier, ...] = ("eager", "static", "graph")
NEW = 64


@cache
def tiny_on(tier: Tier) -> tuple[Decoder, list[Tensor]]:
    """The embedded model on CUDA in fp32, and prompts."""
    runtime = RuntimeConfig(device="cuda", dtype="float32", tier=tier)
    target = find_target(settings("autoregressive").model, runtime)
    return target.load(None), target.prompts(3)


@torch.inference_mode()
def decode(method: Method, ids: Tensor, sampling: Sampling | None = None) -> Generation:
    sampler = Sampler(sampling or Sampling(), ids.device, 0)
    return method.generate(ids, Budget(NEW, frozenset()), sampler, NoClock())


@contextmanager
def counted_waits() -> Iterator[list[str]]:
    """Messages of every operation that made the host wait for the device."""
    messages: list[str] = []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield messages
    finally:
        torch.cuda.set_sync_debug_mode("default")
        messages += [str(warning.message) for warning in caught if "synchroniz" in str(warning.message)]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2), (torch.float16, 0.05)]
)
def test_logits_on_cuda_are_those_of_transformers(
    tmp_path: Path, dtype: torch.dtype, tolerance: float, tier: Tier
) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    folder = save_random_model(tmp_path)
    cuda = torch.device("cuda")
    decoder = load_decoder(folder, RuntimeOptions(cuda, dtype, 256, tier))
    oracle = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).to(cuda)
    ids = torch.randint(300, (40,), device=cuda)
    with torch.inference_mode():
        expected = oracle(ids[None]).logits[0]
        decoder.prefill(ids[:20])
        stepped = [decoder.step(ids[i : i + 4], i) for i in range(20, 40, 4)]
    torch.testing.assert_close(torch.cat(stepped).float(), expected[20:], atol=tolerance, rtol=0)


@pytest.mark.parametrize("tier", TIERS)
def test_a_run_on_cuda_in_fp32_is_exact(tmp_path: Path, tier: Tier) -> None:
    model = save_random_model(tmp_path / "model")
    prompts = save_prompts(tmp_path / "prompts.jsonl", ["Tell me a story.", "And?"], ["What is the capital?"])
    overrides = ["runtime.device=cuda", "runtime.dtype=float32", f"runtime.tier={tier}"]
    outcome = execute(settings_for(model, prompts, tmp_path / "results", *overrides))
    samples = [sample for sample in load_samples(outcome.run_dir) if sample.arm is Arm.METHOD]
    assert outcome.failures == 0
    assert {sample.equivalence.verdict for sample in samples if sample.equivalence} <= {
        Verdict.EXACT,
        Verdict.TIE_EXPLAINED,
    }
    assert load_run(outcome.run_dir).labels["tier"] == tier


@pytest.mark.parametrize("name", METHODS)
def test_replayed_graphs_give_the_ids_of_the_static_tier(name: str) -> None:
    (static, prompts), (graphed, _) = tiny_on("static"), tiny_on("graph")
    plain, replayed = built(name, static), built(name, graphed)
    assert [decode(replayed, ids).ids for ids in prompts] == [decode(plain, ids).ids for ids in prompts]


@pytest.mark.parametrize("tier", ["static", "graph"])
@pytest.mark.parametrize("name", [name for name in ROUND if name != "prompt_lookup"])
def test_a_round_waits_for_the_device_as_often_as_documented(name: str, tier: Tier) -> None:
    decoder, prompts = tiny_on(tier)
    method = built(name, decoder)
    for _ in range(2):  # the first may record, and make trees cut to the end of the budget
        with counted_waits() as waits:
            rounds = decode(method, prompts[0]).rounds
    assert len(waits) <= 1 + sum(map(ROUND[name], rounds)), waits


@pytest.mark.parametrize("tier", ["static", "graph"])
@pytest.mark.parametrize("name", ROUND)
def test_steady_decoding_allocates_no_memory(name: str, tier: Tier) -> None:
    decoder, prompts = tiny_on(tier)
    method = built(name, decoder)
    for ids in prompts:
        decode(method, ids)
    decoder.prepare(max(map(len, prompts)) + NEW)
    for ids in prompts:
        decode(method, ids)
    before = _device_memory()
    for ids in prompts * 2:
        decode(method, ids)
    assert _device_memory() == before


def test_a_prepared_decoder_records_nothing_while_it_decodes() -> None:
    target = find_target(settings("kangaroo").model, RuntimeConfig(device="cuda", tier="graph"))
    decoder, prompts = target.load(None), target.prompts(3)
    method = built("kangaroo", decoder)
    decode(method, prompts[0])
    decoder.prepare(max(map(len, prompts)) + NEW)
    assert isinstance(decoder, GraphDecoder)
    before = decoder.tally.recorded
    for ids in prompts:
        decode(method, ids)
    assert decoder.tally.recorded == before


def _device_memory() -> tuple[int, int]:
    """Bytes that PyTorch holds, and how often it asked the driver for some."""
    torch.cuda.synchronize()
    return torch.cuda.memory_reserved(), torch.cuda.memory_stats()["num_device_alloc"]
