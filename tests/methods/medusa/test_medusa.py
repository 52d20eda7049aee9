"""Medusa: its heads, drafts from the accepted node, the loss, and refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.linear import rms_norm
from bench.runtime.modules import save_module
from bench.runtime.sampling import Sampler, Sampling
from bench.train.trainers.modules import observe
from methods.core.autoregressive import Autoregressive
from methods.core.base import Exactness, Trainable
from methods.core.tree_round import Calibratable, TreeDraft
from methods.core.trees import CPU, Tree
from methods.medusa.draft import HeadLayout, Medusa
from methods.medusa.module import MedusaHeads
from methods.training.rows import LIKELIEST
from tests.methods.small import FAMILIES, prompt, random_decoder, run

TREE = Tree.of_child_counts({"": 4, "0": 3, "1": 2, "00": 2, "01": 1, "000": 1})


def medusa(**changes: Any) -> Medusa:
    settings = {
        "weights": None,
        "tree": None,
        "acceptance": "exact",
        "epsilon": 0.09,
        "delta": 0.3,
        "heads": 4,
        "decay": 0.8,
    }
    return Medusa(**{**settings, **changes})


def random_heads(decoder: Decoder, seed: int = 1) -> dict[str, Tensor]:
    """Heads of random weights: hardly a draft is accepted."""
    torch.manual_seed(seed)
    module = MedusaHeads(decoder.config.width, decoder.config.vocab, HeadLayout(4))
    return {name: torch.randn_like(value) * 0.3 for name, value in module.state_dict().items()}


def saved(decoder: Decoder, folder: Path, **changes: Any) -> Medusa:
    """Medusa that loads random heads from `folder`."""
    save_module(folder, random_heads(decoder), {"method": "medusa", "heads": 4})
    return medusa(weights=str(folder), **changes)


def bound(decoder: Decoder, tree: Tree = TREE, **changes: Any) -> Medusa:
    method = medusa(**changes)
    method.use(decoder, random_heads(decoder), tree, HeadLayout(4))
    return method


def greedy(decoder: Decoder, ids: Tensor, new: int) -> tuple[int, ...]:
    baseline = Autoregressive()
    baseline.attach(decoder)
    return run(baseline, ids, new=new).ids


class Oracle(Medusa):
    """Medusa whose heads know the target's future."""

    def __init__(self, decoder: Decoder, future: tuple[int, ...], start: int, tree: Tree) -> None:
        super().__init__(
            weights=None, tree=None, acceptance="exact", epsilon=0.09, delta=0.3, heads=4, decay=0.8
        )
        self.use(decoder, random_heads(decoder), tree, HeadLayout(4))
        self._proposer = self.foresee  # type: ignore[assignment]
        self.future, self.start, self.depth = torch.tensor(future), start, tree.depth

    def foresee(self, rows: Tensor) -> Tensor:
        known = self._decoder.cache.length - self.start + 1
        ahead = self.future[known : known + self.depth]
        return F.one_hot(ahead, self._decoder.config.vocab).float()[None]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tree", [TREE, Tree.chain(3)], ids=["tree", "chain"])
def test_heads_that_know_the_future_have_every_round_accepted(family: str, tree: Tree) -> None:
    decoder = random_decoder(family)
    future = greedy(decoder, prompt(), 60)
    new = 1 + 5 * (tree.depth + 1)
    got = run(Oracle(decoder, future, 12, tree), prompt(), new=new)
    assert got.ids == future[:new]
    assert [(step.drafted, step.accepted) for step in got.rounds] == [(tree.size - 1, tree.depth)] * 5


def test_random_heads_cost_nothing_but_time() -> None:
    decoder = random_decoder()
    got = run(bound(decoder), prompt(), new=40)
    assert got.ids == greedy(decoder, prompt(), 40)
    assert sum(step.accepted for step in got.rounds) < len(got.rounds)


class Watched(Medusa):
    """Medusa that notes its drafts by the position of their root."""

    def draft(self, root: Tensor, base: int, room: int, slots: int, sampler: Sampler) -> TreeDraft:
        draft = super().draft(root, base, room, slots, sampler)
        self.notes = {**getattr(self, "notes", {}), base: draft}
        return draft


@pytest.mark.parametrize("future_known", [False, True], ids=["nothing accepted", "paths accepted"])
def test_a_round_drafts_what_the_known_text_would_propose_there(future_known: bool) -> None:
    """The row carried from an accepted node is that of the finished text: training rows equal decode rows."""
    decoder = random_decoder()
    method = Watched(weights=None, tree=None, acceptance="exact", epsilon=0.09, delta=0.3, heads=4, decay=0.8)
    method.use(decoder, random_heads(decoder), TREE, HeadLayout(4))
    if future_known:  # fresh heads repeat the target's own head, which a random model often agrees with
        torch.manual_seed(0)
        method.use(
            decoder,
            {k: v.detach() for k, v in method.trainer().new_module(decoder).state_dict().items()},
            TREE,
            HeadLayout(4),
        )
    got = run(method, prompt(), new=30)
    with torch.inference_mode():
        proposed = method.candidates(torch.tensor([*prompt().tolist(), *got.ids]), TREE.width)
    assert len(method.notes) == len(got.rounds) > 5
    for base, draft in method.notes.items():
        expected = draft.tree.gather(draft.tokens[:1], proposed[base - 1])
        assert torch.equal(draft.tokens, expected if draft.tree.size > 1 else draft.tokens[:1])


