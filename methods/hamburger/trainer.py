"""How HAMburger's whole model is tuned; `methods.hamburger.draft` decodes with it.

Differs from the authors' training in:
- part of the answers are cut into other groups (`methods.hamburger.groups.cut_answer`), some of them into
  those that decoding would cut. Segmentation by entropy knows where the untuned model was sure; decoding
  relies on the stop head and the micro-step decoder, which see far less. A model trained on segmented answers
  alone reads the groups it decodes worse than single tokens;
- tokens can be learned as the untuned model's distributions; the paper has the text's tokens alone;
- the thresholds of the segmentation are settings.

Shapes: T tokens of a dialogue, M answer tokens, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import cache, partial
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from bench.records.model import Generation
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler, Sampling
from methods.core.base import Budget, Example, NoClock
from methods.hamburger.checkpoint import BLOCK, NEW_PARTS, checkpoint_of
from methods.hamburger.draft import Hamburger, TrainingSettings
from methods.hamburger.groups import Answer, Groups, collate, cut_answer, entropies
from methods.hamburger.module import HamburgerModel, joint_loss
from methods.hamburger.shape import HamburgerShape
from methods.training.trained_model import require_plain


class HamburgerTrainer:
    """Tunes the model; see `methods.core.base.ModelTrainer`.

    Args:
        method: Its confidences and merge delay cut answers as decoding would.
        settings: What to train, and on which groups.
    """

    def __init__(self, method: Hamburger, settings: TrainingSettings) -> None:
        self._method, self._settings = method, settings

    def new_model(self, decoder: Decoder) -> nn.Module:
        require_plain(decoder.config, "hamburger")
        return HamburgerModel.from_decoder(decoder, self._shape(decoder))

    def new_parts(self) -> tuple[str, ...]:
        return NEW_PARTS

    @torch.no_grad()
    def examples(
        self, model: nn.Module, ids: Sequence[int], is_answer: Sequence[bool], decoder: Decoder, rng: Random
    ) -> list[Example]:
        """Every answer of a dialogue, with all tokens before it as its prompt.

        Args:
            model: The one in training; cuts some answers as its decoding would.
            ids: Token ids, length T.
            is_answer: Which of them are answers, their end tokens included, length T.
            decoder: The untuned model; its entropies cut the other answers.
            rng: Chooses the way each answer is cut.
        """
        tokens = torch.tensor(ids, device=decoder.device)
        decoder.cache.truncate(0)
        hidden = decoder.run_layers(decoder.embed(tokens), decoder.placement.chain(0, len(ids)))
        values = [0.0, *entropies(decoder.head(hidden)).tolist()]  # entry i is for the prediction of token i
        reader = cache(partial(self._reader, model, decoder, len(ids)))  # made once, and only if needed
        examples: list[Example] = []
        for start, end in _answer_spans(is_answer):
            decoded = partial(_decoded_groups, reader, tokens[:start], ids[start:end])
            sizes, is_labelled = cut_answer(values[start:end], self._settings, decoded, rng)
            examples.append(Answer(ids[:end], start, sizes, is_labelled, hidden[start - 1 : end - 1]))
        return examples

    def _reader(self, model: nn.Module, decoder: Decoder, capacity: int) -> Hamburger:
        """The method on the model in training, for sequences of up to `capacity` tokens."""
        assert isinstance(model, HamburgerModel)
        reader = copy(self._method)  # the method itself stays bound as it was
        reader.use(checkpoint_of(model.state_dict(), model.shape, decoder, capacity))
        return reader

    def joint_loss(
        self, model: nn.Module, examples: Sequence[Example], decoder: Decoder
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `methods.hamburger.module.joint_loss`."""
        assert isinstance(model, HamburgerModel)
        answers = [example for example in examples if isinstance(example, Answer)]
        groups = collate(answers, self._settings.max_group, decoder.device)
        rotation = decoder.placement.rotation(0, decoder.capacity)
        labels = distilled_labels(groups, decoder, self._settings.distilled)
        return joint_loss(model, groups, rotation, self._settings.stop_weight, labels)

    def blocks(self, decoder: Decoder) -> dict[str, dict[str, Any]]:
        settings, method = self._settings, self._method
        segmentation = {
            "strategy": "decreasing_v2",
            "min": settings.floor,
            "ratio": settings.ratio,
            "singles": settings.singles,
            "random_splits": settings.random_splits,
            "decoded_groups": settings.decoded_groups,
            "confidence": method.confidence,
            "token_confidence": method.token_confidence,
            "merge_delay": method.merge_delay,
        }
        losses = {"stop_weight": settings.stop_weight, "distilled": settings.distilled}
        return {BLOCK: {**self._shape(decoder).plain(), "segmentation": segmentation, **losses}}

    def _shape(self, decoder: Decoder) -> HamburgerShape:
        settings = self._settings
        sizes = (settings.max_group, settings.micro_layers, settings.micro_mlp_width, settings.rank)
        return HamburgerShape.for_model(decoder.config, *sizes)


@torch.no_grad()
def distilled_labels(groups: Groups, decoder: Decoder, share: float) -> Tensor | None:
    """Distributions that answer tokens are learned as, shape [M, V]; None for the text's tokens alone.

    The untuned model's distribution also says how likely every other token was.

    Args:
        groups: The batch.
        decoder: The untuned model.
        share: Of its distributions in the mix with the text's tokens.
    """
    if share == 0:
        return None
    labels = decoder.head(groups.teacher_rows).float().softmax(dim=-1).mul_(share)
    rows = torch.arange(labels.shape[0], device=labels.device)
    labels[rows, groups.labels] += 1 - share
    return labels


def _answer_spans(is_answer: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Start and end of every run of answer tokens that has a prompt."""
    start: int | None = None
    for index, inside in enumerate([*is_answer, False]):
        if inside and start is None:
            start = index
        elif not inside and start is not None:
            if start > 0:
                yield start, index
            start = None


def _decoded_groups(reader: Callable[[], Hamburger], prompt_ids: Tensor, answer: Sequence[int]) -> list[int]:
    """Sizes of the groups that the reader would decode this answer [M] in; they sum to M."""
    budget = Budget(len(answer), frozenset())
    text = KnownText(answer, prompt_ids.device)
    return group_sizes(reader().generate(prompt_ids, budget, text, NoClock()))


def group_sizes(generation: Generation) -> list[int]:
    """Tokens of each group; they sum to the answer's length. The first token is the prefill's root.

    A round drafts the rest of a group and, unless the text ends, emits the root of the next one.
    """
    sizes = [1 + step.drafted for step in generation.rounds]
    rest = len(generation.ids) - sum(sizes)  # a last root that nothing was drafted after
    return [*sizes, rest] if rest else sizes


class KnownText(Sampler):
    """Picks the tokens of a text in their order, whatever the logits.

    Args:
        ids: The text.
        device: Where the logits live.
    """

    def __init__(self, ids: Sequence[int], device: torch.device) -> None:
        super().__init__(Sampling(), torch.device("cpu"), 0)  # the generator is not used
        self.is_greedy = False  # so that drafts call `draw`
        self._left: Iterator[Tensor] = iter(torch.tensor(ids, device=device)[:, None])

    def pick(self, logits: Tensor) -> Tensor:
        return next(self._left)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits

    def draw(self, probs: Tensor) -> Tensor:
        return next(self._left)
