"""HAMburger: several tokens per pass of a tuned model, merged into one cache entry; arXiv 2505.20438.

A pass of the model gives the first token of a group from its own LM head (a *macro-step*). A micro-step
decoder adds up to K - 1 tokens until its stop head ends the group. The next pass reads the whole group as one
entry: the compositional embedder merges its embeddings (sections 3.1 to 3.3). Nothing is verified, the
history is stored merged, and the model itself is tuned for this, so the output is that of another model:
LOSSY, whatever the settings. With `confidence` above 1 every group is one token and the output is the tuned
model's plain decoding, which shows what tuning alone has changed.

A worked round after a prompt of 10 tokens, at positions and cache slots 0 to 9:

    root       the prompt's last row chose "The"
    draft      micro-steps add "cat" and "sat"; the stop head ends the group
    next pass  reads "The cat sat" as one entry: slot 10, position 12, that of its last token; chooses "on"
    record     drafted 2, accepted 2, emitted 3 ("cat", "sat", "on")
    cache      11 entries, for 13 of the 14 tokens of the text

All drafted tokens of a round count as accepted, since nothing verifies them. If the text ends inside a group,
no pass follows. The cache grows by one entry a pass (``kv_entries`` of `Generation.counts`); with
``merge_delay`` it also holds the single tokens of the newest groups (`methods.hamburger.history`).

Differs from the authors' code in:
- the output ends after the first end token and at exactly `max_new_tokens`, also inside a group;
- the position of a merged entry is that of its last token, as in training; `hf_compat` shifts it by one, as
  their quality figures did;
- sampling is supported: every token is drawn from its own distribution, the stop rule is unchanged;
- with ``merge_delay``, a group is read token by token first and merged later;
- training: see `methods.hamburger.module` and `methods.hamburger.trainer`.

Shapes: P prompt tokens, K most tokens of a group, s tokens of a group, F features, d width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bench.errors import UserError
from bench.records.model import Generation, Round
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler
from methods.core.base import Budget, Clock, Exactness, ModelTrainer, Traits
from methods.core.chain import Draft
from methods.hamburger.checkpoint import Checkpoint, load_checkpoint
from methods.hamburger.decoder import Merge, MicroDecoder, features_at, new_taps
from methods.hamburger.history import History

SHIFTS = {"last_token": 0, "hf_compat": 1}
"""Position of a merged entry, relative to that of its last token."""


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """What `methods.hamburger.trainer` needs; decoding with trained weights reads none of it.

    Args:
        max_group: Most tokens of a group (K).
        micro_layers: Layers of the micro-step decoder.
        micro_mlp_width: Inner width of their MLPs; None is the model's own.
        rank: Of low-rank changes that tune the base; None tunes all of its weights.
        floor: Nats below which a token joins any group.
        ratio: Share of a group's highest entropy below which a token joins it.
        singles: Share of answers in groups of one.
        random_splits: Share of answers in groups of random sizes.
        decoded_groups: Share of answers in the groups that decoding would cut them into.
        stop_weight: Of the stop head's loss.
        distilled: Share of the untuned model's distributions in what tokens are learned as.
    """

    max_group: int
    micro_layers: int
    micro_mlp_width: int | None
    rank: int | None
    floor: float
    ratio: float
    singles: float
    random_splits: float
    decoded_groups: float
    stop_weight: float
    distilled: float

    def __post_init__(self) -> None:
        sizes = (self.max_group, self.micro_layers, self.micro_mlp_width, self.rank)
        if any(size is not None and size < 1 for size in sizes):
            raise ValueError(f"max_group, micro_layers, micro_mlp_width and rank are at least 1, got {self}")
        if not 0 <= self.distilled <= 1:
            raise ValueError(f"distilled must lie in [0, 1], got {self.distilled}")
        if self.floor < 0 or not 0 <= self.ratio <= 1:
            raise ValueError(f"need floor of at least 0 and ratio in [0, 1], got {self}")
        shares = (self.singles, self.random_splits, self.decoded_groups)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"shares of answers must be at least 0 and sum to at most 1, got {self}")


class Hamburger:
    """Multi-token decoding without verification, with merged history, on a tuned copy of the model.

    Args:
        weights: Folder of the tuned model, or None to train one.
        confidence: A group goes on while the stop head's probability of going on is at least this (c).
        token_confidence: A group ends before a token that the micro-step decoder gives less than this; at 0
            the stop head decides alone. (The authors' code had such a rule before it had the stop head.)
        merge_delay: Newest groups that are read token by token, see `methods.hamburger.history`; at 0 none.
        position_convention: ``last_token`` or ``hf_compat``.
        max_group: This and all below: see `TrainingSettings`.
    """

    name = "hamburger"

    def __init__(
        self,
        *,
        weights: str | None,
        confidence: float,
        token_confidence: float,
        merge_delay: int,
        position_convention: str,
        max_group: int,
        micro_layers: int,
        floor: float,
        ratio: float,
        singles: float,
        random_splits: float,
        decoded_groups: float,
        stop_weight: float,
        distilled: float,
        micro_mlp_width: int | None = None,
        rank: int | None = None,
    ) -> None:
        if position_convention not in SHIFTS:
            raise ValueError(f"position_convention must be one of {list(SHIFTS)}, got {position_convention}")
        if not 0 <= token_confidence <= 1:
            raise ValueError(f"token_confidence must lie in [0, 1], got {token_confidence}")
        if merge_delay < 0:
            raise ValueError(f"merge_delay must be at least 0, got {merge_delay}")
        self._weights = None if weights is None else Path(weights)
        self._shift = SHIFTS[position_convention]
        self.traits = Traits(several_tokens_per_row=merge_delay == 0)  # with a delay, each token is a row
        self.confidence, self.token_confidence, self.merge_delay = confidence, token_confidence, merge_delay
        self.training = TrainingSettings(
            max_group=max_group,
            micro_layers=micro_layers,
            micro_mlp_width=micro_mlp_width,
            rank=rank,
            floor=floor,
            ratio=ratio,
            singles=singles,
            random_splits=random_splits,
            decoded_groups=decoded_groups,
            stop_weight=stop_weight,
            distilled=distilled,
        )

    def attach(self, decoder: Decoder) -> None:
        if self._weights is None:
            raise UserError(
                "hamburger needs a tuned model and method.weights is not set",
                "set method.weights to its folder, or train one: python -m bench.train method=hamburger",
            )
        self.use(load_checkpoint(self._weights, decoder))

    def use(self, checkpoint: Checkpoint) -> None:
        """Bind to a tuned model in memory; the baseline keeps the target."""
        self._tuned, self._shape = checkpoint.decoder, checkpoint.shape
        self.traits = replace(self.traits, pass_weights=checkpoint.weights())
        self._merge = Merge(checkpoint.embedder, checkpoint.shape)
        self._micro = MicroDecoder(
            self._tuned, checkpoint.micro, checkpoint.shape, self.confidence, self.token_confidence
        )

    def exactness(self, sampler: Sampler) -> Exactness:
        return Exactness.LOSSY

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        root, features = self._prefill(prompt_ids, sampler)
        ids = root.tolist()
        clock.first_token()
        position = prompt_ids.numel() - 1  # of the newest token that the cache holds
        rounds: list[Round] = []
        is_over = budget.is_over(ids, 1)
        while not is_over:
            with clock.phase("draft"):
                draft = self._micro.draft(root, features, budget.max_new_tokens - len(ids), sampler)
            with clock.phase("commit"):
                ids += draft.tokens.tolist() if draft.tokens.numel() else []  # an empty copy waits too
                group = torch.cat([root, draft.tokens])
                position += group.numel()
            has_pass = not budget.is_over(ids, group.numel())
            if has_pass:
                with clock.phase("verify"):
                    root, features = self._macro_step(group, position, sampler)
                    ids += root.tolist()
            is_over = not has_pass or budget.is_over(ids, 1)
            rounds.append(_round(draft, has_pass))
        entries = self._tuned.cache.length - prompt_ids.numel()
        return Generation(tuple(ids), tuple(rounds), {"kv_entries": entries})

    def _prefill(self, prompt_ids: Tensor, sampler: Sampler) -> tuple[Tensor, Tensor]:
        """First token [1] and features [F, d] after the prompt, whose tokens are never merged."""
        taps = new_taps(self._tuned, self._shape)
        root = sampler.pick(self._tuned.prefill(prompt_ids, taps))
        self._history = History(self._tuned, self._merge, self.merge_delay, self._shift)
        return root, features_at(self._tuned, taps, self._shape, -1)

    def _macro_step(self, group: Tensor, position: int, sampler: Sampler) -> tuple[Tensor, Tensor]:
        """Next token [1] and features [F, d] after a group [s] whose last token is at `position`."""
        taps = new_taps(self._tuned, self._shape)
        row = self._history.read(group, position, taps)
        return sampler.pick(self._tuned.head(row)), features_at(self._tuned, taps, self._shape, -1)

    def model_trainer(self) -> ModelTrainer:
        """See `methods.core.base.FullTrainable`."""
        from methods.hamburger.trainer import HamburgerTrainer

        return HamburgerTrainer(self, self.training)


def _round(draft: Draft, has_pass: bool) -> Round:
    drafted = draft.tokens.numel()
    return Round(drafted, drafted, drafted + has_pass, drafted, draft.stop)
