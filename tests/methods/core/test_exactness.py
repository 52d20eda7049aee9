"""Every configured method keeps what it promises, whatever the model, prompt, budget or end.

The methods are the yaml files of ``conf/method``: one that is new is checked by being there.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder, Tier
from bench.runtime.sampling import Sampler
from methods.core.autoregressive import Autoregressive
from methods.core.chain import Draft, generate_chain
from tests.methods import checks
from tests.methods.options import Subject, attached, is_tuned_model, options, settings_of
from tests.methods.small import FAMILIES, UNLIKE_LLAMA, prompt, random_decoder, run
from tests.pairwise import rotated
from tests.runtime.models import AUTO

TIERS = sorted({"static", AUTO})
SEARCHING = "method.window=6 method.bayes_interval=0 method.max_score=2.0"
MORE = [
    "lookahead method.ngram=3 method.window=1 method.guesses=2",
    "layerskip method.exit_layer=1 method.draft_length=3",
    "layerskip method.exit_layer=5 method.draft_length=6",
    "layerskip method.exit_layer=5 method.draft_length=8 method.policy=dv",
    "del method.stop=false",
    "m2r2 method.threshold=0",
    "m2r2 method.threshold=0 method.gate=arla",
    "medusa method.tree=mc_sim_7b_63",
    "medusa method.acceptance=typical",
    "kangaroo method.threshold=0",
    "kangaroo method.threshold=0.3",
    "kangaroo_tree method.threshold=0.02",
    "draft_verify method.skip_attention=[1,3] method.skip_mlp=[1,3,5] method.threshold=0.02",
    f"swift method.threshold=0.02 {SEARCHING}",
    "clasp method.interval=1 method.threshold=0.02",
    "clasp method.interval=2 method.threshold=0 method.skip_ratio=0.2",
    "knapspec method.interval=2 method.threshold=0 method.least_similarity=-1",
    "knapspec method.costs=measured",
    "conflayers method.window=3 method.interval=2 method.threshold=0.02",
    "mask_tokens method.masks=1 method.block=8",
    "mask_tokens method.masks=4 method.block=60 method.update=1",
    "hamburger_verified method.confidence=0",
    "two_model method.policy=static method.layers=1 method.width=32",
]
"""Beside every yaml as it is: settings that draft more on a random model, or otherwise."""
CASES = [*options(), *MORE]
UNTUNED = [option for option in options() if not is_tuned_model(option)]
"""Methods on a model as it is; those that tune the model do so for the families with Llama's layers."""


def subject_of(
    case: str, factory: pytest.TempPathFactory, family: str = "llama", tier: Tier = AUTO
) -> Subject:
    """The method of a case, attached."""
    component = settings_of(*case.split()).method
    return attached(component, factory.mktemp("modules"), family=family, tier=tier)[1]


@pytest.mark.parametrize(("case", "tier", "family"), rotated(CASES, TIERS, list(FAMILIES)))
def test_greedy_ids_are_the_targets_own(
    case: str, family: str, tier: Tier, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """On every tier, after prompts of one or two tokens and of many; who refuses the family gets a llama."""
    try:
        subject = subject_of(case, tmp_path_factory, family, tier)
    except UserError:
        subject = subject_of(case, tmp_path_factory, "llama", tier)
    checks.check_greedy(subject, lengths=(1 + TIERS.index(tier), 17))


@pytest.mark.parametrize(("case", "tier", "family"), rotated(UNTUNED, TIERS, list(UNLIKE_LLAMA)))
def test_every_method_runs_on_families_unlike_llama(
    case: str, family: str, tier: Tier, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checks.check_greedy(subject_of(case, tmp_path_factory, family, tier), lengths=(17,))


@pytest.fixture(scope="module", params=CASES)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return subject_of(request.param, tmp_path_factory)


def test_sampled_answers_are_distributed_as_the_targets(subject: Subject) -> None:
    checks.check_sampling(subject)


def test_budget_is_met_exactly(subject: Subject) -> None:
    checks.check_budget(subject)


def test_output_ends_after_the_end_token_even_inside_a_round(subject: Subject) -> None:
    checks.check_end(subject)


def test_cache_holds_all_but_the_newest_token_after_a_generation(subject: Subject) -> None:
    checks.check_cache(subject)


class Scripted:
    """A chain method whose drafts are given: the target's own future, or anything but.

    Args:
        decoder: The target.
        future: The target's greedy continuation.
        right: How many tokens of each draft are right before one is wrong.
        length: Tokens per draft.
    """

    def __init__(self, decoder: Decoder, future: tuple[int, ...], right: int, length: int) -> None:
        self._decoder, self._future, self._right, self._length = decoder, future, right, length

    def prefill(self, prompt_ids: Tensor) -> Tensor:
        self._prompt = prompt_ids.numel()
        return self._decoder.prefill(prompt_ids)

    def draft(self, root: Tensor, base: int, room: int, sampler: Sampler) -> Draft:
        known = base - self._prompt + 1
        tokens = list(self._future[known : known + min(self._length, room)])
        tokens[self._right :] = [(token + 1) % 96 for token in tokens[self._right :]]
        return Draft(torch.tensor(tokens, dtype=torch.int64), "length")

    def verify(self, root: Tensor, draft: Draft, base: int) -> Tensor:
        return self._decoder.step(torch.cat([root, draft.tokens]), base)

    def commit(self, emitted: Tensor, base: int) -> None:
        return None


@pytest.mark.parametrize(
    ("right", "per_round"),
    [(0, 1), (2, 3), (4, 5)],
    ids=["all wrong: plain decoding", "two right", "all right: four and a bonus"],
)
def test_rounds_are_counted_as_predicted(right: int, per_round: int) -> None:
    decoder = random_decoder()
    baseline = Autoregressive()
    baseline.attach(decoder)
    future = run(baseline, prompt(), new=80).ids
    method = Scripted(decoder, future, right, length=4)

    class Whole:
        def attach(self, decoder: Decoder) -> None: ...
        def exactness(self, sampler: Sampler) -> str: ...
        def generate(self, prompt_ids, budget, sampler, clock):  # noqa: ANN001, ANN202
            return generate_chain(method, decoder, prompt_ids, budget, sampler, clock)

    got = run(Whole(), prompt(), new=1 + 30)
    assert got.ids == future[:31]
    assert [round_.emitted for round_ in got.rounds] == [per_round] * (30 // per_round)
