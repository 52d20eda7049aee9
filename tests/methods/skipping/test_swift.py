"""SWIFT: exact whatever set drafts, a search that finds better sets, state that outlives the prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.errors import UserError
from bench.measure.runner import execute
from bench.records.model import Generation, Verdict
from bench.records.store import load_samples
from bench.runtime.decoder import Decoder, Skip
from bench.runtime.sampling import Sampler, Sampling
from methods.core.autoregressive import Autoregressive
from methods.core.base import Budget, Method, Stateful
from methods.core.tree_round import TreeDraft
from methods.skipping.search import Candidates
from methods.skipping.sublayer_skip import skip_of, sublayers
from methods.skipping.swift import Swift, Widths, confidence_tree
from tests.methods.skipping.skips import swift, tiny_settings, yaml_of
from tests.methods.small import CPU, FAMILIES, prompt, random_decoder, run


def attached(decoder: Decoder, **changes: Any) -> Swift:
    method = swift(**changes)
    method.attach(decoder)
    return method


def greedy_ids(decoder: Decoder, ids: Tensor, new: int = 40) -> tuple[int, ...]:
    baseline = Autoregressive()
    baseline.attach(decoder)
    return run(baseline, ids, new=new).ids


class Restless(Swift):
    """Drafts every round with another random set, and holds the cache to its invariant after each."""

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        assert self._decoder.cache.length == base  # raises where layers differ
        every = Candidates.of(self._decoder.depth, keep_first_last=False)
        number = int(torch.randint(9, (), generator=self.random))
        self._start = every.skip(torch.randperm(every.count, generator=self.random)[:number].tolist())
        draft = super().draft(root, base, room, slots, sampler)
        assert self._decoder.cache.length == base
        return draft

    random = torch.Generator().manual_seed(0)


CHAIN = {"widths_greedy": [1, 1, 1, 1], "widths_sampling": [1, 1, 1, 1]}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [{}, CHAIN], ids=["tree", "chain"])
def test_sets_that_change_every_round_leave_the_ids_the_targets_own(
    shape: dict[str, Any], family: str
) -> None:
    decoder = random_decoder(family)
    method = Restless(**{**yaml_of("swift"), "search": False, "threshold": 0.02, **shape})
    method.attach(decoder)
    for length in (1, 13):
        got = run(method, prompt(length), new=50)
        assert got.ids == greedy_ids(decoder, prompt(length), 50)
        assert decoder.cache.length == length + len(got.ids) - 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("window_from", ["first", "last"])
def test_a_search_at_work_leaves_the_ids_the_targets_own(window_from: str, family: str) -> None:
    decoder = random_decoder(family)
    method = attached(decoder, window_from=window_from, threshold=0.05)
    for seed in (3, 4):
        got = run(method, prompt(9, seed), new=40)
        assert got.ids == greedy_ids(decoder, prompt(9, seed))
        assert got.counts["search_steps"] > 1


def test_with_nothing_skipped_every_best_token_is_accepted() -> None:
    decoder = random_decoder()
    method = attached(
        decoder, search=False, skip_attention=[], skip_mlp=[], threshold=0.0, draft_length=4, **CHAIN
    )
    got = run(method, prompt(), new=1 + 30)
    assert [(round_.drafted, round_.accepted) for round_ in got.rounds] == [(4, 4)] * 6
    assert got.counts == {"skipped_sublayers": 0, "sublayers": 12 * 6}


def test_the_window_is_scored_behind_the_prompt_as_computed_by_hand() -> None:
    """A score equals single skipped steps over the first W answer tokens, counted one by one."""
    decoder, window = random_decoder(), 6
    method = attached(decoder, window=window)
    answer = greedy_ids(decoder, prompt(9), 20)
    skip = method.skip
    with torch.inference_mode():
        hits, skipped = 0, method._skipped
        decoder.prefill(prompt(9))
        skipped.start(9, skip)
        for t in range(window):
            logits = skipped.advance(torch.tensor([answer[t]]))
            hits += int(logits.argmax()) == answer[t + 1]
    run(method, prompt(9), new=window + 2)  # the first answer long enough: exactly the start set is scored
    assert method._search is not None
    assert method._search.tries == 0
    assert method._search.score == pytest.approx(hits / window)


def test_no_score_before_the_window_is_full_and_one_per_interval_behind_it() -> None:
    decoder = random_decoder()
    short = run(attached(decoder, window=20), prompt(), new=21)
    assert (short.counts["search_steps"], short.counts["searching_rounds"]) == (0, len(short.rounds))
    plain = {"threshold": 1.0, "search": True}
    every = run(attached(decoder, **plain), prompt(), new=40)
    third = run(attached(decoder, opt_interval=3, **plain), prompt(), new=40)
    assert every.counts["search_steps"] > 2 * third.counts["search_steps"] > 0


def test_the_set_outlives_the_prompt_and_a_reset_forgets_it() -> None:
    method = attached(random_decoder())
    start = method.skip
    first = run(method, prompt(9), new=60)
    better = method.skip
    assert better != start
    run(method, prompt(9, 5), new=3)  # too short to search
    assert method.skip == better
    assert isinstance(method, Stateful)
    method.reset()
    assert method.skip == start
    assert run(method, prompt(9), new=60) == first


def test_counts_tell_the_search_from_what_follows() -> None:
    method = attached(random_decoder(), max_iter=4)
    first, second = run(method, prompt(9), new=60), run(method, prompt(9), new=60)
    assert first.counts["search_steps"] == 1 + 5
    assert 6 <= first.counts["searching_rounds"] < len(first.rounds)
    assert (second.counts["search_steps"], second.counts["searching_rounds"]) == (0, 0)
    assert second.counts["skipped_sublayers"] == sublayers(method.skip) * len(second.rounds)
    fixed = run(attached(random_decoder(), search=False), prompt(9))
    assert "search_steps" not in fixed.counts


class Noted:
    """A clock that notes which phases were entered, and in which none was open."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self._open = False

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        assert not self._open
        self._open = True
        self.phases.append(name)
        yield
        self._open = False

    def first_token(self) -> None:
        assert not self.phases


