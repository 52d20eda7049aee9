"""A second model that drafts: what it has read, how its cache follows, which models are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from bench.errors import UserError
from bench.runtime.decoder import Decoder
from bench.runtime.modules import load_provenance, save_module
from bench.runtime.sampling import Sampler, Sampling
from bench.train.trainers.modules import observe
from methods.core.autoregressive import Autoregressive
from methods.core.base import Stateful
from methods.core.chain import Draft
from methods.two_model.draft import TwoModel, load_draft_model
from methods.two_model.module import DraftModel
from tests.methods.small import CPU, SHAPE, prompt, random_decoder, run
from tests.runtime.gguf_files import write_gguf

DEFAULTS: dict[str, Any] = {
    "weights": None,
    "draft_length": 4,
    "policy": "static",
    "threshold": 0.6,
    "target": 0.8,
    "layers": 1,
    "width": 32,
}


def saved(decoder: Decoder, folder: Path, **changed: Any) -> TwoModel:
    """A method, not attached, with a draft model of random weights as training would have left it."""
    method = TwoModel(**{**DEFAULTS, "weights": str(folder), **changed})
    torch.manual_seed(1)
    save_module(
        folder, method.trainer().new_module(decoder).state_dict(), method.trainer().provenance(decoder)
    )
    return method


def paired(decoder: Decoder, drafter: Decoder, **changed: Any) -> TwoModel:
    method = TwoModel(**{**DEFAULTS, **changed})
    method.use(decoder, drafter)
    return method


def save_checkpoint(folder: Path, **changed: Any) -> Path:
    """An ordinary checkpoint of a small random Llama."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**{**SHAPE, **changed})).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, top_p=0.9)], ids=["greedy", "sampled"])
def test_the_target_as_its_own_draft_model_has_everything_accepted(sampling: Sampling) -> None:
    got = run(paired(random_decoder(), random_decoder()), prompt(), new=1 + 6 * 5, sampling=sampling)
    assert [(round_.drafted, round_.accepted, round_.emitted) for round_ in got.rounds] == [(4, 4, 5)] * 6


def shortened(decoder: Decoder, layers: int) -> Decoder:
    """The same model without its last layers: often right, often not."""
    decoder.layers = decoder.layers[:layers]
    decoder.cache.lengths = decoder.cache.lengths[:layers]
    return decoder


def test_every_draft_is_what_the_draft_model_says_behind_the_committed_text() -> None:
    decoder = random_decoder()
    drafter, alone = (shortened(random_decoder(tier="static"), 5) for _ in range(2))
    method, baseline = paired(decoder, drafter), Autoregressive()
    baseline.attach(decoder)
    sampler, text, accepted = Sampler(Sampling(), CPU, 0), prompt(), set()
    answer = torch.tensor(run(baseline, text).ids)
    with torch.inference_mode():
        method.prefill(text)
        while answer.numel() > 5:
            base, root = text.numel(), answer[:1]
            draft = method.draft(root, base, 50, sampler).tokens
            said = [alone.prefill(torch.cat([text, root])).argmax(dim=-1)]
            for place in (1, 2, 3):
                said.append(alone.step(said[-1], base + place).argmax(dim=-1))
            assert torch.equal(draft, torch.cat(said))
            method.verify(root, Draft(draft, "length"), base)
            right = int((draft == answer[1:5]).long().cumprod(dim=0).sum())
            decoder.cache.truncate(base + right + 1)
            method.commit(answer[1 : right + 2], base)
            text, answer = torch.cat([text, answer[: right + 1]]), answer[right + 1 :]
            accepted.add(right)
    assert {0, 4} <= accepted  # nothing to keep, and everything with one token unread


def test_the_draft_models_cache_never_runs_ahead_of_the_targets(tmp_path: Path) -> None:
    decoder = random_decoder()
    method = saved(decoder, tmp_path)
    method.attach(decoder)
    got = run(method, prompt(9), new=20)
    assert decoder.cache.length == 9 + len(got.ids) - 1
    assert decoder.cache.length - 1 <= method._drafter.cache.length <= decoder.cache.length


def test_the_policy_learns_from_rounds_and_a_reset_forgets_it() -> None:
    method = paired(random_decoder(), random_decoder(), draft_length=2, policy="heuristic")
    got = run(method, prompt(), new=40)
    assert [round_.drafted for round_ in got.rounds][:3] == [2, 4, 6]
    assert isinstance(method, Stateful)
    method.reset()
    assert run(method, prompt(), new=40) == got


def test_a_threshold_ends_a_draft_early(tmp_path: Path) -> None:
    decoder = random_decoder()
    method = saved(decoder, tmp_path, policy="threshold", threshold=1.0)
    method.attach(decoder)
    got = run(method, prompt(), new=20)
    assert {(round_.drafted, round_.stop) for round_ in got.rounds[:-1]} == {(1, "confidence")}


