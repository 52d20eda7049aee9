"""Acceptance rules shared by every method, so losslessness is proved in one place.

Ties break to the lowest token id everywhere (`argmax` returns the first maximum).

Shapes: K drafted tokens of a chain, N nodes of a tree with its root, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.runtime.sampling import Sampler, draw
from bench.runtime.transfer import upload
from methods.core.trees import Tree


def accept_greedy(draft: Tensor, target_logits: Tensor) -> Tensor:
    """Tokens a greedy target emits for this draft: the agreeing prefix plus one.

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
    """Tokens emitted by speculative sampling: distributed exactly as the target's own samples.

    Draft token x_i ~ q_i is accepted with probability min(1, p_i(x_i) / q_i(x_i)); the first rejection is
    replaced by a draw from max(p_i - q_i, 0) renormalised; if all are accepted one more comes from p_K
    (Leviathan et al. 2211.17192, algorithm 1).

    Args:
        draft: Drafted token ids, shape [K], int64, each drawn from its row of `draft_probs`.
        draft_probs: Draft distributions after the sampler's warping, shape [K, V].
        target_probs: Target distributions after the same warping, shape [K + 1, V].
        generator: Source of the accept and resample draws, on the probabilities' device.

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
    chance = target_probs[:-1].gather(1, columns) / draft_probs.gather(1, columns)  # [K, 1]
    drawn = torch.rand(chance.shape, generator=generator, device=chance.device, dtype=chance.dtype)
    agreed = (drawn < chance).long().cumprod(dim=0).sum(dim=0)  # A, shape [1]
    last = target_probs.index_select(0, agreed)  # [1, V]
    if count:
        rejected = residual(last, draft_probs.index_select(0, agreed.clamp_max(count - 1)))
        last = torch.where(agreed == count, last, rejected)
    *tokens, kept, behind = torch.cat([draft, agreed, draw(last, generator)]).tolist()  # the one host sync
    return torch.tensor([*tokens[:kept], behind])


def residual(target: Tensor, draft: Tensor) -> Tensor:
    """What the target still owes after a rejection: max(p - q, 0) renormalised, shape [..., V].

    Where p equals q everywhere the rejection had probability zero; rounding may still bring us here, and then
    p itself is the limit of the rule.
    """
    rest = (target - draft).clamp_min(0)
    total = rest.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, rest / total, target)


def accept(draft: Tensor, draft_probs: Tensor | None, target_logits: Tensor, sampler: Sampler) -> Tensor:
    """Tokens emitted for a chain draft under `sampler`, by the greedy or the sampling rule.

    Args:
        draft: Drafted token ids, shape [K].
        draft_probs: Draft distributions, shape [K, V]; None for a greedy sampler, and for drafts that were
            not drawn from a distribution (a lookup): those count as certain, a one-hot q.
        target_logits: Target logits, shape [K + 1, V].
        sampler: Decides the rule and warps the logits.

    Returns:
        Emitted token ids, shape [A + 1], on the host.
    """
    if sampler.is_greedy:
        return accept_greedy(draft, target_logits)
    target_probs = sampler.probabilities(target_logits)
    if draft_probs is None:
        draft_probs = torch.zeros_like(target_probs[:-1]).scatter_(1, draft[:, None], 1.0)
    return accept_sampling(draft, draft_probs, target_probs, sampler.generator)


def _check_rows(draft: Tensor, target: Tensor) -> None:
    if target.shape[0] != draft.numel() + 1:
        raise ValueError(f"need {draft.numel() + 1} target rows, got {target.shape[0]}")


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a round over a tree yields.

    Args:
        path: Accepted nodes, root first, length A + 1.
        emitted: Their tokens without the root's, and the target's next one, length A + 1.
    """

    path: tuple[int, ...]
    emitted: tuple[int, ...]


def accept_tree(tree: Tree, tokens: Tensor, target_logits: Tensor, sampler: Sampler) -> Accepted:
    """Follow the target's own choices down a tree of fixed candidates: exact, greedy as sampled.

    The target picks one token at every node, its argmax or a draw from its warped distribution. From the root
    on, a child that holds the node's pick is entered; where none does, the pick is emitted and the round
    ends. Every emitted token is thus the target's own pick in its context, whatever was drafted. For
    candidates that were chosen and not drawn, a child is entered with the largest probability that an exact
    rule allows, the children's mass under the target: rejection over siblings without replacement comes to
    the same.

    Args:
        tree: Shape of the draft.
        tokens: Token of every node, shape [N], int64; siblings differ.
        target_logits: Target logits at every node, shape [N, V].
        sampler: Greedy or not; one draw per node.

    Raises:
        ValueError: If tokens or logits do not cover the nodes.
    """
    _check_nodes(tree, tokens, target_logits)
    picks = sampler.pick(target_logits)  # [N]
    drafted, picked = torch.stack([tokens, picks]).tolist()  # the one host sync of the round
    node, path, emitted = 0, [0], [picked[0]]
    while child := next((one for one in tree.children[node] if drafted[one] == picked[node]), 0):
        node = child
        path.append(node)
        emitted.append(picked[node])
    return Accepted(tuple(path), tuple(emitted))


def accept_tree_typical(
    tree: Tree, tokens: Tensor, target_logits: Tensor, sampler: Sampler, *, epsilon: float, delta: float
) -> Accepted:
    """Medusa's typical acceptance (arXiv 2401.10774, section 2.3.1): LOSSY unless the sampler is greedy.

    A candidate x below a node with target distribution p is accepted iff p(x) > min(epsilon, delta
    exp(-H(p))). The longest accepted path wins, ties go to the largest sum of log p; the target's argmax
    behind it is emitted too. With a greedy sampler p is one-hot and the rule is the greedy one.

    Args:
        tree: Shape of the draft.
        tokens: Token of every node, shape [N], int64.
        target_logits: Target logits at every node, shape [N, V].
        sampler: Warps the logits.
        epsilon: Probability that is always enough (official ``posterior_threshold``, 0.09).
        delta: Scale of the entropy-dependent bound (official ``posterior_alpha``, 0.3).

    Raises:
        ValueError: If tokens or logits do not cover the nodes.
    """
    _check_nodes(tree, tokens, target_logits)
    probs = sampler.probabilities(target_logits)
    entropy = -(probs * (probs + 1e-5).log()).sum(dim=-1)  # [N]
    bound = (delta * (-entropy).exp()).clamp_max(epsilon)
    parents = upload(torch.tensor(tree.parents), tokens.device).clamp_min(0)
    chance = probs[parents].gather(1, tokens[:, None])[:, 0]  # [N]; the root's counts for nothing
    found = (chance > bound[parents], chance.log(), tokens, target_logits.argmax(dim=-1))
    is_typical, scores, drafted, best_next = torch.stack([one.double() for one in found]).tolist()
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
