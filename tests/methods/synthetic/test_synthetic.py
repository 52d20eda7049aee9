"""Synthetic rounds: acceptance as given, cost as the schedule says, ids that mean nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from bench.errors import UserError
from bench.records.model import Generation
from bench.runtime.sampling import Sampler, Sampling
from methods.core.autoregressive import Autoregressive
from methods.core.base import Exactness
from methods.core.trees import CPU
from methods.synthetic.draft import Synthetic
from methods.synthetic.draft_cost import DraftCost, Schedule
from tests.methods.small import prompt, random_decoder, run

FOLDER = Path(__file__).resolve().parents[3] / "conf" / "method" / "schedule"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
FREE = Schedule(
    name="free",
    layers=0.0,
    rows=1,
    adapter=0,
    resume=False,
    heads=0,
    nodes=None,
    pseudo=0,
    enter=0.0,
    verifies="nodes",
)


def preset(name: str) -> Schedule:
    values: Any = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    del values["_target_"]
    return Schedule(**values)


def generation(schedule: Schedule, rates: list[float], **options: Any) -> Generation:
    decoder = random_decoder()
    method = Synthetic(acceptance=rates, schedule=schedule)
    method.attach(decoder)
    return run(method, prompt(), **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("rates", "accepted"),
    [([1.0, 1.0, 1.0], 3), ([0.0, 1.0, 1.0], 0), ([1.0, 1.0, 0.0], 2)],
    ids=["all", "none", "up to the third"],
)
def test_rounds_accept_what_they_are_given(name: str, rates: list[float], accepted: int) -> None:
    rounds = generation(preset(name), rates, new=41).rounds
    whole = [round_ for round_ in rounds if round_.stop == "length"]
    assert {round_.accepted for round_ in whole} == {accepted}
    assert len(whole) >= 40 // (accepted + 1) - 3


def test_rates_are_conditional_on_the_positions_before() -> None:
    runs = [generation(FREE, [0.8, 0.5], new=200, seed=seed) for seed in range(12)]
    rounds = [round_ for run_ in runs for round_ in run_.rounds]
    first = [round_.accepted >= 1 for round_ in rounds if round_.depth == 2]
    second = [round_.accepted == 2 for round_ in rounds if round_.depth == 2 and round_.accepted >= 1]
    assert sum(first) / len(first) == pytest.approx(0.8, abs=0.03)
    assert sum(second) / len(second) == pytest.approx(0.5, abs=0.04)


def stopping(stops: list[float], **options: Any) -> Generation:
    method = Synthetic(acceptance=[0.5, 0.5, 0.5], schedule=options.pop("schedule", FREE), stops=stops)
    method.attach(random_decoder())
    return run(method, prompt(), **options)


def test_drafts_stop_where_they_are_told() -> None:
    rounds = [step for seed in range(12) for step in stopping([0.2, 0.5, 0.0], new=150, seed=seed).rounds]
    rounds = [step for step in rounds if step.stop != "budget"]
    depths = [step.depth for step in rounds]
    assert depths.count(0) / len(depths) == pytest.approx(0.2, abs=0.04)
    assert depths.count(1) / len(depths) == pytest.approx(0.4, abs=0.04)
    assert depths.count(2) == 0
    assert {step.stop for step in rounds if step.depth < 3} == {"confidence"}
    assert {step.stop for step in rounds if step.depth == 3} == {"length"}
    assert all(step.accepted <= step.depth == step.drafted for step in rounds)


@pytest.mark.parametrize("name", NAMES)
def test_every_schedule_can_stop_and_needs_no_draft(name: str) -> None:
    assert stopping([0.3, 0.3, 0.3], schedule=preset(name), new=40).rounds


@pytest.mark.parametrize("stops", [[0.5], [0.5, 0.5, 1.5]])
def test_stops_that_do_not_fit_the_rates_are_refused(stops: list[float]) -> None:
    with pytest.raises(ValueError, match="stops must hold"):
        Synthetic(acceptance=[0.5, 0.5, 0.5], schedule=FREE, stops=stops)


def test_an_exit_layer_may_be_given_as_a_number() -> None:
    schedule = replace(preset("adapter"), exit_at=2)
    assert schedule.exit_layer(32) == 2
    with pytest.raises(ValueError, match="exit_at"):
        replace(FREE, exit_at=2)


def test_the_draw_follows_the_samplers_seed() -> None:
    first, again, other = (generation(FREE, [0.5, 0.5], seed=seed).rounds for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("new", [1, 2, 5, 30])
def test_every_answer_takes_the_whole_budget_end_tokens_or_not(name: str, new: int) -> None:
    ends = frozenset(range(0, 96, 2))
    got = generation(preset(name), [0.9, 0.9, 0.9], new=new, eos=ends)
    assert len(got.ids) == new
    assert not ends & set(got.ids)


@pytest.mark.parametrize("name", NAMES)
def test_the_cache_grows_by_the_verified_path(name: str) -> None:
    decoder = random_decoder()
    method = Synthetic(acceptance=[1.0, 0.5], schedule=preset(name))
    method.attach(decoder)
    got = run(method, prompt(9), new=20)
    per_round = [1 if name == "macro" else round_.accepted + 1 for round_ in got.rounds]
    assert decoder.cache.length == 9 + sum(per_round)


def test_without_acceptance_the_ids_are_the_models_own() -> None:
    decoder = random_decoder()
    baseline = Autoregressive()
    baseline.attach(decoder)
    assert generation(preset("early_exit"), [0.0, 0.0]).ids == run(baseline, prompt()).ids


def test_it_promises_nothing_and_says_that_only_its_cost_counts() -> None:
    method = Synthetic(acceptance=[0.5], schedule=FREE)
    assert method.exactness(Sampler(Sampling(), CPU, 0)) is Exactness.LOSSY
    assert method.traits.is_cost_only


class Counting:
    """Counts rows through the layers and the head of a decoder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, decoder: Any) -> None:
        self.layers: list[tuple[int, int, int]] = []
        self.heads: list[int] = []
        run_layers, head = decoder.run_layers, decoder.head

        def counted(hidden: Any, rows: Any, start: int = 0, stop: int | None = None, **options: Any) -> Any:
            self.layers.append((hidden.shape[0], start, decoder.depth if stop is None else stop))
            return run_layers(hidden, rows, start, stop, **options)

        monkeypatch.setattr(decoder, "run_layers", counted)
        monkeypatch.setattr(
            decoder, "head", lambda rows, *own: self.heads.append(len(rows)) or head(rows, *own)
        )


