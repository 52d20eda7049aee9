"""Sampled output against the target's own distribution, on a model small enough to enumerate its answers.

The test is sequential, so that no exact method fails for one unlucky stream of random numbers. A stage
samples answers from a fresh stream and computes a p-value. The method passes with the first stage whose
p-value is not small; it fails if that of every stage is, or if it ever gives an answer that the target cannot
give. With S stages at level alpha^(1/S), an exact method fails with probability alpha, whatever else is
proved beside it.
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from bench.prove.certificates import Check, Status
from bench.prove.enumeration import Cells, Fit, enumerate_answers, fit
from bench.prove.targets import accepted_share, as_decoder, random_model
from bench.records.model import Generation
from bench.runtime.decoder import Decoder
from bench.runtime.loading import RuntimeOptions
from bench.runtime.sampling import Sampler, Sampling
from methods.core.base import Budget, Method, NoClock

SETTINGS = (Sampling(1.0), Sampling(0.7, top_k=4), Sampling(1.3, top_p=0.85))
"""Plain, sharpened and cut to the best few, flattened and cut by mass."""

STAGES = 3
VOCABULARY = 12
"""Few enough to enumerate, enough for the widest published tree to take its candidates from."""
SPREAD = 0.25
PROMPT = (3, 7, 3)


class Toy:
    """A model whose answers are enumerated once for all methods.

    Args:
        family: See `bench.prove.targets.random_model`.
        depth: Its layers.
        options: Device and length; a proof about distributions runs in fp32.
        draws: Generations per setting.
        tokens: Tokens per generation.
        seed: Of its weights and of all draws.
    """

    def __init__(
        self, family: str, depth: int, options: RuntimeOptions, *, draws: int, tokens: int, seed: int
    ) -> None:
        self.name = f"random {family} of {depth} layers, {VOCABULARY} ids"
        model = random_model(family, depth, options, vocabulary=VOCABULARY, seed=seed, spread=SPREAD)
        self.decoder: Decoder = as_decoder(model, options)
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
    """Whether answers fit the target's own distribution; an exact method fails with probability `alpha`."""
    level = alpha ** (1 / STAGES)
    fits: list[Fit] = []
    generations: list[Generation] = []
    while len(fits) < STAGES and not _has_settled(fits, level):
        generations += sample(method, toy, sampling, toy.seed + len(fits))
        fits.append(fit(toy.cells(sampling), [answer.ids for answer in generations[-toy.draws :]]))
    drafted, accepted, rounds = accepted_share(generations)
    figures = {
        **asdict(fits[-1]),
        "p_values": [stage.p_value for stage in fits],
        "draws": len(generations),
        "rounds": rounds,
        "drafted": drafted,
        "accepted": accepted,
    }
    is_exact = fits[-1].p_value >= level
    status = Status.PASSED if is_exact else Status.FAILED
    return Check("sampling", words_of(sampling), status, _detail(fits, level), figures)


def _has_settled(fits: list[Fit], level: float) -> bool:
    """Whether the newest stage decides: it fits, or it holds an answer that the target cannot give."""
    return bool(fits) and (fits[-1].p_value >= level or fits[-1].impossible > 0)


@torch.inference_mode()
def sample(method: Method, toy: Toy, sampling: Sampling, seed: int) -> list[Generation]:
    """Generations from one random stream, which the seed decides."""
    sampler = Sampler(sampling, toy.decoder.device, seed)
    budget = Budget(toy.tokens, frozenset())
    return [
        method.generate(toy.prompt, budget, sampler, NoClock()).cut(toy.tokens, budget.eos_ids)
        for _ in range(toy.draws)
    ]


def words_of(sampling: Sampling) -> str:
    """The sampler's settings in words."""
    if not sampling.temperature:
        return "greedy"
    cuts = f", top-k {sampling.top_k}" if sampling.top_k else ""
    cuts += f", top-p {sampling.top_p}" if sampling.top_p < 1 else ""
    return f"temperature {sampling.temperature}{cuts}"


def _detail(fits: list[Fit], level: float) -> str:
    last = fits[-1]
    if last.impossible:
        return f"p 0, {last.impossible} answers that the target never gives"
    values = " then ".join(f"{stage.p_value:.2g}" for stage in fits)
    failed = "" if last.p_value >= level else f", {len(fits)} times below {level:.1g}"
    return f"p {values}{failed} ({last.freedom} df), TV {last.distance:.3f} ({last.noise:.3f} by chance)"
