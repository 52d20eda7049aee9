"""The acceptance rules, for chains and for trees: which drafted tokens the target keeps.

All methods use these few functions, so losslessness is established here once. Notation: the draft token x_i
was drawn from the draft distribution q_i, and p_i is the target's distribution at the same position; both are
taken after temperature, top-k and top-p.

- Chain, greedy (`accept_greedy`): accept while the draft equals the target's most likely token.
- Chain, sampling (`accept_sampling`): accept x_i with probability min(1, p_i(x_i) / q_i(x_i)).
- Tree (`accept_tree`): the target picks a token at every node; follow the picks as far as they were drafted.
- Tree, typical (`accept_tree_typical`): Medusa's lossy rule.

Whatever is accepted, a round also emits one token of the target's own, so it emits A + 1 tokens for A
accepted ones. Ties go to the lowest token id everywhere (`argmax` returns the first maximum).

Shapes: K drafted tokens of a chain, N nodes of a tree with its root, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.runtime.sampling import Sampler, draw
from bench.runtime.transfer import upload
from methods.core.trees import Tree


def accept(draft: Tensor, draft_probs: Tensor | None, target_logits: Tensor, sampler: Sampler) -> Tensor:
    """Tokens emitted for a chain draft, by the greedy or the sampling rule as the sampler says.

    Args:
        draft: Drafted token ids, shape [K].
        draft_probs: Draft distributions, shape [K, V]. None for a greedy sampler, and for drafts that were
            not sampled (a lookup): each such token counts as drawn with certainty, so q is one-hot.
        target_logits: Target logits, shape [K + 1, V].
        sampler: Decides the rule and turns logits into probabilities.

    Returns:
        Emitted token ids, shape [A + 1], on the host.
    """
    sampler.watch(target_logits)
    if sampler.is_greedy:
        return accept_greedy(draft, target_logits)
    target_probs = sampler.probabilities(target_logits)
    if draft_probs is None:
        draft_probs = torch.zeros_like(target_probs[:-1]).scatter_(1, draft[:, None], 1.0)
    return accept_sampling(draft, draft_probs, target_probs, sampler.generator)


def accept_greedy(draft: Tensor, target_logits: Tensor) -> Tensor:
    """Tokens a greedy target emits for this draft: the longest prefix it agrees with, plus one of its own.

    Args:
        draft: Drafted token ids, shape [K], int64.
        target_logits: Target logits at the K drafted positions and the one after, shape [K + 1, V].

    Returns:
        Emitted token ids, shape [A + 1] with ``0 <= A <= K``, on the host.

    Raises:
        ValueError: If the logits do not cover K + 1 positions.
    """
    _check_rows(draft, target_logits)
    target = target_logits.argmax(dim=-1)  # [K + 1]
    agreed = (draft == target[:-1]).long().cumprod(dim=0).sum(dim=0, keepdim=True)  # A
    *tokens, count = torch.cat([target, agreed]).tolist()  # the one host sync of the round
    return torch.tensor(tokens[: count + 1])


def accept_sampling(
    draft: Tensor, draft_probs: Tensor, target_probs: Tensor, generator: torch.Generator
) -> Tensor:
    """Tokens emitted by speculative sampling (Leviathan et al., arXiv 2211.17192, algorithm 1).

    The output is distributed exactly as if the target had sampled every token itself. From left to right,
    draft token x_i is accepted with probability min(1, p_i(x_i) / q_i(x_i)): always where the target likes it
    at least as much as the draft did, less often where the draft proposed it too often. The first rejection
    ends the round, and its token is replaced by a sample from what the draft proposed too rarely: max(p_i -
    q_i, 0), scaled to sum 1. If all K are accepted, one more token is sampled from p_K.

    Args:
        draft: Drafted token ids, shape [K], int64, each drawn from its row of `draft_probs`.
        draft_probs: Draft distributions q after temperature and cuts, shape [K, V].
        target_probs: Target distributions p after the same, shape [K + 1, V].
        generator: Source of the random numbers, on the device of the probabilities.

    Returns:
        Emitted token ids, shape [A + 1] with ``0 <= A <= K``, on the host.

    Raises:
        ValueError: If the rows do not fit the draft.
    """
    _check_rows(draft, target_probs)
    count = draft.numel()
    if draft_probs.shape[0] != count:
        raise ValueError(f"need {count} draft rows, got {draft_probs.shape[0]}")
    columns = draft[:, None]
    ratio = target_probs[:-1].gather(1, columns) / draft_probs.gather(1, columns)  # p / q, [K, 1]
    uniform = torch.rand(ratio.shape, generator=generator, device=ratio.device, dtype=ratio.dtype)
    agreed = (uniform < ratio).long().cumprod(dim=0).sum(dim=0)  # A, shape [1]
    last = target_probs.index_select(0, agreed)  # [1, V]
    if count:
        rejected = residual(last, draft_probs.index_select(0, agreed.clamp_max(count - 1)))
        last = torch.where(agreed == count, last, rejected)
    *tokens, kept, final = torch.cat([draft, agreed, draw(last, generator)]).tolist()  # the one host sync
    return torch.tensor([*tokens[:kept], final])


def residual(target: Tensor, draft: Tensor) -> Tensor:
    """The distribution to sample from after a rejection: max(p - q, 0) scaled to sum 1, shape [..., V].

    If p equals q everywhere, a rejection has probability zero but may still happen by rounding; the result is
    then p itself, the limit of the formula.
    """
    rest = (target - draft).clamp_min(0)
    total = rest.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, rest / total, target)


def _check_rows(draft: Tensor, target: Tensor) -> None:
    if target.shape[0] != draft.numel() + 1:
        raise ValueError(f"need {draft.numel() + 1} target rows, got {target.shape[0]}")


@dataclass(frozen=True, slots=True)
class Accepted:
    """Result of a round over a tree.

    Args:
        path: Accepted nodes, root first, length A + 1.
        emitted: Tokens of the accepted nodes without the root, then the target's own next token, length A +
            1.
    """

    path: tuple[int, ...]
    emitted: tuple[int, ...]


def accept_tree(tree: Tree, tokens: Tensor, target_logits: Tensor, sampler: Sampler) -> Accepted:
    """Follow the target's own choices down a tree: exact under greedy decoding and under sampling.

    At every node the target picks the next token: its argmax, or a sample from its distribution there.
    Starting at the root, go to the child that holds the pick; where no child does, emit the pick and end the
    round. So every emitted token is the target's own pick in its context, whatever was drafted.

    For sampling this is as good as any exact rule, as long as the candidates were chosen and not sampled:
    some child is accepted with the total probability that the target gives the children. Rejection over
    siblings without replacement has the same acceptance.

    Args:
        tree: Shape of the draft.
        tokens: Token of every node, shape [N], int64; siblings differ.
        target_logits: Target logits at every node, shape [N, V].
        sampler: Greedy or not; it draws once per node.

    Raises:
        ValueError: If tokens or logits do not cover the nodes.
    """
    _check_nodes(tree, tokens, target_logits)
    picks = sampler.pick(target_logits)  # [N]
    drafted, picked = torch.stack([tokens, picks]).tolist()  # the one host sync of the round
    return follow(tree, drafted, picked)


def follow(tree: Tree, drafted: Sequence[int], picked: Sequence[int]) -> Accepted:
    """The path on which the drafted tokens are the target's picks; see `accept_tree`.

    Args:
        tree: Shape of the draft.
        drafted: Token of every node, length N.
        picked: The target's pick at every node, length N.
    """
    node, path, emitted = 0, [0], [picked[0]]
    while child := next((child for child in tree.children[node] if drafted[child] == picked[node]), 0):
        node = child
        path.append(node)
        emitted.append(picked[node])
    return Accepted(tuple(path), tuple(emitted))


def accept_tree_typical(
    tree: Tree, tokens: Tensor, target_logits: Tensor, sampler: Sampler, *, epsilon: float, delta: float
) -> Accepted:
    """Medusa's typical acceptance (arXiv 2401.10774, section 2.3.1): LOSSY unless the sampler is greedy.

    A candidate x below a node is accepted if the target finds it likely enough there: p(x) > min(epsilon,
    delta exp(-H(p))), where H(p) is the entropy of the target's distribution. A flat distribution (high
    entropy) lowers the bound. The longest accepted path wins, ties go to the larger sum of log p; after it
    the target's argmax is emitted. With a greedy sampler p is one-hot and the rule equals the greedy one.

    Args:
        tree: Shape of the draft.
        tokens: Token of every node, shape [N], int64.
        target_logits: Target logits at every node, shape [N, V].
        sampler: Turns logits into probabilities.
        epsilon: Probability that is always enough (official ``posterior_threshold``, 0.09).
        delta: Scale of the entropy-dependent bound (official ``posterior_alpha``, 0.3).

    Raises:
        ValueError: If tokens or logits do not cover the nodes.
    """
    _check_nodes(tree, tokens, target_logits)
    sampler.watch(target_logits)
    probs = sampler.probabilities(target_logits)
    entropy = -(probs * (probs + 1e-5).log()).sum(dim=-1)  # [N]
    bound = (delta * (-entropy).exp()).clamp_max(epsilon)
    parents = upload(torch.tensor(tree.parents), tokens.device).clamp_min(0)
    chance = probs[parents].gather(1, tokens[:, None])[:, 0]  # [N]; the root's entry is not used
    columns = (chance > bound[parents], chance.log(), tokens, target_logits.argmax(dim=-1))
    is_typical, scores, drafted, best_next = torch.stack([column.double() for column in columns]).tolist()
    best = {0: (0, 0.0)}  # accepted nodes: depth and sum of log p
    for node in range(1, tree.size):
        parent = tree.parents[node]
        if parent in best and is_typical[node]:
            best[node] = (tree.depths[node], best[parent][1] + scores[node])
    path = tree.route(max(best, key=lambda node: best[node]))
    emitted = (*(drafted[node] for node in path[1:]), best_next[path[-1]])
    return Accepted(path, tuple(map(int, emitted)))


def _check_nodes(tree: Tree, tokens: Tensor, target: Tensor) -> None:
    if tokens.numel() != tree.size or target.shape[0] != tree.size:
        raise ValueError(f"need {tree.size} tokens and rows, got {tokens.numel()} and {target.shape[0]}")
