"""Quick check of a base model during training: held-out loss and agreement of its early exits.

Shapes: B dialogues, S positions, N answer positions, D hidden size.
"""

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast

from bench.train.base.data import MicroBatch, collate, cut_by_length
from bench.train.base.model import Network, rms_norm
from bench.train.corpus import heldout_dialogues
from bench.train.data.tokenizer import encode_dialogue

EXITS = (1, 2, 4, 8)
HELDOUT_SEED = 0
EVAL_TOKENS = 2048


@torch.no_grad()
def evaluate_exits(network: Network, tokenizer: PreTrainedTokenizerFast, each: int) -> dict[str, float]:
    """Loss and exit agreement on the answer tokens of held-out dialogues.

    Args:
        network: The model.
        tokenizer: Its tokenizer.
        each: Held-out dialogues per subtask.

    Returns:
        `loss` of the last layer, its next-token `accuracy`, and for exits n: `loss_n` and `agree_n`, the
        share of positions where the exit's argmax is the last layer's.
    """
    layers = network.shape.layers
    exits = [exit_ for exit_ in EXITS if exit_ < layers]
    encoded = [encode_dialogue(tokenizer, dialogue) for dialogue in heldout_dialogues(HELDOUT_SEED, each)]
    sums: dict[str, float] = {}
    for group in cut_by_length(encoded, EVAL_TOKENS):
        for key, value in _sums(network, collate(group, int(tokenizer.pad_token_id)), exits).items():
            sums[key] = sums.get(key, 0.0) + value
    count = sums.pop("count")
    return {key: round(value / count, 4) for key, value in sums.items()}


def _sums(network: Network, batch: MicroBatch, exits: list[int]) -> dict[str, float]:
    """Unnormalised sums over the answer positions of one batch, with their `count`."""
    device = network.model.device
    keep = torch.ones(network.shape.layers, batch.ids.shape[0], 1, 1, device=device)
    states = network.hidden_states(batch.ids.to(device), keep)
    chosen = batch.is_answer[:, 1:].to(device)
    targets = batch.ids[:, 1:].to(device)[chosen]  # [N]
    norm, head = network.head()
    logits = {n: F.linear(rms_norm(states[n][:, :-1][chosen], norm), head).float() for n in [*exits, -1]}
    best = logits[-1].argmax(-1)
    sums = {
        "count": float(targets.numel()),
        "loss": float(F.cross_entropy(logits[-1], targets, reduction="sum")),
        "accuracy": float((best == targets).sum()),
    }
    for exit_ in exits:
        sums[f"loss_{exit_}"] = float(F.cross_entropy(logits[exit_], targets, reduction="sum"))
        sums[f"agree_{exit_}"] = float((logits[exit_].argmax(-1) == best).sum())
    return sums