def test_drafting_stays_within_the_cache() -> None:
    decoder = random_decoder()
    ids = prompt(decoder.capacity - 30)
    got = run(bound(decoder), ids, new=30)
    assert got.ids == greedy(decoder, ids, 30)
    assert min(step.drafted for step in got.rounds) < TREE.size - 1


def test_sampling_is_repeatable_and_fills_the_budget() -> None:
    decoder = random_decoder()
    first, second, other = (
        run(bound(decoder), prompt(), new=25, sampling=Sampling(1.0), seed=seed).ids for seed in (5, 5, 6)
    )
    assert first == second != other
    assert len(first) == 25


def test_exactness_depends_on_the_rule_and_the_sampler() -> None:
    greedy_sampler, sampler = Sampler(Sampling(), CPU, 0), Sampler(Sampling(0.7), CPU, 0)
    assert medusa().exactness(greedy_sampler) is Exactness.GREEDY_EXACT
    assert medusa().exactness(sampler) is Exactness.SAMPLING_EXACT
    assert medusa(acceptance="typical").exactness(sampler) is Exactness.LOSSY


def test_typical_acceptance_runs_and_accepts_at_least_as_readily() -> None:
    decoder = random_decoder()
    lengths = []
    for changes in ({"acceptance": "exact"}, {"acceptance": "typical", "epsilon": 0.001, "delta": 0.001}):
        got = run(bound(decoder, **changes), prompt(), new=40, sampling=Sampling(1.0))
        assert len(got.ids) == 40
        lengths.append(len(got.rounds))
    assert lengths[1] < lengths[0]


# -- the module ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heads", "parameters"), [(1, 147_853_312), (4, 591_413_248), (5, 739_266_560)], ids=str
)
def test_heads_have_the_published_size_and_names(heads: int, parameters: int) -> None:
    with torch.device("meta"):
        module = MedusaHeads(4096, 32000, HeadLayout(heads))
    assert sum(weight.numel() for weight in module.parameters()) == parameters
    names = [f"{k}.{name}" for k in range(heads) for name in ("0.linear.weight", "0.linear.bias", "1.weight")]
    assert list(module.state_dict()) == names


def test_fresh_heads_start_from_the_targets_own_head() -> None:
    decoder = random_decoder()
    state = medusa().trainer().new_module(decoder).state_dict()
    for k in range(4):
        assert not state[f"{k}.0.linear.weight"].any()
        assert state[f"{k}.0.linear.bias"].any()
        assert torch.equal(state[f"{k}.1.weight"], decoder.lm_head.weight)


def test_proposals_are_those_of_the_trained_module() -> None:
    """All blocks as one product and only as many heads as the tree is deep: the same logits."""
    decoder = random_decoder()
    method = bound(decoder, Tree.chain(3))
    module = MedusaHeads(decoder.config.width, decoder.config.vocab, HeadLayout(4))
    module.load_state_dict(random_heads(decoder))
    rows = torch.randn(6, decoder.config.width)
    expected = torch.stack([head(rows) for head in list(module)[:3]], dim=1)
    torch.testing.assert_close(method._proposer(rows), expected)


@pytest.mark.parametrize("decay", [1.0, 0.8], ids=["recipe a: plain sum", "recipe b: 0.8 to the k"])
def test_loss_is_the_weighted_sum_over_heads_on_answer_tokens(decay: float) -> None:
    decoder = random_decoder()
    method = medusa(decay=decay, heads=2)
    is_answer = [False] * 6 + [True] * 5 + [False] * 3 + [True] * 4
    rows = observe(method.trainer(), decoder, prompt(18).tolist(), is_answer)
    module = method.trainer().new_module(decoder)
    normed = rms_norm(rows.hidden[decoder.depth], decoder.final_norm, decoder.config.norm_eps)
    expected = torch.zeros(())
    for k in (1, 2):
        terms = [
            F.cross_entropy(list(module)[k - 1](normed[t]), rows.ids[t + k + 1])
            for t in range(18 - k - 1)
            if is_answer[t + k + 1]
        ]
        expected = expected + decay**k * torch.stack(terms).mean()
    loss, figures = method.trainer().loss(module, rows, decoder)
    torch.testing.assert_close(loss, expected)
    assert sorted(figures) == ["top1_1", "top1_2", "top5_1", "top5_2"]


