"""The work of a round, described as a mix of the decoder's operations and run as such.

A `Schedule` says which layers each draft step runs, which heads, rows or pseudo rows are added, and what is
verified; `DraftCost` runs that work on the target's own layers. Every published method is close to one of
these mixes, so its speed at any acceptance can be measured before anything is trained. The tokens that come
out mean nothing. ``conf/method/schedule`` has a schedule per family of methods.

Shapes: K draft positions, N verified rows with the root, E layers of a draft step, d width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder, Skip
from bench.runtime.sampling import DraftHead
from methods.core.trees import Path, Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The work of a round.

    Args:
        name: Name in tables.
        layers: Share of the depth that each draft step runs, at least one layer; 0 for no draft steps.
        rows: Rows of each draft step (2 for M2R2, with an accelerated row beside the ordinary one).
        adapter: Attention-only layers that each draft step runs after those (1 for Kangaroo).
        resume: Verification continues after the drafting layers, on their rows (early exit).
        heads: Heads per round that each read as many bytes as the LM head (Medusa).
        nodes: Rows verified, the root included; None is a chain, the root and one row per position.
        pseudo: Pseudo rows added to every verified row (hidden transfer).
        enter: Share of the depth at which the pseudo rows are added.
        verifies: ``nodes``, or the ``root`` alone if one cache slot holds several tokens (HAMburger).
        exit_at: Layers of a draft step as a number, in place of the share `layers`; None takes the share.
    """

    name: str
    layers: float
    rows: int
    adapter: int
    resume: bool
    heads: int
    nodes: int | None
    pseudo: int
    enter: float
    verifies: str
    exit_at: int | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.layers <= 1 and 0 <= self.enter <= 1):
            raise ValueError(f"layers and enter are shares in [0, 1], got {self.layers} and {self.enter}")
        if min(self.rows - 1, self.adapter, self.heads, self.pseudo) < 0:
            raise ValueError("need at least 1 row, and no negative number of adapter, heads or pseudo")
        if self.nodes is not None and self.nodes < 1:
            raise ValueError(f"nodes must be at least 1 or null, got {self.nodes}")
        if self.exit_at is not None and (self.exit_at < 1 or not self.layers):
            raise ValueError("exit_at is at least 1 and belongs to draft steps: set layers above 0")
        if self.verifies not in ("nodes", "root"):
            raise ValueError(f"verifies must be nodes or root, got {self.verifies!r}")
        if (self.resume or self.adapter or self.rows > 1) and not self.layers:
            raise ValueError("resume, adapter and rows belong to draft steps: set layers above 0")
        if self.resume and (self.nodes is not None or self.pseudo or self.verifies == "root"):
            raise ValueError("resume verifies the drafted chain: leave nodes null, pseudo 0, verifies nodes")
        if self.verifies == "root" and (self.nodes is not None or self.pseudo):
            raise ValueError("if only the root is verified (verifies=root), leave nodes null and pseudo 0")

    def exit_layer(self, depth: int) -> int:
        """Layers of a draft step in a model of `depth` layers (E)."""
        if self.exit_at is not None:
            return self.exit_at
        return max(1, round(self.layers * depth)) if self.layers else 0

    def tree(self, positions: int, device: torch.device) -> Tree:
        """A chain of `positions` nodes, filled up to `nodes` with their siblings, one depth after another.

        Raises:
            ValueError: If `nodes` leaves no room for the chain.
        """
        count = positions + 1 if self.nodes is None else self.nodes
        if count <= positions:
            raise ValueError(f"nodes must exceed the {positions} positions of acceptance, got {count}")
        paths: list[Path] = [(0,) * depth for depth in range(1, positions + 1)]
        for extra in range(count - positions - 1 if positions else 0):
            rank, depth = divmod(extra, positions)
            paths.append(((0,) * depth) + (rank + 1,))
        return Tree.of_paths(paths, device)


