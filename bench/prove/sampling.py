"""Sampled output against the target's own distribution, on a model small enough to enumerate its answers."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from bench.prove.certificates import Check, Status
from bench.prove.enumeration import Cells, Fit, enumerate_answers, fit
from bench.prove.targets import NoClock, accepted_share, random_decoder
from bench.records.model import Generation
from bench.runtime.decoder import Decoder
from bench.runtime.loading import RuntimeOptions
from bench.runtime.sampling import Sampler, Sampling
from methods.core.base import Budget, Method

SETTINGS = (Sampling(1.0), Sampling(0.7, top_k=4), Sampling(1.3, top_p=0.85))
"""Plain, sharpened and cut to the best few, flattened and cut by mass."""

VOCABULARY = 12
"""Few enough to enumerate, enough for the widest published tree to take its candidates from."""
SPREAD = 0.25
PROMPT = (3, 7, 3)


class Toy:
    """A model whose answers are enumerated once for all methods.

    Args:
        depth: Its layers.
        options: Device and length; a proof about distributions runs in fp32.
        draws: Generations per setting.
        tokens: Tokens per generation.
        seed: Of its weights and of all draws.
    """

    def __init__(self, depth: int, options: RuntimeOptions, *, draws: int, tokens: int, seed: int) -> None:
        self.name = f"random llama of {depth} layers, {VOCABULARY} ids"
        self.decoder: Decoder = random_decoder(
            "llama", depth, options, vocabulary=VOCABULARY, seed=seed, spread=SPREAD
        )
        self.prompt: Tensor = torch.tensor(PROMPT, device=options.device)
        self.draws, self.tokens, self.seed = draws, tokens, seed
        self._cells: dict[Sampling, Cells] = {}

    def cells(self, sampling: Sampling) -> Cells:
        """The true distribution of answers under these settings."""
        if sampling not in self._cells:
            sampler = Sampler(sampling, self.decoder.device, 0)
            self._cells[sampling] = enumerate_answers(
                self.decoder, self.prompt, sampler, self.tokens, self.draws
            )
        return self._cells[sampling]


def check_sampling(method: Method, toy: Toy, sampling: Sampling, alpha: float) -> Check:
    """Whether `toy.draws` seeded generations fit the target's own distribution at level `alpha`."""
    generations = sample(method, toy, sampling)
    found = fit(toy.cells(sampling), [one.ids for one in generations])
    drafted, accepted, rounds = accepted_share(generations)
    figures = {
        **asdict(found),
        "draws": toy.draws,
        "rounds": rounds,
        "drafted": drafted,
        "accepted": accepted,
    }
    status = Status.PASSED if found.p_value >= alpha else Status.FAILED
    return Check("sampling", told(sampling), status, _detail(found, alpha), figures)


@torch.inference_mode()
def sample(method: Method, toy: Toy, sampling: Sampling) -> list[Generation]:
    """Generations from one random stream, which the seed decides."""
    sampler = Sampler(sampling, toy.decoder.device, toy.seed)
    budget = Budget(toy.tokens, frozenset())
    return [
        method.generate(toy.prompt, budget, sampler, NoClock()).cut(toy.tokens, budget.eos_ids)
        for _ in range(toy.draws)
    ]


def told(sampling: Sampling) -> str:
    """The settings in words."""
    cuts = f", top-k {sampling.top_k}" if sampling.top_k else ""
    cuts += f", top-p {sampling.top_p}" if sampling.top_p < 1 else ""
    return f"temperature {sampling.temperature}{cuts}"


def _detail(found: Fit, alpha: float) -> str:
    if found.impossible:
        return f"p 0, {found.impossible} answers that the target never gives"
    verdict = "" if found.p_value >= alpha else f", below {alpha:.1g}"
    return (
        f"p {found.p_value:.2g}{verdict} ({found.freedom} df), "
        f"TV {found.distance:.3f} ({found.noise:.3f} by chance)"
    )
