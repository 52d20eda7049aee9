"""stub"""
from __future__ import annotations
from methods.hamburger_model import HamburgerModel, HamburgerShape, joint_loss, collate, NEW_PARTS
from methods.hamburger_training import Grouping, answers_of
from methods.base import Exactness


class Hamburger:
    def __init__(self, *, weights, confidence, position_convention, max_group, micro_layers, floor, ratio, singles, random_splits, stop_weight):
        self._grouping = Grouping(max_group, floor, ratio, singles, random_splits)
        self._max_group, self._micro_layers, self._stop_weight = max_group, micro_layers, stop_weight

    def attach(self, decoder): ...
    def generate(self, prompt_ids, budget, sampler, clock): ...
    def exactness(self, sampler): return Exactness.LOSSY

    def _shape(self, decoder):
        return HamburgerShape.for_model(decoder.config, self._max_group, self._micro_layers)

    def new_model(self, decoder):
        return HamburgerModel.from_decoder(decoder, self._shape(decoder))

    def new_parts(self):
        return NEW_PARTS

    def examples(self, ids, is_answer, decoder, rng):
        return answers_of(ids, is_answer, decoder, self._grouping, rng)

    def joint_loss(self, model, examples, decoder):
        rotation = decoder.placement.rotation(0, decoder.capacity)
        return joint_loss(model, collate(examples, self._max_group, decoder.device), rotation, self._stop_weight)

    def blocks(self, decoder):
        return {"hamburger": self._shape(decoder).plain()}
