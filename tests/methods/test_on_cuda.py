"""Every method on a CUDA device that is not there: same ids as on the CPU, and no more waits than documented.

The bounds stand in the methods' pages, ``docs/methods/*.md``, in a line that begins with `BOUND`. They hold
for the graph tier, per round, over the second answer of a small random model with random modules, whose
drafts are seldom right: what a method does in a round hardly depends on that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.records.model import Generation
from bench.runtime import loading
from bench.runtime.decoder import Decoder, Tier
from bench.runtime.loading import RuntimeOptions, build_decoder
from bench.runtime.sampling import Sampler, Sampling
from methods.core.base import Budget, Method, NoClock
from tests.harness import ROOT
from tests.methods.options import VOCABULARY, attached, options, settings_of
from tests.methods.small import config_of, prompt
from tests.runtime.pretended_cuda import CUDA, PretendedCuda, TapeOnCuda

pytestmark = pytest.mark.usefixtures("torch_products")
BOUND = "**On a GPU**"
NUMBERS = re.compile(r"at most ([\d.]+) waits?, ([\d.]+) uploads? and ([\d.]+) launches")
CAPACITY = 256
NEW: dict[Tier, int] = {"static": 8, "graph": 24}
"""Tokens of an answer on the pretended device; costs are counted on the graph tier alone."""


@dataclass(frozen=True)
class Costs:
    """What a round costs the host on average: waits for the device, uploads, launches."""

    waits: float
    uploads: float
    launches: float

    @classmethod
    def of(cls, device: PretendedCuda, rounds: int) -> Costs:
        counts = (device.waits, device.uploads, device.launches)
        return cls(*(sum(count.values()) / rounds for count in counts))


def decoder_on(device: torch.device, depth: int, tier: Tier) -> Decoder:
    """The random model of `tests.methods.options` on a device."""
    torch.manual_seed(0)
    config = config_of("llama", vocab_size=VOCABULARY, num_hidden_layers=depth)
    state = AutoModelForCausalLM.from_config(config).state_dict()
    tensors = {name: value.clone().to(device) for name, value in state.items()}
    return build_decoder(config, tensors, RuntimeOptions(device, torch.float32, CAPACITY, tier))


def decoded(method: Method, ids: torch.Tensor, new: int) -> Generation:
    with torch.inference_mode():
        return method.generate(ids, Budget(new, frozenset()), Sampler(Sampling(), ids.device, 0), NoClock())


def bound_of(option: str) -> Costs:
    """The bound in a method's page; a variant of a method has its page and its bound."""
    text = (
        ROOT / "docs" / "methods" / f"{option.partition('/')[0].partition('_reference')[0]}.md"
    ).read_text()
    line = next((line for line in text.splitlines() if line.startswith(BOUND)), "")
    found = NUMBERS.search(line)
    assert found, f"the page of {option} has no line {BOUND} with its bound"
    return Costs(*map(float, found.groups()))


@pytest.mark.parametrize("tier", ["static", "graph"])
@pytest.mark.parametrize("option", options())
def test_same_ids_and_no_more_waits_than_documented(
    option: str, tier: Tier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    component, subject = attached(settings_of(option).method, tmp_path, tier="static")
    expected = [decoded(subject.method, prompt(vocabulary=VOCABULARY), NEW[tier]) for _ in range(2)]
    monkeypatch.setattr(loading, "require_room", lambda *_: None)
    with PretendedCuda() as device:
        monkeypatch.setattr(loading, "CudaRecorder", lambda _: TapeOnCuda(device))
        method: Method = component.build()
        method.attach(decoder_on(CUDA, subject.decoder.depth, tier))
        ids = prompt(vocabulary=VOCABULARY).to(CUDA)
        got = [decoded(method, ids, NEW[tier])]
        device.clear()
        got.append(decoded(method, ids, NEW[tier]))
        costs = Costs.of(device, max(1, len(got[1].rounds)))
    assert [generation.ids for generation in got] == [generation.ids for generation in expected]
    if tier == "graph":
        bound = bound_of(option)
        assert costs.waits <= bound.waits, device.waits.most_common()
        assert costs.uploads <= bound.uploads, device.uploads.most_common()
        assert costs.launches <= bound.launches, device.launches.most_common()


@pytest.mark.gpu
@pytest.mark.parametrize("tier", ["eager", "static", "graph"])
@pytest.mark.parametrize("option", options())
def test_same_ids_on_a_real_gpu(option: str, tier: Tier, tmp_path: Path) -> None:
    component, subject = attached(settings_of(option).method, tmp_path, tier="static")
    ids = prompt(vocabulary=VOCABULARY)
    expected = [decoded(subject.method, ids, NEW["graph"]).ids for _ in range(2)]
    device = torch.device("cuda")
    method: Method = component.build()
    method.attach(decoder_on(device, subject.decoder.depth, tier))
    assert [decoded(method, ids.to(device), NEW["graph"]).ids for _ in range(2)] == expected
