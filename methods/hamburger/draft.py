"""HAMburger: several tokens per pass of a tuned model, merged into one cache entry; arXiv 2505.20438.

A pass gives the first token of a group from the model's own head (a *macro-step*); a micro-step decoder adds
up to K - 1 tokens until its stop head ends the group. The next pass reads the whole group as one entry: the
compositional embedder merges its embeddings (sections 3.1 to 3.3). Nothing is verified, history is stored
merged, and the model itself is tuned for this, so the output is another model's: LOSSY, whatever the
settings. Above confidence 1 every group is one token and the output is the tuned model's plain decoding, the
reference that tells what tuning alone has changed.

Records: a round is the micro-steps of a group and the pass over it, so it emits the group's further tokens
and the first one of the next group. All its drafted tokens count as accepted, for nobody asks. A round that
the end of the text falls into makes no pass. The cache grows by one entry a pass (``kv_entries`` of
`Generation.counts`), and with ``merge_delay`` holds the tokens of some groups beside (`History`).

Differs from the authors' code in:
- the output ends behind the first end token and at exactly `max_new_tokens`, also inside a group;
- the position of a merged entry is that of its last token, as in training; `hf_compat` shifts it by one, as
  their quality figures did;
- sampling is supported: every token is drawn from its own distribution, the stop rule is unchanged;
- with ``merge_delay``, a group is read token by token first and merged later (`History`);
- training: the merger's output starts from zero (the merge from the plain mean), fp32 masters with warm-up,
  and part of the answers in other groups (`methods.hamburger.training.Grouping`); the thresholds of the
  segmentation are settings.

Shapes: P prompt tokens, K most tokens of a group, s tokens of a group, F features, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bench.errors import UserError
from bench.records.model import Generation, Round
from bench.runtime.decoder import Decoder
from bench.runtime.linear import Linear
from bench.runtime.sampling import Sampler
from methods.core.base import Budget, Clock, Exactness, ModelTrainer
from methods.core.chain import Draft
from methods.hamburger.checkpoint import Checkpoint, load_checkpoint
from methods.hamburger.decoded import KnownText
from methods.hamburger.history import History
from methods.hamburger.micro_decoder import MicroDecoder, features_at, new_taps
from methods.hamburger.model import HamburgerShape
from methods.hamburger.training import Grouping

SHIFTS = {"last_token": 0, "hf_compat": 1}
"""Position of a merged entry, relative to that of its last token."""


class Hamburger:
    """Blind multi-token decoding with merged history on a tuned copy of the model.

    Args:
        weights: Folder of the tuned model, or None to train one.
        confidence: A group goes on while the stop head's probability of going on is at least this (c).
        token_confidence: A group ends before a token that the micro-step decoder gives less than this; at 0
            the stop head decides alone. (The authors' code had such a rule before it had the stop head.)
        merge_delay: Newest groups that are seen token by token, see `methods.hamburger.history`; at 0 none.
        position_convention: ``last_token`` or ``hf_compat``.
        max_group: Most tokens of a group (K); for training.
        micro_layers: Layers of the micro-step decoder; for training.
        floor: Nats below which a token joins any group; for training.
        ratio: Share of a group's highest entropy below which a token joins it; for training.
        singles: Share of training answers in groups of one.
        random_splits: Share of training answers in groups of random sizes.
        decoded_groups: Share of training answers in the groups that decoding cuts at the two confidences.
        stop_weight: Of the stop head's loss; for training.
        distilled: Share of the untuned model's distributions in what tokens are learned as; for training.
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
    ) -> None:
        if position_convention not in SHIFTS:
            raise ValueError(f"position_convention must be one of {list(SHIFTS)}, got {position_convention}")
        if not 0 <= token_confidence <= 1:
            raise ValueError(f"token_confidence must lie in [0, 1], got {token_confidence}")
        if max_group < 1 or micro_layers < 1:
            raise ValueError(f"need max_group and micro_layers >= 1, got {max_group} and {micro_layers}")
        if merge_delay < 0:
            raise ValueError(f"merge_delay must be at least 0, got {merge_delay}")
        self._weights = None if weights is None else Path(weights)
        self.confidence, self.token_confidence = confidence, token_confidence
        self.merge_delay, self._shift = merge_delay, SHIFTS[position_convention]
        if not 0 <= distilled <= 1:
            raise ValueError(f"distilled must lie in [0, 1], got {distilled}")
        self.micro_layers, self.stop_weight, self.distilled = micro_layers, stop_weight, distilled
        self.grouping = Grouping(max_group, floor, ratio, singles, random_splits, decoded_groups)

    def attach(self, decoder: Decoder) -> None:
        if self._weights is None:
            raise UserError(
                "hamburger needs a tuned model and method.weights is not set",
                "set method.weights to its folder, or train one: python -m bench.train method=hamburger",
            )
        self.use(load_checkpoint(self._weights, decoder))

    def use(self, checkpoint: Checkpoint) -> None:
        """Bind to a tuned model in memory; the target stays the baseline's."""
        self._tuned, self._shape = checkpoint.decoder, checkpoint.shape
        self.pass_weights = checkpoint.weights()
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
                ids += draft.tokens.tolist()
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
        """First token [1] and features [F, d] behind the prompt, whose tokens are never merged."""
        taps = new_taps(self._tuned, self._shape)
        root = sampler.pick(self._tuned.prefill(prompt_ids, taps))
        self._history = History(self._tuned, self._merge, self.merge_delay, self._shift)
        return root, features_at(self._tuned, taps, self._shape, -1)

    def _macro_step(self, group: Tensor, position: int, sampler: Sampler) -> tuple[Tensor, Tensor]:
        """Next token [1] and features [F, d] behind a group [s] whose last token stands at `position`."""
        taps = new_taps(self._tuned, self._shape)
        row = self._history.read(group, position, taps)
        return sampler.pick(self._tuned.head(row)), features_at(self._tuned, taps, self._shape, -1)

    def group_sizes(self, prompt_ids: Tensor, answer: Sequence[int]) -> list[int]:
        """Sizes of the groups in which this answer [M] is decoded behind its prompt [P]; they sum to M."""
        known = KnownText(answer, prompt_ids.device)
        root, features = self._prefill(prompt_ids, known)
        sizes: list[int] = []
        done = 0
        while True:
            draft = self._micro.draft(root, features, len(answer) - done - 1, known)
            group = torch.cat([root, draft.tokens])
            sizes.append(group.numel())
            done += group.numel()
            if done == len(answer):
                return sizes
            root, features = self._macro_step(group, prompt_ids.numel() + done - 1, known)

    def model_trainer(self) -> ModelTrainer:
        """See `methods.core.base.FullTrainable`."""
        from methods.hamburger.trainer import HamburgerTrainer

        return HamburgerTrainer(self)


