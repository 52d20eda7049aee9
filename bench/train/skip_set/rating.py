"""Scores of a set of skipped sub-layers, which the search maximises.

Shapes: T tokens of a text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.measure.meters import turn_clock
from bench.runtime.decoder import Decoder, Skip
from bench.runtime.linear import Linear
from bench.runtime.sampling import Sampler, Sampling
from bench.runtime.sublayer_costs import mlp_parameters
from bench.train.data.heldout import Continuation
from methods.core.base import Budget, Method
from methods.skipping.sublayer_skip import SkippedModel


def expected_rate(match: float, cost: float, most: int) -> float:
    """Expected tokens per target step at the best draft length of at least 1; plain decoding has rate 1.

    If each drafted token is right with probability a, independently of the others, a round of K drafted
    tokens emits ``(1 - a ** (K + 1)) / (1 - a)`` tokens on average. It costs K draft steps and one
    verification, which counts as one target step.

    Args:
        match: Probability a that a drafted token is the target's.
        cost: Cost of a draft step, in target steps.
        most: Longest draft.
    """
    tokens, best = 1.0, 0.0
    for length in range(1, most + 1):
        tokens += match**length
        best = max(best, tokens / (1 + length * cost))
    return best


def draft_cost(decoder: Decoder, skip: Skip, head: Linear | None = None) -> float:
    """Weights read by a step that skips these sub-layers, as a share of those of a target step.

    Decoding a single token is bound by reading weights. The head counts; the embedding does not, because only
    one row of it is read.

    Args:
        decoder: The target.
        skip: What a draft step leaves out.
        head: The head that drafts; None is the target's own.
    """
    whole = decoder.lm_head.parameters
    read = (head or decoder.lm_head).parameters
    for index, layer in enumerate(decoder.layers):
        attention = layer.attention.qkv.parameters + layer.attention.o.parameters
        mlp = mlp_parameters(layer.mlp)
        whole += attention + mlp
        read += attention * (index not in skip.attention) + mlp * (index not in skip.mlp)
    return read / whole


class TextMatch:
    """How often the target with skipped sub-layers predicts the target's own greedy answers.

    Args:
        decoder: The target.
        texts: Prompts with the target's answers; answers of less than two tokens are ignored.
    """

    def __init__(self, decoder: Decoder, texts: Sequence[Continuation]) -> None:
        self._decoder, self._skipped = decoder, SkippedModel(decoder)
        self._texts = [text for text in texts if text.ids.numel() - text.start > 1]
        self.positions = sum(text.ids.numel() - text.start - 1 for text in self._texts)
        if not self.positions:
            raise ValueError("no answer is long enough to score a set on")

    @torch.inference_mode()
    def __call__(self, skip: Skip) -> float:
        """Share of answer tokens, without the first of each answer, that the model predicts.

        As in drafting, the prompt goes through the whole model and the answer through the reduced one.
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
    """Tokens per second of a method's greedy decoding over all texts: the paper's objective.

    As in the paper, each set is timed once, so other load on the machine lowers its rate.
    """
    emitted, seconds = 0, 0.0
    for text in texts:
        clock = turn_clock(text.ids.device, has_phases=False)
        sampler = Sampler(Sampling(), text.ids.device, 0)
        with clock:
            result = method.generate(text.ids[: text.start], Budget(tokens, frozenset()), sampler, clock)
        emitted += len(result.ids) - 1
        seconds += clock.timing().decode_s
    return emitted / seconds
