"""CLaSp: the layers to skip are chosen while decoding, by a dynamic programme, arXiv 2505.24196 (ACL 2025).

The target drafts with M of its layers left out. After a verification a dynamic programme over the layers
chooses which: the table g[i, j] holds the hidden state of the last accepted token after i layers, j of them
skipped, and keeps whichever is closer in cosine to the full model's state x_i there: layer i run on
g[i - 1, j], or g[i - 1, j - 1] unchanged (`methods.skipping.skip_table`). All j run in one pass of a layer
("sequence parallelism"). The set that reaches g[L, M] drafts next. A draft stops after a token of low
confidence.

An independent re-implementation. The authors published no code that we know of; we read the abstract,
summaries of the paper by others, and the re-implementation of CLaSp in KnapSpec's code. Our decisions:
- neither the share of skipped layers nor the interval between choices is known to us for sure; the interval
  follows the paper's remark that good sets persist for a while ("sparse persistence");
- the full model's states are computed again, as the version that skips nothing: one more row per layer, and
  verification needs no other pass than usual;
- the first set is chosen before the first draft, by the prompt's last token;
- the version that reaches j skipped layers may begin with skipped ones, and every layer may be skipped;
- keys and values of drafts and choices go to scratch slots after the committed ones; nothing is copied;
- the draft never exceeds the remaining budget. No set is chosen where no slot is free.
"""

from __future__ import annotations

from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import NO_SKIP, Decoder, Skip
from methods.core.base import Traits
from methods.skipping.chosen_skips import ChosenSkips, Rerun
from methods.skipping.skip_table import fill_table
from methods.skipping.sublayer_skip import skip_of


class Clasp(ChosenSkips):
    """Drafting with whole layers skipped, chosen by the last accepted token.

    Args:
        skip_ratio: Share of the layers that is skipped (M / L), rounded down to whole layers.
        interval: Rounds from one choice to the next; 1 chooses after every verification.
        draft_length: Most tokens drafted per round.
        threshold: Drafting stops after a token whose probability is below this.
        draft_vocab: How many of the most frequent tokens may be drafted; None allows all.
        frequent_tokens: File of the model's tokens by frequency, see `bench.runtime.sampling`.
    """

    name = "clasp"
    traits = Traits(is_reimplementation=True)

    def __init__(
        self,
        *,
        skip_ratio: float,
        interval: int,
        draft_length: int,
        threshold: float,
        draft_vocab: int | None = None,
        frequent_tokens: str | None = None,
    ) -> None:
        super().__init__(draft_length, threshold, 1, draft_vocab, frequent_tokens)
        if not 0 < skip_ratio < 1:
            raise ValueError(f"skip_ratio must lie in (0, 1), got {skip_ratio}")
        if interval < 1:
            raise ValueError(f"interval must be at least 1, got {interval}")
        self._ratio, self._interval = skip_ratio, interval

    def attach(self, decoder: Decoder) -> None:
        super().attach(decoder)
        self._number = int(self._ratio * decoder.depth)
        if not self._number:
            raise UserError(
                f"clasp: skip_ratio {self._ratio} of this model's {decoder.depth} layers is none",
                f"raise method.skip_ratio to at least {1 / decoder.depth:.2g}",
            )

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self.skip = NO_SKIP  # no other prompt's set, should a full cache leave no slot to choose one
        return super().prefill(prompt_ids)

    def is_due(self) -> bool:
        return self._rounds % self._interval == 0

    def choose(self, rerun: Rerun) -> Skip:
        number = self._number
        table = fill_table(
            rerun.start,
            [1] * self._decoder.depth,
            lambda layer, rows: rerun.run(rows, layer),
            budget=number,
            goal_weight=number,
        )
        layers = table.skipped[table.weights.index(number)]
        return skip_of(layers, layers)