def test_a_trained_draft_model_and_the_module_that_was_trained_say_the_same(tmp_path: Path) -> None:
    decoder = random_decoder()
    module = saved(decoder, tmp_path).trainer().new_module(decoder)
    save_module(tmp_path, module.state_dict(), load_provenance(tmp_path, "two_model"))
    with torch.inference_mode():
        expected = module(prompt())[-1:]
        got = load_draft_model(tmp_path, decoder).prefill(prompt())
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_an_ordinary_checkpoint_drafts_and_the_output_stays_the_targets(tmp_path: Path) -> None:
    decoder = random_decoder()
    method = TwoModel(**{**DEFAULTS, "weights": str(save_checkpoint(tmp_path, num_hidden_layers=2))})
    baseline = Autoregressive()
    method.attach(decoder)
    baseline.attach(decoder)
    assert run(method, prompt()).ids == run(baseline, prompt()).ids


@pytest.mark.parametrize(
    ("changed", "what", "fix"),
    [
        ({"vocab_size": 90}, "has 90 tokens in its vocabulary, the target 96", "the target's tokenizer"),
        ({"max_position_embeddings": 64}, "holds 64 tokens, the target 256", "runtime.max_length=64"),
    ],
    ids=["another vocabulary", "a shorter context"],
)
def test_a_draft_model_that_does_not_fit_is_refused(
    changed: dict[str, int], what: str, fix: str, tmp_path: Path
) -> None:
    method = TwoModel(**{**DEFAULTS, "weights": str(save_checkpoint(tmp_path, **changed))})
    with pytest.raises(UserError) as caught:
        method.attach(random_decoder())
    assert what in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize("rows", [90, 100], ids=["fewer rows", "more rows"])
def test_a_gguf_file_with_other_padding_drafts(rows: int, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**{**SHAPE, "vocab_size": rows}))
    words = [f"t{place}" for place in range(rows)]
    file = write_gguf(tmp_path / "draft.gguf", model, "llama", vocabulary=words, unused=rows - 80)
    decoder, method, baseline = (
        random_decoder(),
        TwoModel(**{**DEFAULTS, "weights": str(file)}),
        Autoregressive(),
    )
    method.attach(decoder)
    baseline.attach(decoder)
    assert method._drafter.config.vocab == decoder.config.vocab
    assert run(method, prompt()).ids == run(baseline, prompt()).ids


def test_a_gguf_file_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**{**SHAPE, "vocab_size": 100}))
    words = [f"t{place}" for place in range(100)]
    for unused, name in ((0, "all.gguf"), (2, "most.gguf")):
        file = write_gguf(tmp_path / name, model, "llama", vocabulary=words, unused=unused)
        with pytest.raises(UserError, match="has 100 tokens in its vocabulary, the target 96"):
            TwoModel(**{**DEFAULTS, "weights": str(file)}).attach(random_decoder())


@pytest.mark.parametrize(
    ("weights", "what", "fix"),
    [
        (None, "method.weights is not set", "same tokenizer"),
        ("nowhere", "holds no module.safetensors", "method=two_model"),
    ],
)
def test_a_missing_draft_model_is_refused(weights: str | None, what: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        TwoModel(**{**DEFAULTS, "weights": weights}).attach(random_decoder())
    assert what in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize("changed", [{"layers": 0}, {"width": 16}, {"width": 48}, {"draft_length": 0}])
def test_settings_out_of_range_are_refused(changed: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        TwoModel(**{**DEFAULTS, **changed})


def test_the_loss_falls_towards_the_targets_own_entropy() -> None:
    decoder = random_decoder()
    method = TwoModel(**DEFAULTS)
    torch.manual_seed(0)
    module = method.trainer().new_module(decoder)
    assert isinstance(module, DraftModel)
    rows = observe(method.trainer(), decoder, prompt(24).tolist(), [False] * 12 + [True] * 12)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    figures = []
    for _ in range(30):
        loss, extra = method.trainer().loss(module, rows, decoder)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        figures.append((float(loss.detach()), extra["accept"]))
    assert figures[-1][0] < figures[0][0]
    assert figures[-1][1] > 0.5 > figures[0][1]


def test_an_answerless_text_has_no_loss_and_no_nan() -> None:
    decoder = random_decoder()
    method = TwoModel(**DEFAULTS)
    rows = observe(method.trainer(), decoder, prompt(5).tolist(), [False] * 5)
    loss, figures = method.trainer().loss(method.trainer().new_module(decoder), rows, decoder)
    assert float(loss.detach()) == figures["accept"] == 0