@pytest.mark.parametrize("own_lm_heads", [True, False])
def test_soft_loss_is_the_cross_entropy_with_the_targets_distribution(own_lm_heads: bool) -> None:
    decoder = random_decoder()
    trainer = medusa(heads=2, own_lm_heads=own_lm_heads, decay=0.5, soft=True).trainer()
    is_answer = [False] * 6 + [True] * 5 + [False] * 3 + [True] * 4
    rows = observe(trainer, decoder, prompt(18).tolist(), is_answer)
    module = trainer.new_module(decoder)
    normed = rms_norm(rows.hidden[decoder.depth], decoder.final_norm, decoder.config.norm_eps)
    target = decoder.lm_head(normed).softmax(dim=-1)
    expected = torch.zeros(())
    for k in (1, 2):
        head = list(module)[k - 1]
        drafted = [head(row) if own_lm_heads else decoder.lm_head(head(row[None]))[0] for row in normed]
        terms = [
            F.cross_entropy(drafted[t], _kept(target[t + k]))
            for t in range(18 - k - 1)
            if is_answer[t + k + 1]
        ]
        expected = expected + 0.5**k * torch.stack(terms).mean()
    loss, _ = trainer.loss(module, rows, decoder)
    torch.testing.assert_close(loss, expected)


def _kept(probs: Tensor) -> Tensor:
    """The probabilities of the likeliest tokens, the only ones that training keeps."""
    best = probs.topk(min(LIKELIEST, len(probs)))
    return torch.zeros_like(probs).scatter(0, best.indices, best.values)


def test_a_sequence_without_answers_costs_nothing() -> None:
    decoder = random_decoder()
    method = medusa()
    module = method.trainer().new_module(decoder)
    loss, _ = method.trainer().loss(
        module, observe(method.trainer(), decoder, prompt(9).tolist(), [False] * 9), decoder
    )
    loss.backward()
    assert loss.item() == 0


def test_training_teaches_heads_a_text_by_heart() -> None:
    decoder = random_decoder()
    method = medusa()
    module = method.trainer().new_module(decoder)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    rows = observe(method.trainer(), decoder, prompt(30).tolist(), [True] * 30)
    for _ in range(60):
        loss, figures = method.trainer().loss(module, rows, decoder)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert min(figures[f"top1_{k}"] for k in range(1, 5)) > 0.9
    assert decoder.lm_head.weight.grad is None


def test_it_is_trainable_and_calibratable() -> None:
    assert isinstance(medusa(), Trainable)
    assert isinstance(medusa(), Calibratable)


# -- what it refuses -----------------------------------------------------------------------------------------


def heads_for(decoder: Decoder, folder: Path, **facts: object) -> None:
    save_module(folder, random_heads(decoder), {"method": "medusa", "heads": 4, **facts})


def test_a_stored_tree_is_used(tmp_path: Path) -> None:
    decoder = random_decoder()
    heads_for(decoder, tmp_path, tree=[[0], [1], [0, 0]])
    method = medusa(weights=str(tmp_path))
    method.attach(decoder)
    assert {step.drafted for step in run(method, prompt(), new=20).rounds[:-3]} == {3}


def test_heads_without_a_tree_name_the_command_that_measures_one(tmp_path: Path) -> None:
    decoder = random_decoder()
    heads_for(decoder, tmp_path)
    with pytest.raises(UserError, match=r"no tree.*\n.*bench\.train\.calibrate"):
        medusa(weights=str(tmp_path)).attach(decoder)


def test_heads_of_another_shape_are_refused_by_tensor_name(tmp_path: Path) -> None:
    decoder = random_decoder()
    heads_for(decoder, tmp_path, heads=5)
    with pytest.raises(UserError, match=r"4\.0\.linear\.weight is missing"):
        medusa(weights=str(tmp_path), tree="chain").attach(decoder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"acceptance": "nucleus"}, "exact or typical, got nucleus"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"heads": 0}, "at least 1 head"),
        ({"decay": 1.5}, "decay"),
    ],
    ids=["rule", "epsilon", "heads", "decay"],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        medusa(**changes)


# -- heads that share the target's LM head -------------------------------------------------------------------

SHARED = HeadLayout(4, own_lm_heads=False)


def test_shared_heads_are_small_and_start_as_the_targets_own_head() -> None:
    decoder = random_decoder()
    method = medusa(own_lm_heads=False)
    trainer = method.trainer()
    module = trainer.new_module(decoder)
    width = decoder.config.width
    assert sum(weight.numel() for weight in module.parameters()) == 4 * (width**2 + width)
    facts = trainer.provenance(decoder)
    assert (facts["heads"], facts["blocks"], facts["own_lm_heads"]) == (4, 1, False)
    method.use(decoder, {k: v.detach() for k, v in module.state_dict().items()}, TREE, SHARED)
    rows = torch.randn(3, width)
    for k in range(TREE.depth):
        torch.testing.assert_close(method._proposer(rows)[:, k], decoder.lm_head(rows))


def test_shared_heads_learn_and_decode_exactly(tmp_path: Path) -> None:
    decoder = random_decoder()
    trainer = medusa(own_lm_heads=False).trainer()
    module = trainer.new_module(decoder)
    rows = observe(trainer, decoder, prompt(40).tolist(), [True] * 40)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss, _ = trainer.loss(module, rows, decoder)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    facts = {**trainer.provenance(decoder), "tree": "chain"}
    save_module(tmp_path, module.state_dict(), facts)
    method = medusa(weights=str(tmp_path), tree=None)
    method.attach(decoder)
    assert run(method, prompt(), new=30).ids == greedy(decoder, prompt(), 30)