def generate(method: Method, clock: Any, new: int = 40) -> Generation:
    with torch.inference_mode():
        return method.generate(prompt(), Budget(new, frozenset()), Sampler(Sampling(), CPU, 0), clock)


def test_the_search_is_a_phase_of_its_own() -> None:
    clock = Noted()
    got = generate(attached(random_decoder()), clock)
    assert clock.phases.count("search") == got.counts["search_steps"] > 0
    assert clock.phases[:3] == ["draft", "verify", "commit"]


def test_near_the_capacity_scores_are_left_out() -> None:
    decoder = random_decoder()
    method = attached(decoder, window=6)
    got = run(method, prompt(200), new=56)
    assert got.ids == greedy_ids(decoder, prompt(200), 56)
    assert 0 < got.counts["search_steps"] < len(got.rounds)


@pytest.mark.parametrize(
    ("confidence", "greedy", "sampling"),
    [(0.97, 3, 1), (0.95, 5, 3), (0.9, 5, 3), (0.8, 8, 5), (0.6, 8, 5), (0.5, 10, 10), (0.1, 10, 10)],
)
def test_widths_follow_confidence(confidence: float, greedy: int, sampling: int) -> None:
    settings = yaml_of("swift")
    assert Widths(settings["cuts"], settings["widths_greedy"]).of(confidence) == greedy
    assert Widths(settings["cuts"], settings["widths_sampling"]).of(confidence) == sampling


def test_the_tree_of_the_paper_has_its_size_and_only_the_best_have_children() -> None:
    shape = Widths([0.95, 0.8, 0.5], [3, 5, 8, 10])
    tree = confidence_tree(tuple(shape.of(confidence) for confidence in (0.97, 0.96, 0.9, 0.6)), CPU)
    assert (tree.size, tree.depth) == (20, 4)
    assert [len(below) for below in tree.children if below] == [3, 3, 5, 8]
    assert all(not any(path[:-1]) for path in tree.paths)
    assert confidence_tree((3, 5), CPU) is confidence_tree((3, 5), CPU)


def test_drafting_stops_behind_an_unsure_token_and_keeps_it() -> None:
    got = run(attached(random_decoder(), search=False, threshold=1.0), prompt(), new=20)
    assert {(round_.depth, round_.stop) for round_ in got.rounds[:-1]} == {(1, "confidence")}
    sure = run(attached(random_decoder(), search=False, threshold=0.0, draft_length=3), prompt(), new=20)
    assert {(round_.depth, round_.stop) for round_ in sure.rounds[:-1]} <= {
        (3, "length"),
        (2, "budget"),
        (1, "budget"),
    }


@pytest.mark.parametrize("shape", [{}, CHAIN], ids=["tree", "chain"])
def test_sampled_tokens_follow_the_target(shape: dict[str, Any]) -> None:
    """Verified tokens of 300 answers against the target's exact distribution, by total variation."""
    decoder, draws, sampling = random_decoder(), 300, Sampling(temperature=0.7, top_k=3)
    method = attached(decoder, search=False, threshold=0.0, **shape)
    counts = torch.zeros(96)
    for seed in range(draws):
        counts[run(method, prompt(5), new=3, sampling=sampling, seed=seed).ids[1]] += 1
    expected = _second_token(decoder, prompt(5), Sampler(sampling, CPU, 0))
    assert float((counts / draws - expected).abs().sum()) / 2 < 0.12


@torch.inference_mode()
def _second_token(decoder: Decoder, ids: Tensor, sampler: Sampler) -> Tensor:
    """The exact distribution of the second answer token, by enumeration of the first."""
    first = sampler.probabilities(decoder.prefill(ids))[0]
    total = torch.zeros_like(first)
    for token in first.nonzero()[:, 0]:
        total += first[token] * sampler.probabilities(decoder.prefill(torch.cat([ids, token[None]])))[0]
    return total


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_from": "middle"}, "window_from must be one of first, last"),
        ({"window": 0}, "window must be at least 1"),
        ({"skip_ratio": 1.0}, "skip_ratio"),
        ({"widths_greedy": [3, 5]}, "one more width than cuts"),
        ({"cuts": [0.5, 0.8, 0.95]}, "falling cuts"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        swift(**changes)


def test_sets_and_ratios_that_do_not_fit_the_model_are_refused() -> None:
    with pytest.raises(UserError, match=r"skip_attention names layers \[7\]"):
        attached(random_decoder(), skip_attention=[7])
    with pytest.raises(UserError, match=r"skip_ratio 0\.1 of this model's 8 candidates"):
        attached(random_decoder(), skip_ratio=0.1)


def test_a_given_set_starts_the_search() -> None:
    assert attached(random_decoder(), skip_attention=[2], skip_mlp=[1, 4]).skip == Skip(
        frozenset({2}), frozenset({1, 4})
    )
    assert attached(random_decoder()).skip == skip_of([1, 3], [1, 3])


@pytest.mark.slow
def test_all_builtin_prompts_of_tiny_are_answered_exactly(results_dir: Path) -> None:
    samples = load_samples(execute(tiny_settings("swift", results_dir)).run_dir)
    verdicts = Counter(sample.equivalence.verdict for sample in samples if sample.equivalence is not None)
    assert set(verdicts) == {Verdict.EXACT}
    assert verdicts.total() >= 480
