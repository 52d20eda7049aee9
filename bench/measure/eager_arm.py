"""The second baseline: plain decoding by a textbook loop, whose speed papers report their speedups over."""

from __future__ import annotations

from bench.runtime.decoder import Decoder
from bench.runtime.tiers.eager import EagerDecoder
from methods.core.autoregressive import Autoregressive


class EagerLoop(Autoregressive):
    """Autoregressive decoding by `EagerDecoder`, whatever the tier of the target it is attached to.

    Weights and cache are the target's own, as they are every arm's: each generation begins by emptying the
    cache. So the arm takes no memory that the peaks of the other arms would show.
    """

    def attach(self, decoder: Decoder) -> None:
        super().attach(EagerDecoder(decoder.weights, decoder.cache, decoder.placement))
