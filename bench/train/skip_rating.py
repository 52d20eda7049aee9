"""How good a set of skipped sub-layers is: what `bench.train.skip_set` maximises.

Shapes: T tokens of a text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.measure.meters import turn_clock
from bench.runtime.decoder import Decoder, Mlp, Skip
from bench.runtime.sampling import Sampler, Sampling
from bench.train.calibration import Continuation
from methods.core.base import Budget, Method
from methods.skipping.sublayer_skip import SkippedModel


def expected_rate(match: float, cost: float, most: int) -> float:
    """Tokens per target step that drafting promises, at the draft length that suits it best.

    A round of K drafted tokens is expected to emit ``(1 - a ** (K + 1)) / (1 - a)`` tokens if each drafted
    token is right with probability a by itself, and costs K draft steps and one verification, which counts
    as a target step. Plain decoding has rate 1.

    Args:
        match: Probability that a drafted token is the target's (a).
        cost: A draft step's cost, in target steps.
        most: Longest draft.
    """
    tokens, best = 1.0, 1.0
    for length in range(1, most + 1):
        tokens += match**length
        best = max(best, tokens / (1 + length * cost))
    return best


def draft_cost(decoder: Decoder, skip: Skip) -> float:
    """Share of a target step's weights that a step with these sub-layers skipped reads, the head included.

    Decoding a single token is bound by reading weights; embeddings are looked up, not read.
    """
    head = decoder.lm_head.parameters
    read = whole = head
    for index, layer in enumerate(decoder.layers):
        attention = layer.attention.qkv.parameters + layer.attention.o.parameters
        mlp = _parameters(layer.mlp)
        whole += attention + mlp
        read += attention * (index not in skip.attention) + mlp * (index not in skip.mlp)
    return read / whole


def _parameters(mlp: Mlp | None) -> int:
    return 0 if mlp is None else mlp.gate_up.parameters + mlp.down.parameters


class TextMatch:
    """How often a skipped model predicts the target's own greedy answers.

    Args:
        decoder: The target.
        texts: Prompts with the target's answers; answers of less than two tokens say nothing.
    """

    def __init__(self, decoder: Decoder, texts: Sequence[Continuation]) -> None:
        self._decoder, self._skipped = decoder, SkippedModel(decoder)
        self._texts = [text for text in texts if text.ids.numel() - text.start > 1]
        self.positions = sum(text.ids.numel() - text.start - 1 for text in self._texts)
        if not self.positions:
            raise ValueError("no answer is long enough to score a set on")

    @torch.inference_mode()
    def __call__(self, skip: Skip) -> float:
        """Share of answer tokens, but for the first of each, that the skipped model predicts.

        The prompt passes through the whole model, the answer through the skipped one, as in a draft.
        """
        hits = 0
        for text in self._texts:
            prompt, answer = text.ids[: text.start], text.ids[text.start :]
            self._decoder.prefill(prompt)
            predicted = self._skipped.predict(answer[:-1], text.start, skip).argmax(dim=-1)  # [T - 1]
            hits += int((predicted == answer[1:]).sum())
        return hits / self.positions


@torch.inference_mode()
def measured_rate(method: Method, texts: Sequence[Continuation], tokens: int) -> float:
    """Tokens per second while a method decodes greedily, pooled over texts: the paper's objective.

    Each set is timed once, as there; whatever else the machine does counts against the set.
    """
    emitted, seconds = 0, 0.0
    for text in texts:
        clock = turn_clock(text.ids.device, has_phases=False)
        sampler = Sampler(Sampling(), text.ids.device, 0)
        with clock:
            got = method.generate(text.ids[: text.start], Budget(tokens, frozenset()), sampler, clock)
        emitted += len(got.ids) - 1
        seconds += clock.timing().decode_s
    return emitted / seconds