def _round(draft: Draft, has_pass: bool) -> Round:
    drafted = draft.tokens.numel()
    return Round(drafted, drafted, drafted + has_pass, drafted, draft.stop)


class Merge:
    """The compositional embedder, frozen: the part of keys and values that depends on the place is a table.

    Args:
        tensors: State of `methods.hamburger.model.Embedder`.
        shape: Heads and the longest group.
    """

    def __init__(self, tensors: Mapping[str, Tensor], shape: HamburgerShape) -> None:
        self._heads = shape.merger_heads
        weights = torch.cat([tensors[f"merger.{name}_proj.weight"] for name in "kv"])  # [2 d, d + d / 2]
        biases = torch.cat([tensors[f"merger.{name}_proj.bias"] for name in "kv"])
        width = weights.shape[0] // 2
        self._query = Linear(tensors["merger.q_proj.weight"], tensors["merger.q_proj.bias"])
        self._keys_values = Linear(weights[:, :width].contiguous())
        self._places = tensors["merger.pos"] @ weights[:, width:].T + biases  # [K, 2 d]
        self._out = Linear(tensors["out_proj.weight"], tensors["out_proj.bias"])

    def __call__(self, tokens: Tensor) -> Tensor:
        """One entry's embedding [1, d] from those of a group's tokens [s, d]; a single token is itself."""
        count, width = tokens.shape
        if count == 1:
            return tokens
        mean = tokens.mean(dim=0, keepdim=True)
        query = self._query(mean).view(self._heads, -1, 1)
        keys, values = (
            (self._keys_values(tokens) + self._places[:count])
            .view(count, 2, self._heads, -1)
            .permute(1, 2, 0, 3)  # [2, heads, s, width]
        )
        weights = (keys @ query * (width // self._heads) ** -0.5).softmax(dim=1)  # [heads, s, 1]
        return self._out.add_to(mean, (weights * values).sum(dim=1).view(1, width))