@pytest.mark.parametrize(
    ("name", "layers", "heads"),
    [
        ("free", [(3, 0, 6)], [3]),
        ("early_exit", [(1, 0, 1)] * 3 + [(3, 1, 6)], [1, 1, 3]),
        ("adapter", [(1, 0, 1), (1, 1, 2)] * 2 + [(1, 0, 1), (3, 1, 6)], [1, 1, 3]),
        ("accelerated", [(2, 0, 2)] * 3 + [(3, 2, 6)], [1, 1, 3]),
        ("skip", [(1, 0, 3)] * 2 + [(3, 0, 6)], [1, 1, 3]),
        ("heads", [(16, 0, 6)], [1, 1, 1, 1, 16]),
        ("pseudo", [(8, 0, 4), (32, 4, 6)], [3, 8]),
        ("macro", [(1, 0, 1)] * 2 + [(1, 0, 6)], [1, 1, 1]),
    ],
)
def test_a_round_runs_the_layers_and_heads_of_its_schedule(
    name: str, layers: list[tuple[int, int, int]], heads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = random_decoder()
    schedule = preset(name)
    cost, tree = DraftCost(schedule, decoder), schedule.tree(2, CPU)
    decoder.prefill(prompt(9))
    counted = Counting(monkeypatch, decoder)
    tokens = cost.draft(prompt(1), 9, tree)
    cost.verify(tokens, 9, tree)
    assert (counted.layers, counted.heads) == (layers, heads)
    assert tokens.numel() == tree.size


def test_extra_nodes_become_siblings_one_depth_after_another() -> None:
    tree = replace(FREE, nodes=6).tree(2, CPU)
    assert set(tree.paths) == {(0,), (0, 0), (1,), (0, 1), (2,)}
    assert tree.first_path(2) == (0, 1, 4)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"layers": 1.5}, "shares in"),
        ({"rows": 0}, "at least 1 row"),
        ({"nodes": 0}, "nodes must be at least 1"),
        ({"verifies": "all"}, "verifies must be"),
        ({"resume": True}, "belong to draft steps"),
        ({"resume": True, "layers": 0.5, "nodes": 4}, "resume verifies the drafted chain"),
        ({"verifies": "root", "pseudo": 1}, "only the root"),
    ],
)
def test_contradictory_schedules_are_refused(change: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        replace(FREE, **change)


def test_rates_must_be_probabilities_and_fit_the_nodes() -> None:
    with pytest.raises(ValueError, match="probabilities in"):
        Synthetic(acceptance=[1.2], schedule=FREE)
    with pytest.raises(ValueError, match="nodes must exceed the 3 positions"):
        Synthetic(acceptance=[0.5] * 3, schedule=replace(FREE, nodes=3))


def test_a_schedule_deeper_than_the_model_is_refused() -> None:
    method = Synthetic(acceptance=[0.5], schedule=replace(FREE, layers=1.0, resume=True))
    with pytest.raises(UserError, match="drafts with 7 layers, this model has 6"):
        method.attach(random_decoder())


def test_a_draft_vocabulary_makes_the_head_that_drafts_smaller_and_leaves_the_other_whole() -> None:
    decoder = random_decoder()
    cost, tree = DraftCost(FREE, decoder, draft_vocab=10), FREE.tree(2, CPU)
    assert (cost._head.size, cost.verify(cost.draft(prompt(1), 0, tree), 0, tree).shape[1]) == (10, 96)
    with pytest.raises(UserError, match=r"draft_vocab=97, and the model has 96 tokens"):
        DraftCost(FREE, decoder, draft_vocab=97)
