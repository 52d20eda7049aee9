"""Plain autoregressive decoding, one token per target pass: the baseline of every comparison."""

from __future__ import annotations

from torch import Tensor

from bench.records.model import Generation, Round
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler
from bench.runtime.tiers.eager import EagerDecoder
from methods.core.base import Budget, Clock, Lossless

_ONE_TOKEN = Round(drafted=0, accepted=0, emitted=1, depth=0, stop="length")


class Autoregressive(Lossless):
    """Decodes with the shared runtime and nothing else. The shortest example of
    `methods.core.base.Method`.
    """

    def attach(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        decoder = self._decoder
        token = sampler.pick(decoder.prefill(prompt_ids))  # [1]
        ids = token.tolist()
        clock.first_token()
        base = prompt_ids.numel()
        while not budget.is_over(ids, 1):
            with clock.phase("verify"):
                token = sampler.pick(decoder.step(token, base))
                ids.append(int(token))
            base += 1
        return Generation(tuple(ids), (_ONE_TOKEN,) * (len(ids) - 1))


class EagerLoop(Autoregressive):
    """The second baseline: plain decoding with a textbook loop, the kind that papers report speedups over.

    It decodes with an `EagerDecoder`, whatever the tier of the target. Weights and cache are the target's
    own, like those of every arm; each generation first empties the cache. So this arm adds no memory to the
    peaks of the other arms.
    """

    def attach(self, decoder: Decoder) -> None:
        super().attach(EagerDecoder(decoder.weights, decoder.cache, decoder.placement))
