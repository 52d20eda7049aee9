"""Trains the embedded mixture of experts on one core until a time is up, whatever it has reached by then.

The loss is the next token's cross-entropy, in which prompts of synthetic dialogues weigh a tenth, plus
transformers' load-balancing loss, without which a few experts would win every row. That loss pools all
layers: a single layer may still prefer some of its experts.

Shapes: B dialogues of a batch, S positions.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast

from bench.train.base.data import Encoded, MicroBatch, collate, cut_by_length
from bench.train.mixture.recipe import MixtureRecipe
from bench.train.mixture.text import mixed, read_texts, split_texts

log = logging.getLogger(__name__)
POOL_BATCHES = 48
REPORT_EVERY = 20


def train(
    recipe: MixtureRecipe, tokenizer: PreTrainedTokenizerFast, files: Sequence[Path], out: Path
) -> dict[str, float]:
    """Train and save a Hugging Face folder, also every few minutes on the way; the last one's figures."""
    torch.manual_seed(recipe.seed)
    model = make_model(recipe, tokenizer)
    pieces, held = split_texts(read_texts(files, tokenizer, recipe.most_tokens))
    batches = _batches(mixed(pieces, tokenizer, recipe.real_share, recipe.seed), recipe, tokenizer)
    optimizer = _optimizer(model, recipe)
    begun = saved = time.monotonic()
    tokens = step = 0
    while (done := (time.monotonic() - begun) / (60 * recipe.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * _factor(recipe, step, done)
        batch = next(batches)
        loss, balance = _losses(model, batch, recipe)
        torch.autograd.backward(loss + recipe.balance * balance)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step, tokens = step + 1, tokens + int(batch.is_token.sum())
        if step % REPORT_EVERY == 0:
            speed = tokens / (time.monotonic() - begun)
            losses = f"loss {float(loss.detach()):.3f} balance {float(balance.detach()):.3f}"
            log.info("step %d (%.0f %%) tokens %d tok/s %.0f %s", step, 100 * done, tokens, speed, losses)
        if time.monotonic() - saved > 60 * recipe.save_minutes:
            saved = time.monotonic()
            _save(model, tokenizer, out, evaluate(model, held, recipe, tokenizer))
    figures = {**evaluate(model, held, recipe, tokenizer), "steps": step, "tokens": tokens}
    _save(model, tokenizer, out, figures)
    return figures


def make_model(recipe: MixtureRecipe, tokenizer: PreTrainedTokenizerFast) -> Any:  # noqa: ANN401
    """A new model in fp32."""
    config = OlmoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.expert_width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        num_experts=recipe.experts,
        num_experts_per_tok=recipe.top_k,
        norm_topk_prob=True,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        output_router_logits=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return OlmoeForCausalLM(config)


@torch.no_grad()
def evaluate(
    model: Any,  # noqa: ANN401
    held: Sequence[Encoded],
    recipe: MixtureRecipe,
    tokenizer: PreTrainedTokenizerFast,
) -> dict[str, float]:
    """On held-out real text: the loss, how likely the likeliest token is, and how often it is right."""
    count = loss = likeliest = right = 0.0
    for group in cut_by_length(held, recipe.batch_tokens):
        batch = collate(group, int(tokenizer.pad_token_id))
        logits = model(input_ids=batch.ids, use_cache=False).logits[:, :-1][batch.is_token[:, 1:]].float()
        targets = batch.ids[:, 1:][batch.is_token[:, 1:]]
        best, chosen = logits.softmax(dim=-1).max(dim=-1)
        count += targets.numel()
        loss += float(F.cross_entropy(logits, targets, reduction="sum"))
        likeliest += float(best.sum())
        right += float((chosen == targets).sum())
    count = max(1.0, count)
    return {"loss": loss / count, "likeliest": likeliest / count, "accuracy": right / count}


def _batches(
    stream: Iterator[Encoded], recipe: MixtureRecipe, tokenizer: PreTrainedTokenizerFast
) -> Iterator[MicroBatch]:
    """Batches of dialogues of like length, in an order drawn anew for every pool."""
    generator = torch.Generator().manual_seed(recipe.seed)
    while True:
        pool: list[Encoded] = []
        tokens = 0
        while tokens < POOL_BATCHES * recipe.batch_tokens:
            pool.append(next(stream))
            tokens += len(pool[-1][0])
        groups = cut_by_length(pool, recipe.batch_tokens)
        for place in torch.randperm(len(groups), generator=generator).tolist():
            yield collate(groups[place], int(tokenizer.pad_token_id))


def _losses(model: Any, batch: MicroBatch, recipe: MixtureRecipe) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """The next token's loss, and how unevenly experts are used (`top_k` is even)."""
    # padding needs no mask: it follows every token that counts
    out = model(input_ids=batch.ids, use_cache=False)
    weight = torch.where(batch.is_answer[:, 1:], 1.0, recipe.prompt_weight)[batch.is_token[:, 1:]]
    logits = out.logits[:, :-1][batch.is_token[:, 1:]].float()
    loss = F.cross_entropy(logits, batch.ids[:, 1:][batch.is_token[:, 1:]], reduction="none")
    return (loss * weight).sum() / weight.sum(), out.aux_loss


def _optimizer(model: Any, recipe: MixtureRecipe) -> torch.optim.Optimizer:  # noqa: ANN401
    parameters = list(model.parameters())
    groups = [
        {"params": [weight for weight in parameters if weight.dim() > 1], "weight_decay": recipe.decay},
        {"params": [weight for weight in parameters if weight.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.95), eps=1e-8, fused=True)


def _factor(recipe: MixtureRecipe, step: int, done: float) -> float:
    """Share of the highest rate at a step when a share `done` of the time is up."""
    return min((step + 1) / recipe.warmup_steps, 1.0, (1 - done) / recipe.decay_share)


def _save(model: Any, tokenizer: PreTrainedTokenizerFast, out: Path, figures: dict[str, float]) -> None:  # noqa: ANN401
    if not math.isfinite(figures["loss"]):
        raise FloatingPointError("the loss must stay finite: lower the rate")
    log.info("held-out %s", {name: round(value, 4) for name, value in figures.items()})
    weights = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    half = OlmoeForCausalLM(model.config).bfloat16()
    half.load_state_dict(weights)
    half.save_pretrained(out)
    tokenizer.save_pretrained(out)
