"""How HAMburger's whole model is tuned; `methods.hamburger.draft` decodes with it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from methods.core.base import Example
from methods.hamburger.batch import Answer, collate
from methods.hamburger.checkpoint import BLOCK
from methods.hamburger.decoded import as_checkpoint
from methods.hamburger.model import NEW_PARTS, HamburgerModel, HamburgerShape, joint_loss
from methods.hamburger.training import answers_of, distilled_labels

if TYPE_CHECKING:
    from methods.hamburger.draft import Hamburger


class HamburgerTrainer:
    """Tunes the model; see `methods.core.base.ModelTrainer`.

    Args:
        method: With the settings to train for.
    """

    def __init__(self, method: Hamburger) -> None:
        self._method = method
        self._grouping, self._micro_layers = method.grouping, method.micro_layers
        self._stop_weight, self._distilled = method.stop_weight, method.distilled

    def new_model(self, decoder: Decoder) -> nn.Module:
        config = decoder.config
        if config.fused or config.norm_offset or config.embed_scale != 1:
            raise UserError(
                f"hamburger cannot tune a {config.family}: its checkpoints store fused or shifted weights",
                "tune a model of the Llama, Mistral or Qwen families",
            )
        return HamburgerModel.from_decoder(decoder, self._trained_shape(decoder))

    def new_parts(self) -> tuple[str, ...]:
        return NEW_PARTS

    def examples(
        self, model: nn.Module, ids: Sequence[int], is_answer: Sequence[bool], decoder: Decoder, rng: Random
    ) -> list[Example]:
        decoded = partial(self._decoded_sizes, model, decoder)
        return list(answers_of(ids, is_answer, decoder, self._grouping, decoded, rng))

    def _decoded_sizes(self, model: nn.Module, decoder: Decoder, ids: Sequence[int], start: int) -> list[int]:
        """Sizes of the groups that decoding cuts an answer into which begins at `start` and ends the ids."""
        assert isinstance(model, HamburgerModel)
        reader = copy(self._method)  # the method itself stays bound as it was
        reader.use(as_checkpoint(model, decoder, len(ids)))
        return reader.group_sizes(torch.tensor(ids[:start], device=decoder.device), ids[start:])

    def joint_loss(
        self, model: nn.Module, examples: Sequence[Example], decoder: Decoder
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `methods.hamburger.model.joint_loss`."""
        assert isinstance(model, HamburgerModel)
        answers = [example for example in examples if isinstance(example, Answer)]
        groups = collate(answers, self._grouping.max_group, decoder.device)
        rotation = decoder.placement.rotation(0, decoder.capacity)
        labels = distilled_labels(groups, decoder, self._distilled)
        return joint_loss(model, groups, rotation, self._stop_weight, labels)

    def blocks(self, decoder: Decoder) -> dict[str, dict[str, Any]]:
        grouping = self._grouping
        segmentation = {"strategy": "decreasing_v2", "min": grouping.floor, "ratio": grouping.ratio}
        others = {
            "singles": grouping.singles,
            "random_splits": grouping.random,
            "decoded_groups": grouping.decoded,
            "confidence": self._method.confidence,
            "token_confidence": self._method.token_confidence,
            "merge_delay": self._method.merge_delay,
        }
        shape = self._trained_shape(decoder).plain()
        losses = {"stop_weight": self._stop_weight, "distilled": self._distilled}
        return {BLOCK: {**shape, "segmentation": segmentation | others, **losses}}

    def _trained_shape(self, decoder: Decoder) -> HamburgerShape:
        return HamburgerShape.for_model(decoder.config, self._grouping.max_group, self._micro_layers)
