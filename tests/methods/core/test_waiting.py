"""How often a round waits for the device: once, plus once per draft step that a stopping rule reads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.records.model import Round
from bench.runtime.sampling import Sampler, Sampling
from methods.core.acceptance import accept_tree_typical
from methods.core.trees import Tree
from tests.methods.small import CPU, random_decoder, run
from tests.runtime.reads import Reads
from tests.runtime.tape import taped
from tests.runtime.tiny import built, tiny

pytestmark = pytest.mark.usefixtures("torch_products")
NEW = 16
ROUND: dict[str, Callable[[Round], int]] = {
    "autoregressive": lambda round_: 1,
    "layerskip": lambda round_: 1,
    "prompt_lookup": lambda round_: 1,
    "kangaroo": lambda round_: round_.drafted + 1,  # the confidence of every drafted token
    "medusa": lambda round_: 1,
    "hidden_transfer": lambda round_: 1,
}


@pytest.mark.parametrize("name", ROUND)
def test_a_greedy_round_reads_back_what_is_documented(name: str) -> None:
    decoder, ids = tiny()
    method = built(name, decoder)
    run(method, ids, new=NEW)  # trees cut to the end of the budget are made once
    with Reads() as reads:
        rounds = run(method, ids, new=NEW).rounds
    extra = {"prompt_lookup": 3}.get(name, 1)  # the prefill's token; a lookup reads prompt and token too
    assert reads.total == extra + sum(map(ROUND[name], rounds))
    assert len(rounds) > 1


@pytest.mark.parametrize("name", ["autoregressive", "layerskip", "medusa"])
def test_a_sampled_round_waits_once_as_well(name: str) -> None:
    decoder, ids = tiny()
    method = built(name, decoder)
    with Reads() as reads:
        rounds = run(method, ids, new=NEW, sampling=Sampling(temperature=0.9)).rounds
    assert reads.total == 1 + len(rounds)


def test_typical_acceptance_waits_once() -> None:
    tree = Tree.of_paths([(0,), (1,), (0, 0)])
    logits = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    sampler = Sampler(Sampling(temperature=1.0), CPU, 0)
    tokens = torch.arange(4)
    with Reads() as reads:
        accept_tree_typical(tree, tokens, logits, sampler, epsilon=0.1, delta=0.3)
    assert reads.total == 1


def test_replaying_reads_nothing_back() -> None:
    graphed = taped(random_decoder())
    ids = torch.arange(10)
    with torch.inference_mode(), Reads() as reads:
        graphed.prefill(ids)
        graphed.step(ids[:3], 10)
        graphed.cache.keep(11, torch.tensor([1]))
    assert reads.total == 0


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.tolist(),
        lambda x: x[0].item(),
        lambda x: int(x[0]),
        lambda x: float(x[0]),
        lambda x: bool(x[0]),
        lambda x: [0, 1, 2][x[0]],
        lambda x: 2 in x,
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x[x > 1],
        lambda x: torch.equal(x, x),
    ],
)
def test_every_kind_of_reading_is_counted(read: Callable[[Tensor], object]) -> None:
    values = torch.arange(3)
    with Reads() as reads:
        read(values)
        read(torch.tensor([0, 1, 2])[:3])  # of the host: free
    assert reads.total == 1