class DraftCost:
    """Runs a schedule's work round by round.

    Args:
        schedule: What to run.
        decoder: The target; its layers stand in for those of any drafter.
        draft_vocab: Rows of the LM head that drafting reads (N); None is all.

    Raises:
        UserError: If the model has too few layers for the schedule, or too few tokens to draft from.
    """

    def __init__(self, schedule: Schedule, decoder: Decoder, draft_vocab: int | None = None) -> None:
        self._schedule, self._decoder = schedule, decoder
        if draft_vocab is not None and draft_vocab > decoder.config.vocab:
            raise UserError(
                f"method.draft_vocab={draft_vocab}, and the model has {decoder.config.vocab} tokens",
                "lower method.draft_vocab, or set it to null for all tokens",
            )
        self._head = DraftHead(decoder, None if draft_vocab is None else torch.arange(draft_vocab))
        self.exit_layer = schedule.exit_layer(decoder.depth)
        deepest = self.exit_layer + schedule.adapter + schedule.resume
        if deepest > decoder.depth:
            raise UserError(
                f"the schedule drafts with {deepest} layers, this model has {decoder.depth}",
                "lower method.schedule.layers, exit_at or adapter",
            )
        self._enter = round(schedule.enter * decoder.depth)
        self._no_mlp = Skip(mlp=frozenset(range(decoder.depth)))
        self._shallow: list[Tensor] = []
        self._layouts: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def rows_per_node(self) -> int:
        """Cache slots that each verified row needs during a round."""
        return 1 + self._schedule.pseudo

    def draft(self, root: Tensor, base: int, tree: Tree) -> Tensor:
        """Run the work of a draft; returns a token for every node, shape [N].

        Args:
            root: The newest token, shape [1], at position `base`.
            base: Number of committed slots.
            tree: Shape of what will be verified.
        """
        decoder, schedule = self._decoder, self._schedule
        drafted = [root]
        self._shallow = []
        steps = tree.depth if schedule.layers else 0
        for step in range(steps):
            drafted.append(self._step(drafted[-1], base + step))
        if schedule.resume:
            self._shallow.append(self._pass(drafted[-1], base + steps))
        if schedule.heads or schedule.pseudo:
            row = decoder.embed(root)
            logits = [self._head(row) for _ in range(schedule.heads)]
            logits += [self._head(row.expand(schedule.pseudo, -1))] if schedule.pseudo else []
            best = torch.cat(logits).topk(min(tree.width, self._head.size), dim=-1).indices
            drafted.append(best.flatten())
        tokens = torch.cat(drafted)
        return tokens.repeat(-(-tree.size // tokens.numel()))[: tree.size]

    def verify(self, tokens: Tensor, base: int, tree: Tree) -> Tensor:
        """Run the work of the verification; target logits of the verified rows, shape [N, V] or [1, V]."""
        decoder = self._decoder
        if self._schedule.resume:
            place = decoder.placement.chain(base, tree.size)
            return decoder.head(decoder.run_layers(torch.cat(self._shallow), place, self.exit_layer))
        if self._schedule.verifies == "root":
            return decoder.step(tokens[:1], base)
        if self._schedule.pseudo:
            return self._verify_beside_pseudo_rows(tokens, base, tree)
        if tree.size == tree.depth + 1:
            return decoder.step(tokens, base)
        place = decoder.placement.tree(base, tree.offsets, tree.sees)
        return decoder.head(decoder.run_layers(decoder.embed(tokens), place))

    def _step(self, token: Tensor, slot: int) -> Tensor:
        """A draft step after `token` [1]; returns the token it proposes, shape [1]."""
        decoder, adapter = self._decoder, self._schedule.adapter
        row = self._pass(token, slot)
        if self._schedule.resume:
            self._shallow.append(row)
        if adapter:
            place, start = decoder.placement.chain(slot, 1), self.exit_layer
            row = decoder.run_layers(row, place, start, start + adapter, skip=self._no_mlp)
        return self._head(row).argmax(dim=-1)

    def _pass(self, token: Tensor, slot: int) -> Tensor:
        """Run a token and the schedule's additional rows through the drafting layers; its row, [1, d].

        The additional rows take the slots after the token's, which the next step overwrites.
        """
        decoder, rows = self._decoder, min(self._schedule.rows, self._decoder.capacity - slot)
        place = decoder.placement.chain(slot, rows)
        return decoder.run_layers(decoder.embed(token.expand(rows)), place, 0, self.exit_layer)[:1]

    def _verify_beside_pseudo_rows(self, tokens: Tensor, base: int, tree: Tree) -> Tensor:
        decoder, count = self._decoder, tree.size
        offsets, sees = self._layout(tree)
        place = decoder.placement.tree(base, tree.offsets, tree.sees)
        real = decoder.run_layers(decoder.embed(tokens), place, 0, self._enter)
        place = decoder.placement.tree(base, offsets, sees)
        return decoder.head(
            decoder.run_layers(real.repeat(self.rows_per_node, 1), place, self._enter)[:count]
        )

    def _layout(self, tree: Tree) -> tuple[Tensor, Tensor]:
        """Positions and mask of N verified rows and then their pseudo rows, which see what their row sees."""
        if tree.size not in self._layouts:
            copies = self.rows_per_node
            ahead = torch.arange(copies, device=tree.offsets.device)[:, None]
            own = torch.eye(copies, device=tree.offsets.device)
            own[:, 0] = 1  # a pseudo row sees itself, and what its real row sees
            sees = torch.kron(own, tree.sees.float()).bool()
            self._layouts[tree.size] = (tree.offsets + ahead).flatten(), sees
        return self._layouts[tree.size]
