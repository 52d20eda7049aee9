"""Dialogues as the frozen model sees them: by a pass when one is trained on, or from the cache on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import DraftHead
from bench.tasks.chat import ChatFormat
from bench.train.cache.rows import RowCache
from bench.train.data.conversations import Conversations
from bench.train.trainers.modules import Example, observed
from bench.train.trainers.recipe import ModuleRecipe
from methods.core.base import ModuleTrainer

if TYPE_CHECKING:
    from bench.train.data.embedded import EmbeddedCorpus


def examples_of(
    trainer: ModuleTrainer,
    decoder: Decoder,
    head: DraftHead,
    data: Conversations | EmbeddedCorpus,
    chat: ChatFormat,
    recipe: ModuleRecipe,
    cache: str | None,
    facts: Mapping[str, Any],
) -> Iterator[Example]:
    """An endless stream of dialogues to train modules on.

    Args:
        trainer: Says which rows its loss reads.
        decoder: The frozen model.
        head: The head that drafts.
        data: The dialogues.
        chat: Their format.
        recipe: Most tokens of a dialogue, and the seed of their order.
        cache: Folder of the cache, filled if it is not; None runs every dialogue through the model.
        facts: What the rows depend on beside the dialogues; ``model_weights`` is read.

    Raises:
        UserError: If dialogues that never end are to be cached, or the folder holds another cache.
    """
    if cache is None:
        return observed(trainer, decoder, head, data.stream(chat, recipe.seed), recipe.max_tokens)
    if not isinstance(data, Conversations):
        raise UserError(
            "these dialogues never end, so a cache cannot hold them", "leave out cache, or set data=answers"
        )
    most = min(recipe.max_tokens, decoder.capacity)
    dialogues = [(ids[:most], is_answer[:most]) for ids, is_answer in data.dialogues(chat)]
    rows = RowCache(Path(cache), decoder, dialogues, {"model_weights": facts["model_weights"]})
    taps = trainer.taps(decoder)
    rows.fill(taps)
    return rows.examples(taps, head, recipe.seed)
