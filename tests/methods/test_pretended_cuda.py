"""Every method on a CUDA device that is not there: the ids of the CPU, and no more waits, uploads and
launches than its page in the docs says.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from bench.compose.components import Component
from bench.records.model import Generation, Round
from bench.runtime import loading
from bench.runtime.decoder import Tier
from bench.runtime.sampling import Sampler, Sampling
from bench.runtime.tiers.graph import lengths
from bench.runtime.tiers.graph.decoder import GraphDecoder
from methods.core.base import Budget, Method, NoClock, Stateful
from tests.harness import CONF, ROOT
from tests.methods.options import first_fit, settings_of
from tests.methods.small import config_of, prompt
from tests.runtime.pretended_cuda.device import PretendedCuda
from tests.runtime.pretended_cuda.models import VOCABULARY, decoder_on
from tests.runtime.pretended_cuda.recorder import PretendedRecorder
from tests.runtime.pretended_cuda.tensors import CUDA

pytestmark = pytest.mark.usefixtures("torch_products")
CPU = torch.device("cpu")
PAGES = ROOT / "docs" / "methods"
LOADING = {path.stem for path in (CONF / "method").glob("*moe*.yaml")}
"""Methods for mixtures of experts: ``tests/runtime/test_pinned_memory.py`` has them on such a device."""
METHODS = sorted({path.stem for path in (CONF / "method").glob("*.yaml")} - LOADING)
DEPTHS = (3, 6, 9, 16)
"""Of the random models; a method that names deeper layers than the first has takes a deeper one."""
PROMPT, NEW = 12, 16
CHANGES = {
    "swift": ["method.window=4"],
    "hamburger": ["method.confidence=0.001"],
    "draft_verify": ["method.skip_attention=[1]", "method.skip_mlp=[1]"],
}
"""Settings with which a short answer of a small model shows all of a method: a search, long groups."""
WITHOUT_CHAINS = {"hamburger_reference", "hidden_transfer", "lookahead", "medusa", "token_recycling"}
"""Methods that verify trees alone, or record no pass of the target."""
TERM = r"(?:(\d+)(?: \+ (?:(\d+) )?(D))?|(?:(\d+) )?(D))"
BOUNDS = re.compile(
    rf"\*\*On a GPU\*\*, per round of D draft steps: at most {TERM} waits?, {TERM} uploads?, {TERM} launch"
)


@dataclass(frozen=True)
class Bound:
    """A number of events per round.

    Args:
        fixed: For every round.
        per_step: For each of its draft steps.
    """

    fixed: int
    per_step: int

    def of(self, rounds: tuple[Round, ...]) -> int:
        return sum(self.fixed + self.per_step * step.depth for step in rounds)


def page_of(name: str) -> Path:
    """The method's page; a variant without one is described on the page of the method it derives from."""
    page = PAGES / f"{name}.md"
    if page.is_file():
        return page
    content: Any = OmegaConf.load(CONF / "method" / f"{name}.yaml")
    return page_of(next(entry for entry in content.defaults if isinstance(entry, str) and entry != "_self_"))


def bounds_of(name: str) -> dict[str, Bound]:
    """Waits, uploads and launches per round, as the method's page states them."""
    match = BOUNDS.search(" ".join(page_of(name).read_text(encoding="utf-8").split()))
    assert match is not None, f"{page_of(name).name} does not say what a round costs on a GPU"
    groups = [match.groups()[start : start + 5] for start in (0, 5, 10)]
    terms = [
        Bound(int(fixed or 0), int(many or few or 1) if (is_added or is_alone) else 0)
        for fixed, many, is_added, few, is_alone in groups
    ]
    return dict(zip(("waits", "uploads", "launches"), terms, strict=True))


@dataclass(frozen=True)
class Expected:
    """A method with random modules, and what it decodes on the CPU."""

    method: Component
    depth: int
    answer: Generation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("modules")


@cache
def expected(name: str, folder: Path) -> Expected:
    configs = [config_of("llama", vocab_size=VOCABULARY, num_hidden_layers=depth) for depth in DEPTHS]
    models = [
        (json.loads(config.to_json_string(use_diff=False)), partial(decoder_on, depth, CPU, "static"))
        for config, depth in zip(configs, DEPTHS, strict=True)
    ]
    fitted, subject = first_fit(settings_of(name, *CHANGES.get(name, [])).method, folder / name, models)
    return Expected(fitted, subject.decoder.depth, answer(subject.method, CPU, NoClock()))


