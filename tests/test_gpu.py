"""What only a GPU can show: the runtime and the methods on CUDA. Run by ``make gpu``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from bench.records import Arm, Verdict
from bench.runner import execute
from bench.runtime.loading import RuntimeOptions, load_decoder
from bench.store import load_samples
from tests.harness import save_prompts, save_random_model, settings_for

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2), (torch.float16, 0.05)]
)
def test_logits_on_cuda_are_those_of_transformers(
    tmp_path: Path, dtype: torch.dtype, tolerance: float
) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    folder = save_random_model(tmp_path)
    cuda = torch.device("cuda")
    decoder = load_decoder(folder, RuntimeOptions(cuda, dtype, 256))
    oracle = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).to(cuda)
    ids = torch.randint(300, (40,), device=cuda)
    with torch.inference_mode():
        expected = oracle(ids[None]).logits[0]
        decoder.prefill(ids[:20])
        stepped = [decoder.step(ids[i : i + 4], i) for i in range(20, 40, 4)]
    torch.testing.assert_close(torch.cat(stepped).float(), expected[20:], atol=tolerance, rtol=0)


def test_a_run_on_cuda_in_fp32_is_exact(tmp_path: Path) -> None:
    model = save_random_model(tmp_path / "model")
    prompts = save_prompts(tmp_path / "prompts.jsonl", ["Tell me a story.", "And?"], ["What is the capital?"])
    wanted = ["runtime.device=cuda", "runtime.dtype=float32"]
    outcome = execute(settings_for(model, prompts, tmp_path / "results", *wanted))
    samples = [one for one in load_samples(outcome.run_dir) if one.arm is Arm.METHOD]
    assert outcome.failures == 0
    assert {one.equivalence.verdict for one in samples if one.equivalence} <= {
        Verdict.EXACT,
        Verdict.TIE_EXPLAINED,
    }
