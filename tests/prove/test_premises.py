"""Premises watched in every round: honest methods hold them, every mistake is named with its round."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.prove.certificates import Check, Status
from bench.prove.controls import CONTROLS, HONEST, Branches, Chain, Control
from bench.prove.premises import check_premises
from bench.prove.targets import Target, random_target
from bench.records.model import Generation
from bench.runtime.loading import RuntimeOptions
from bench.runtime.sampling import Sampler, Sampling
from bench.runtime.tier_choice import choose_tier
from methods.core.autoregressive import Autoregressive
from methods.core.base import Budget, Clock, Method
from methods.core.chain import Draft
from methods.core.tree_round import TreeDraft

SAMPLINGS = (Sampling(), Sampling(1.0))


@pytest.fixture(scope="module")
def target() -> Target:
    cpu = torch.device("cpu")
    options = RuntimeOptions(cpu, torch.float32, 128, choose_tier("auto", cpu))
    return random_target("llama", 4, options, new=24, seed=0)


def watched(method: Method, target: Target) -> Check:
    method.attach(target.decoder)
    return check_premises(method, target, SAMPLINGS, seed=0)


@pytest.mark.parametrize("control", HONEST, ids=lambda control: control.name)
def test_honest_methods_hold_every_premise(control: Control, target: Target) -> None:
    check = watched(control.build(), target)
    assert check.status is Status.PASSED, check.detail
    assert check.figures["rows"] > check.figures["rounds"] > 20


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_every_control_is_caught_in_a_round_that_is_named(control: Control, target: Target) -> None:
    check = watched(control.build(), target)
    assert check.status is Status.FAILED
    assert ", round " in check.subject


class OwnDice(Chain):
    """Draws its drafts from torch's global stream."""

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        guess = torch.randint(96, (1,))
        return Draft(guess[:room], "length")


class PeeksAtTheStream(Chain):
    """Takes its drafts from the sampler's stream and says nothing of it."""

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        guess = torch.randint(96, (1,), generator=sampler.generator)
        return Draft(guess[:room], "length")


class StatesOtherRows(Chain):
    """States distributions that its tokens were not drawn from."""

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        draft = super().draft(root, base, room, sampler)
        if draft.probs is None:
            return draft
        return Draft(draft.tokens, draft.stop, draft.probs.roll(1, dims=-1))


class WrongMask(Branches):
    """A node of the tree sees its siblings."""

    def _run(self, draft: TreeDraft, base: int, slip: int) -> Tensor:
        decoder, tree = self._decoder, draft.tree
        place = decoder.placement.tree(base, tree.offsets, torch.ones_like(tree.sees).tril())
        return decoder.head(decoder.run_layers(decoder.embed(draft.tokens), place))


class DropsATokens(Chain):
    """Returns less than its rounds emitted."""

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        whole = super().generate(prompt_ids, budget, sampler, clock)
        return whole.cut(len(whole.ids) - 1, frozenset())


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        (OwnDice, "global random numbers"),
        (PeeksAtTheStream, "its draft states no distributions"),
        (StatesOtherRows, "other distributions than its tokens were drawn from"),
        (WrongMask, "not the target's own logits"),
        (DropsATokens, "its rounds emitted"),
    ],
)
def test_other_mistakes_are_named(method: type[Chain], problem: str, target: Target) -> None:
    check = watched(method(), target)
    assert check.status is Status.FAILED
    assert problem in check.detail


def test_a_method_with_a_loop_of_its_own_is_not_watched(target: Target) -> None:
    check = watched(Autoregressive(), target)
    assert (check.status, check.detail) == (Status.SKIPPED, "decodes by a loop of its own")


class Elsewhere(Chain):
    """Has all that a drafter has, and lets another one do the work."""

    def generate(self, prompt_ids: Tensor, budget: Budget, sampler: Sampler, clock: Clock) -> Generation:
        other = Chain()
        other.attach(self._decoder)
        return other.generate(prompt_ids, budget, sampler, clock)


def test_rounds_that_were_not_seen_prove_nothing(target: Target) -> None:
    check = watched(Elsewhere(), target)
    assert (check.status, check.detail) == (Status.SKIPPED, "no round went through its drafter")


def test_watching_leaves_nothing_behind(target: Target) -> None:
    method = Chain()
    watched(method, target)
    assert "draft" not in vars(method)
