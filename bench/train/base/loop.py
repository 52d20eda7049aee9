"""One worker's training loop of the embedded model: gradients, their sum over the workers, the update.

Shapes: B dialogues of a micro-batch, S positions, N selected positions, D hidden size, L layers.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, distributed
from transformers import PreTrainedTokenizerFast

from bench.show.waiting import Wait
from bench.train.base import layerskip
from bench.train.base.data import MicroBatch, MicroBatches
from bench.train.base.evaluation import evaluate_exits
from bench.train.base.model import build_model, compiled_network
from bench.train.base.optim import BaseOptimizer
from bench.train.base.recipe import BaseRecipe
from bench.train.trainers.checkpoint import intact, load_state, save_state

GRAD_CLIP = 1.0
REPORT_EVERY = 20
TALLY = 6
log = logging.getLogger(__name__)


def sum_over_workers(tensor: Tensor) -> None:
    """Sum in place over the workers; nothing to do for one."""
    if distributed.is_initialized():
        distributed.all_reduce(tensor)


class Trainer:
    """One worker's share of a run.

    Args:
        recipe: Settings of the run.
        out: Folder of the run, which holds the tokenizer.
        rank: This worker's index; worker 0 logs, evaluates and saves.
        device: Where to compute.
    """

    def __init__(self, recipe: BaseRecipe, out: Path, rank: int, device: torch.device) -> None:
        self.recipe, self.out, self.rank, self.device = recipe, out, rank, device
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "tokenizer")
        bos, end = int(self.tokenizer.bos_token_id), int(self.tokenizer.eos_token_id)
        self.model = build_model(recipe.shape, recipe.seed, bos, end)
        torch.nn.Module.to(self.model, device)
        self.network = compiled_network(self.model, recipe.shape, torch.bfloat16, recipe.is_compiled)
        self.batches = MicroBatches(self.tokenizer, recipe.micro_tokens, recipe.seed, rank)
        self.optimizer = BaseOptimizer(
            self.model,
            muon_lr=recipe.muon_lr,
            adam_lr=recipe.adam_lr,
            decay=recipe.decay,
            rank=rank,
            workers=recipe.workers,
            sum_over_workers=sum_over_workers,
        )
        self.step, self.tokens = 0, 0
        self._buffer = self._gradient_buffer()
        self._resume()

    def _gradient_buffer(self) -> Tensor:
        """One flat tensor for all gradients and the tally, so that one call sums them over the workers."""
        weights = list(self.model.parameters())
        buffer = torch.zeros(sum(weight.numel() for weight in weights) + TALLY, device=self.device)
        start = 0
        for weight in weights:
            weight.grad = buffer[start : start + weight.numel()].view_as(weight)
            start += weight.numel()
        return buffer

    @property
    def _tally(self) -> Tensor:
        """Sums, shape [6]: weight and loss of the last layer and the exit, tokens, workers that must stop."""
        return self._buffer[-TALLY:]

    def run(self, must_stop: Callable[[], bool]) -> None:
        """Train to the end, or until any worker must stop; then save."""
        start, tokens = time.perf_counter(), self.tokens
        with Wait("training", self.recipe.steps, done=self.step) as wait:
            while self.step < self.recipe.steps:
                tally = self.train_step(must_stop())
                if tally is None:
                    break
                if self.rank == 0:
                    self._report(tally, (self.tokens - tokens) / (time.perf_counter() - start))
                    wait.add()
        if self.rank == 0:
            self._save()
            if self.step == self.recipe.steps:
                self._export()

    def train_step(self, must_stop: bool) -> list[float] | None:
        """One step of all workers.

        Returns:
            The tally summed over the workers, or None (and no update) if one of them must stop.

        Raises:
            FloatingPointError: If the loss is not finite.
        """
        recipe = self.recipe
        self._buffer.zero_()
        exit_ = layerskip.exit_of_step(self.step, recipe.shape.layers)
        stream = recipe.seed * recipe.workers + self.rank
        generator = torch.Generator().manual_seed(stream * 10**7 + self.step)
        for micro in range(0 if must_stop else recipe.micros_per_step):
            self._accumulate(self.batches[self.step * recipe.micros_per_step + micro], exit_, generator)
        self._tally[5] = float(must_stop)
        sum_over_workers(self._buffer)
        tally: list[float] = self._tally.tolist()
        if tally[5]:
            return None
        if not math.isfinite(tally[1]):
            raise FloatingPointError(
                f"loss must stay finite, got {tally[1]} at step {self.step}: lower the rates"
            )
        self._buffer[:-TALLY] /= tally[0]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRAD_CLIP)
        self.optimizer.step(recipe.lr_factor(self.step))
        self.step += 1
        self.tokens += int(tally[4])
        return tally

    def _accumulate(self, batch: MicroBatch, exit_: int, generator: torch.Generator) -> None:
        """Add the gradient of J = (CE_last + w CE_exit) / (1 + w), summed over one micro-batch."""
        recipe, layers = self.recipe, self.recipe.shape.layers
        rates = layerskip.dropout_rates(layers, self.step, recipe.steps, recipe.p_max)
        keep = layerskip.draw_keep(rates, batch.ids.shape[0], generator)
        states = self.network.hidden_states(batch.ids.to(self.device), keep.to(self.device))
        answers = batch.is_answer[:, 1:].float()
        weight = torch.where(batch.is_answer[:, 1:], 1.0, recipe.prompt_weight) * batch.is_token[:, 1:]
        final = self._loss(states[-1], batch.ids, weight)
        early = self._loss(states[exit_], batch.ids, answers)
        share = layerskip.exit_weight(exit_, layers, recipe.e_scale, recipe.exit_floor)
        torch.autograd.backward((final + share * early) / (1 + share))
        sums = (weight.sum(), final.detach(), answers.sum(), early.detach(), batch.is_token.sum())
        self._tally[:5] += torch.stack([value.float().to(self.device) for value in sums])

    def _loss(self, state: Tensor, ids: Tensor, weight: Tensor) -> Tensor:
        """Sum of weighted next-token losses. Shapes: state [B, S, D], ids [B, S], weight [B, S - 1]."""
        chosen = weight.flatten().nonzero().squeeze(1)  # [N]
        targets = ids[:, 1:].flatten()[chosen].to(self.device)
        rows = state[:, :-1].flatten(0, 1)[chosen.to(self.device)]  # [N, D]
        norm, head = self.network.head()
        return self.network.loss(rows, norm, head, targets, weight.flatten()[chosen].to(self.device))

    def _report(self, tally: list[float], speed: float) -> None:
        recipe, exit_ = self.recipe, layerskip.exit_of_step(self.step - 1, self.recipe.shape.layers)
        if self.step % REPORT_EVERY == 0 or self.step == 1:
            losses = f"loss {tally[1] / tally[0]:.4f} exit{exit_} {tally[3] / tally[2]:.4f}"
            log.info(
                "step %d/%d tokens %d tok/s %.0f %s", self.step, recipe.steps, self.tokens, speed, losses
            )
        if self.step % recipe.evaluate_every == 0:
            log.info("held-out %s", evaluate_exits(self.network, self.tokenizer, recipe.heldout_each))
        if self.step % recipe.checkpoint_every == 0:
            self._save()

    def _save(self) -> None:
        state = {"step": self.step, "tokens": self.tokens, "settings": asdict(self.recipe)}
        save_state(self.out, state | {"model": self.model.state_dict()} | self.optimizer.state())

    def _resume(self) -> None:
        state = load_state(self.out, asdict(self.recipe))
        if state is None:
            return
        with intact(self.out):
            self.model.load_state_dict(state["model"])
            self.optimizer.load(state["momentum"], state["adam"])
            self.step, self.tokens = int(state["step"]), int(state["tokens"])
        if self.rank == 0:
            log.info("resumed at step %d", self.step)

    def _export(self) -> None:
        partial, final = self.out / "final.partial", self.out / "final"
        self.model.bfloat16().save_pretrained(partial)  # half the size; loads in any precision
        self.tokenizer.save_pretrained(partial)
        partial.replace(final)
        log.info("finished: %s", final)
