"""A fixed battery of decodes: code that decodes it alike keeps a method's certificate.

Random models of every family, greedy and sampled; answers of one, two and three tokens; an end token in the
middle; a cache with hardly any room left for drafts; the configured model with its shipped modules. The
transcript of a decode is a hash of its ids, its rounds and its counts, made with one thread in float32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from bench.compose.components import Component
from bench.errors import UserError
from bench.prove.models import Models
from bench.prove.sampling import SETTINGS, words_of
from bench.prove.subject import attach_shipped
from bench.prove.targets import CONTEXT, FAMILIES, Target
from bench.records.model import Generation
from bench.runtime.sampling import Sampler, Sampling
from methods.core.base import Budget, Method, NoClock, Stateful

GREEDY = Sampling()
SHORT_BUDGETS = (1, 2, 3)
END_AT = 9
"""Index of the greedy token that ends an answer of the battery."""
ROOM = 12
"""Cache slots left by the longest prompt of the battery."""
SHIPPED_PROMPTS = 2
DIGITS = 12


@dataclass(frozen=True, slots=True)
class Decode:
    """One entry of the battery.

    Args:
        name: What the transcript calls it.
        prompt: Token ids, shape [P].
        budget: When the answer ends.
        sampling: How tokens are chosen.
    """

    name: str
    prompt: Tensor
    budget: Budget
    sampling: Sampling


def transcript(component: Component, models: Models, seed: int) -> dict[str, str]:
    """Decode the battery with a method: a hash per entry. Models that the method refuses are left out."""
    hashes: dict[str, str] = {}
    for family in FAMILIES:
        try:
            method, target = models.fitted(component, family, "fp32")
        except UserError:
            continue
        hashes |= _decode_all(method, _random_entries(target), seed)
    try:
        target = models.configured("fp32")
        method = attach_shipped(component, target.decoder)
    except UserError:
        return hashes
    return hashes | _decode_all(method, _shipped_entries(target), seed)


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Entries whose transcripts differ, or that only one side has."""
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def _random_entries(target: Target) -> Iterator[Decode]:
    """What is decoded on a random model."""
    for index, prompt in enumerate(target.prompts):
        for sampling in (GREEDY, *SETTINGS):
            yield Decode(
                f"{target.name}, prompt {index}, {words_of(sampling)}", prompt, target.budget, sampling
            )
    prompt, answer = target.prompts[-1], target.answers[-1]
    for tokens in SHORT_BUDGETS:
        budget = replace(target.budget, max_new_tokens=tokens)
        yield Decode(f"{target.name}, {tokens} tokens", prompt, budget, SETTINGS[0])
    ended = Budget(target.budget.max_new_tokens, frozenset({answer[END_AT]}))
    yield Decode(f"{target.name}, end token", prompt, ended, GREEDY)
    text = torch.cat([prompt, prompt.new_tensor(answer)])
    filled = text.repeat(CONTEXT // text.numel() + 1)[: CONTEXT - ROOM]
    yield Decode(f"{target.name}, full cache", filled, Budget(ROOM, frozenset()), GREEDY)


def _shipped_entries(target: Target) -> Iterator[Decode]:
    """What is decoded on the configured model."""
    for index, prompt in enumerate(target.prompts[:SHIPPED_PROMPTS]):
        for sampling in (GREEDY, SETTINGS[0]):
            yield Decode(
                f"{target.name}, prompt {index}, {words_of(sampling)}", prompt, target.budget, sampling
            )


def _name(target: Target, prompt: int, sampling: Sampling) -> str:
    return f"{target.name}, prompt {prompt}, {words_of(sampling)}"


@torch.inference_mode()
def _decode_all(method: Method, entries: Iterator[Decode], seed: int) -> dict[str, str]:
    hashes = {}
    for entry in entries:
        if isinstance(method, Stateful):
            method.reset()
        sampler = Sampler(entry.sampling, entry.prompt.device, seed)
        hashes[entry.name] = _hash(method.generate(entry.prompt, entry.budget, sampler, NoClock()))
    return hashes


def _hash(generation: Generation) -> str:
    """A hash of ids, rounds and counts; the word for why a draft ended may change."""
    fields = asdict(generation)
    for round_ in fields["rounds"]:
        del round_["stop"]
    text = json.dumps({key: fields[key] for key in ("ids", "rounds", "counts")}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
