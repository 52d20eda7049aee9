"""The head that drafts: the same logits as the whole head, for fewer tokens; and lists that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.errors import UserError
from bench.runtime.decoder import Tier
from bench.runtime.linear import Linear
from bench.runtime.loading import RuntimeOptions
from bench.runtime.sampling import DraftHead, DraftVocab, read_frequent_tokens
from tests.methods.small import random_decoder
from tests.runtime.models import AUTO, needs_compiler

ROOT = Path(__file__).resolve().parents[2]
IDS = torch.tensor([41, 7, 95, 0, 12])
ASCENDING = [0, 7, 12, 41, 95]


@pytest.mark.parametrize("family", ["llama", "gemma"], ids=["own head", "tied head"])
@pytest.mark.parametrize("tier", sorted({AUTO, "static", "eager"}))
def test_logits_are_those_of_the_whole_head(family: str, tier: Tier) -> None:
    decoder = random_decoder(family, tier=tier)
    head, rows = DraftHead(decoder, IDS), torch.randn(3, decoder.config.width)
    assert (head.size, head.is_whole, tuple(head(rows).shape)) == (5, False, (3, 5))
    torch.testing.assert_close(head(rows), decoder.head(rows)[:, ASCENDING])
    torch.testing.assert_close(head.lm_head(rows), decoder.lm_head(rows)[:, ASCENDING])


def test_the_whole_head_is_the_decoders_own_without_a_copy() -> None:
    decoder = random_decoder()
    head, probs = DraftHead(decoder), torch.rand(2, 96)
    assert head.is_whole
    assert head.lm_head is decoder.lm_head
    assert head.spread(probs) is probs
    assert head.tokens(IDS) is IDS
    assert torch.equal(head.chances(probs, IDS[:2]), probs[[0, 1], [41, 7]])


def test_places_lead_to_tokens_and_back() -> None:
    head = DraftHead(random_decoder(), IDS)
    assert head.tokens(torch.arange(5)).tolist() == ASCENDING
    logits = torch.tensor([[0.0, 3, 1, 3, 2]])
    assert head.best(logits, 3).tolist() == [[7, 41, 95]]
    probs = torch.tensor([[0.1, 0.2, 0.3, 0.15, 0.25]])
    whole = head.spread(probs)
    assert torch.equal(whole[0, ASCENDING], probs[0])
    assert whole.count_nonzero() == 5
    chances = head.chances(probs.expand(3, -1), torch.tensor([41, 40, 0]))
    assert chances.tolist() == pytest.approx([0.15, 0, 0.1])


@needs_compiler
@pytest.mark.parametrize("ids", [IDS, None], ids=["list", "whole"])
def test_a_head_in_8_bits_drafts_nearly_the_same_and_leaves_the_decoders_own_alone(
    ids: Tensor | None,
) -> None:
    decoder = random_decoder(tier="compiled")
    own, rows = decoder.lm_head, torch.randn(3, decoder.config.width)
    exact = DraftHead(decoder, ids)(rows)
    decoder.drafts_in_int8 = True
    head = DraftHead(decoder, ids)
    assert head.lm_head.shape == (head.size, decoder.config.width)
    assert 0 < float((head(rows) - exact).abs().max()) < 0.02 * float(exact.abs().max())
    assert decoder.lm_head is own


@pytest.mark.parametrize("tier", ["static", "eager", "graph"])
def test_a_head_in_8_bits_is_refused_without_compiled_products(tier: Tier) -> None:
    with pytest.raises(UserError, match=f"draft_head=int8 needs compiled products.* tier {tier}"):
        RuntimeOptions(torch.device("cpu"), torch.float32, 64, tier, drafts_in_int8=True)


@pytest.mark.parametrize("has_bias", [False, True])
def test_some_outputs_of_a_projection_keep_weights_and_bias(has_bias: bool) -> None:
    weight, bias = torch.randn(37, 16), torch.randn(37) if has_bias else None
    whole, chosen = Linear(weight, bias), torch.tensor([36, 0, 5, 33])
    part, x = whole.rows(chosen), torch.randn(4, 16)
    torch.testing.assert_close(part(x), whole(x)[:, chosen])
    assert torch.equal(part.weight, weight[chosen])
    if whole.compiled is not None:
        assert whole._weight is None, "reading some rows must not unpack and keep all of them"


def listed(path: Path, ids: list[int], vocabulary: int = 96) -> str:
    path.write_text(json.dumps({"vocabulary": vocabulary, "ids": ids}))
    return str(path)


def test_a_vocabulary_takes_the_first_tokens_of_the_list(tmp_path: Path) -> None:
    file = listed(tmp_path / "tokens.json", [9, 3, 80, 2])
    assert DraftVocab(3, file).head(random_decoder()).tokens(torch.arange(3)).tolist() == [3, 9, 80]
    assert DraftVocab(None, file).head(random_decoder()).is_whole


@pytest.mark.parametrize(
    ("size", "content", "what"),
    [
        (2, None, "needs a list of frequent tokens, and this model has none"),
        (5, {"vocabulary": 96, "ids": [1, 2, 3, 4]}, r"must lie in 3\.\.4 here, got 5"),
        (
            2,
            {"vocabulary": 96, "ids": [1, 2, 3, 4]},
            r"must lie in 3\.\.4 here, got 2.*needs 3 to choose from",
        ),
        (3, {"vocabulary": 100, "ids": [1, 2, 3]}, "a vocabulary of 100, the model has 96"),
        (3, {"vocabulary": 96, "ids": [1, 2, 2]}, "lists a token twice"),
        (3, {"vocabulary": 96, "ids": [1, 2, 96]}, "beyond its vocabulary"),
        (3, {"vocabulary": 96}, r"is no list of frequent tokens \(KeyError\)"),
        (3, [1, 2, 3], r"is no list of frequent tokens \(TypeError\)"),
    ],
)
def test_what_does_not_fit_is_refused_in_two_lines(
    size: int, content: object, what: str, tmp_path: Path
) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=what) as refusal:
        DraftVocab(size, None if content is None else str(file)).head(random_decoder(), least=3)
    assert len(str(refusal.value).splitlines()) == 2
    assert "bench.train.frequent_tokens" in refusal.value.fix


def test_a_missing_file_and_a_size_below_one_are_refused() -> None:
    with pytest.raises(UserError, match="FileNotFoundError"):
        read_frequent_tokens(Path("nowhere.json"), 96)
    with pytest.raises(ValueError, match="draft_vocab must be at least 1"):
        DraftVocab(0)


@pytest.mark.parametrize(
    ("model", "vocabulary", "length"), [("smollm2", 49_152, 16_384), ("tiny", 2_048, 2_048)]
)
def test_shipped_lists_fit_their_model(model: str, vocabulary: int, length: int) -> None:
    file = ROOT / "bench" / "assets" / model / "frequent_tokens.json"
    assert len(read_frequent_tokens(file, vocabulary)) == length