class CountFromFirstToken(NoClock):
    """Forgets what the prefill cost."""

    def __init__(self, device: PretendedCuda) -> None:
        self._device = device

    def first_token(self) -> None:
        self._device.clear()


def answer(method: Method, device: torch.device, clock: NoClock) -> Generation:
    """One answer, as of a method that has seen no prompt yet."""
    if isinstance(method, Stateful):
        method.reset()
    ids = prompt(PROMPT, vocabulary=VOCABULARY).to(device)
    with torch.inference_mode():
        return method.generate(ids, Budget(NEW, frozenset()), Sampler(Sampling(), device, 0), clock)


def ways(name: str) -> list[tuple[Tier, str]]:
    """Tiers on one such device, and how recorded chains attend, which methods take in turn; over two devices,
    every method has the other of static and eager passes.
    """
    recorded: tuple[Tier, str] = ("graph", "masked" if METHODS.index(name) % 2 else "lengths")
    return [recorded] if tier_over_two(name) == "static" else [("static", "auto"), recorded]


def tier_over_two(name: str) -> Tier:
    return "static" if METHODS.index(name) % 4 < 2 else "eager"


@pytest.mark.parametrize(
    ("name", "tier", "attention"), [(name, *way) for name in METHODS for way in ways(name)]
)
def test_a_method_decodes_on_cuda_as_on_the_cpu_and_waits_as_its_page_says(
    name: str, tier: Tier, attention: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = expected(name, folder)
    monkeypatch.setattr(lengths, "HALF_PRECISIONS", (torch.float32,))  # the pretended kernel takes any
    with PretendedCuda() as device:
        monkeypatch.setattr(loading, "CudaRecorder", lambda _: PretendedRecorder(device))
        decoder = decoder_on(wanted.depth, CUDA, tier)
        if isinstance(decoder, GraphDecoder):
            decoder.attend_by(attention)  # without the checks of test_chain_attention.py
        method: Method = wanted.method.build()
        method.attach(decoder)
        answer(method, CUDA, NoClock())  # what is made once, recordings among it
        decoder.prepare(PROMPT + NEW)
        device.flash_runs = 0
        answered = answer(method, CUDA, CountFromFirstToken(device))
    assert (device.flash_runs > 0) == (attention == "lengths" and name not in WITHOUT_CHAINS)
    assert (answered.ids, answered.rounds) == (wanted.answer.ids, wanted.answer.rounds)
    bounds, rounds = bounds_of(name), answered.rounds
    assert device.waits.total() <= 1 + bounds["waits"].of(rounds), device.waits  # 1: the prefill's token
    assert device.uploads.total() <= bounds["uploads"].of(rounds), device.uploads
    if tier == "graph":
        assert device.launches.total() <= bounds["launches"].of(rounds), device.launches


@pytest.mark.parametrize("name", METHODS)
def test_a_method_decodes_over_two_devices_as_on_one(name: str, folder: Path) -> None:
    """Each device refuses operands of the other; home is the GPU for every second method, else the CPU."""
    wanted = expected(name, folder)
    home, other = (CUDA, CPU) if METHODS.index(name) % 2 else (CPU, CUDA)
    first = wanted.depth // 2
    with PretendedCuda():
        places = (home,) * first + (other,) * (wanted.depth - first)
        method: Method = wanted.method.build()
        method.attach(decoder_on(wanted.depth, home, tier_over_two(name), layer_devices=places))
        answered = answer(method, home, NoClock())
    assert (answered.ids, answered.rounds) == (wanted.answer.ids, wanted.answer.rounds)


@pytest.mark.gpu
@pytest.mark.parametrize("tier", ["eager", "static", "graph"])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_decodes_on_a_real_gpu_as_on_the_cpu(name: str, tier: Tier, folder: Path) -> None:
    wanted, device = expected(name, folder), torch.device("cuda")
    method: Method = wanted.method.build()
    method.attach(decoder_on(wanted.depth, device, tier))
    answer(method, device, NoClock())
    assert answer(method, device, NoClock()).ids == wanted.answer.ids
