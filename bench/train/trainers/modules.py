"""Training of a method's modules on a frozen model; the same code for all methods with modules.

A step takes some dialogues as the frozen model sees them, passes their hidden rows at the method's taps to
its loss in batches, and updates the modules. The rows come from a pass of the benchmark's decoder, or from
the cache on disk (`bench.train.cache`). `bench.train.trainers.loop` does the rest: schedule, log and
checkpoints.

Shapes: T tokens of a dialogue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.runtime.decoder import Decoder
from bench.runtime.modules import WEIGHTS_FILE, save_module
from bench.runtime.sampling import DraftHead
from bench.train.trainers.checkpoint import trained_state
from bench.train.trainers.course import TOKENS
from bench.train.trainers.loop import NO_FACTS, Dialogue, TrainingLoop
from bench.train.trainers.recipe import ModuleRecipe
from methods.core.base import ModuleTrainer
from methods.training.rows import LikelyTokens, TrainingRows, packed

Example = Callable[[], TrainingRows]
"""Gives one dialogue as the frozen model sees it, when it is called."""


class ModuleTraining(TrainingLoop[Example]):
    """One training run of a method's module.

    Args:
        trainer: The method's module and its loss.
        decoder: The frozen model.
        recipe: Settings.
        out: Folder of the run; checkpoints go to ``out/work``.
        start: Folders of trained modules; training starts from the mean of their weights, or from new weights
            if there are none.
        facts: See `TrainingLoop`.
    """

    def __init__(
        self,
        trainer: ModuleTrainer,
        decoder: Decoder,
        recipe: ModuleRecipe,
        out: Path,
        start: Sequence[Path] = (),
        facts: Mapping[str, Any] = NO_FACTS,
    ) -> None:
        self._trainer, self._decoder = trainer, decoder
        super().__init__("module", recipe, out, [folder / WEIGHTS_FILE for folder in start], facts)

    @property
    def module(self) -> nn.Module:
        """The module in training."""
        return self._trained

    def _new(self) -> nn.Module:
        return self._trainer.new_module(self._decoder).to(self._decoder.device)

    def _new_optimizer(self) -> torch.optim.AdamW:
        recipe = self._recipe
        learning = [weight for weight in self.module.parameters() if weight.requires_grad]
        return torch.optim.AdamW(learning, lr=recipe.lr, betas=(0.9, 0.95), weight_decay=recipe.weight_decay)

    def train_step(self, examples: Sequence[Example]) -> dict[str, float]:
        recipe = self._recipe
        figures = {TOKENS: 0.0}
        for batch in _batches(examples, recipe.pass_tokens):
            share = len(batch.lengths) / len(examples)
            with self._mixed_precision():
                loss, extra = self._trainer.loss(self.module, batch, self._decoder)
            (loss * share).backward()  # type: ignore[no-untyped-call]
            figures[TOKENS] += int(batch.mask.sum())
            for name, value in {"loss": float(loss.detach()), **extra}.items():
                figures[name] = figures.get(name, 0.0) + value * share
        self._update(recipe.lr)
        return figures

    def _mixed_precision(self) -> torch.autocast:
        """Products in bf16 where the frozen model runs in bf16; the module's weights stay in fp32."""
        decoder = self._decoder
        return torch.autocast(decoder.device.type, torch.bfloat16, enabled=decoder.dtype == torch.bfloat16)


def _batches(examples: Sequence[Example], most: int) -> Iterator[TrainingRows]:
    """The rows of the examples, in batches of at most `most` tokens; a longer dialogue is one alone."""
    waiting: list[TrainingRows] = []
    for example in examples:
        rows = example()
        if waiting and sum(part.ids.numel() for part in waiting) + rows.ids.numel() > most:
            yield packed(waiting)
            waiting = []
        waiting.append(rows)
    yield packed(waiting)


def observe(
    trainer: ModuleTrainer,
    decoder: Decoder,
    ids: list[int],
    is_answer: list[bool],
    head: DraftHead | None = None,
) -> TrainingRows:
    """Run one dialogue through the frozen model and return what the method's loss reads.

    `head` is the head that drafts; None stands for the model's own.
    """
    tokens = torch.tensor(ids, device=decoder.device)
    mask = torch.tensor([*is_answer[1:], False], device=decoder.device)
    hidden, likely = target_pass(decoder, tokens, mask, trainer.taps(decoder))
    return TrainingRows(tokens, hidden, mask, likely, head or DraftHead(decoder), (len(ids),))


@torch.no_grad()
def target_pass(
    decoder: Decoder, ids: Tensor, mask: Tensor, taps: Sequence[int]
) -> tuple[dict[int, Tensor], LikelyTokens]:
    """What the frozen model says of one dialogue.

    Args:
        decoder: The frozen model.
        ids: Token ids, shape [T], int64.
        mask: Which positions are trained, shape [T], bool.
        taps: Layers whose entering rows are wanted.

    Returns:
        The rows entering each of these layers, shape [T, d], and the next tokens at the trained positions.
    """
    hidden = dict.fromkeys(taps, decoder.embedding)
    decoder.cache.truncate(0)
    decoder.placement.begin(ids.numel())
    last = decoder.run_layers(decoder.embed(ids), decoder.placement.chain(0, ids.numel()), taps=hidden)
    return hidden, LikelyTokens.of(decoder.head(last[mask]))


def observed(
    trainer: ModuleTrainer, decoder: Decoder, head: DraftHead, dialogues: Iterator[Dialogue], most: int
) -> Iterator[Example]:
    """Dialogues as examples that run through the frozen model when they are called, cut to `most` tokens."""
    for ids, is_answer in dialogues:
        yield partial(observe, trainer, decoder, ids[:most], is_answer[:most], head)


def train_module(
    trainer: ModuleTrainer,
    decoder: Decoder,
    examples: Iterator[Example],
    recipe: ModuleRecipe,
    out: Path,
    provenance: Mapping[str, Any],
    start: Sequence[Path] = (),
) -> dict[str, float]:
    """Train a method's module and write what was trained to `out`.

    Args:
        trainer: The method's module and its loss.
        decoder: The frozen model.
        examples: Endless stream of dialogues; a resumed run needs the same stream from its beginning.
        recipe: Settings.
        out: Folder of the run, later the method's `weights`.
        provenance: Stored with the weights, together with the recipe and the method's own settings.
        start: See `ModuleTraining`.

    Returns:
        Mean figures of the last logged steps.
    """
    facts = {**provenance, **trainer.provenance(decoder)}
    training = ModuleTraining(trainer, decoder, recipe, out, start, facts)
    figures = training.run(examples)
    facts |= {"recipe": asdict(recipe), "figures": figures}
    tensors = {name: value.to(torch.bfloat16) for name, value in trained_state(training.module).items()}
    save_module(out, tensors, facts)
    return figures
