"""Pseudo rows: training computes what decoding runs, and learns it on answer positions only."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bench.runtime.decoder import Decoder
from bench.train.trainers.modules import observe
from methods.core.tree_round import TreeDraft
from methods.hidden_transfer.module import choose_anchors
from methods.hidden_transfer.pseudo_rows import Transfer, pseudo_rows
from tests.methods.hidden_transfer.transfers import (
    DEPTH,
    EVERY_KIND,
    EVERY_TRANSFER,
    TRANSFERS,
    bound,
    built,
    random_projections,
    unattached,
)
from tests.methods.small import FAMILIES, prompt, random_decoder


@pytest.mark.parametrize("family", EVERY_KIND)
def test_training_rows_are_decoding_rows_in_every_family(family: str) -> None:
    check_training_rows(TRANSFERS["staircase"], built(EVERY_KIND[family], torch.float64))


@EVERY_TRANSFER
def test_training_rows_are_decoding_rows_wherever_they_enter(transfer: Transfer) -> None:
    check_training_rows(transfer, built(FAMILIES["llama"], torch.float64))


def check_training_rows(transfer: Transfer, decoder: Decoder) -> None:
    method = bound(decoder, transfer)
    ids, anchors = prompt(24), torch.tensor([8, 9, 15, 22])
    hidden = dict.fromkeys(range(DEPTH + 1), decoder.embedding)
    with torch.inference_mode():
        decoder.prefill(ids, hidden)
        weights, positions = random_projections(decoder, transfer), torch.arange(ids.numel())
        trained = pseudo_rows(transfer, weights, hidden, positions, anchors, decoder)
        for index, anchor in enumerate(anchors.tolist()):
            method.prefill(ids[: anchor + 1])
            torch.testing.assert_close(trained[:, index], method._pseudo, atol=1e-10, rtol=0)


@EVERY_TRANSFER
def test_rows_of_the_combined_pass_are_training_rows(transfer: Transfer) -> None:
    decoder = built(FAMILIES["llama"], torch.float64)
    method = bound(decoder, transfer, {"": 1, "0": 1, "00": 1})
    ids, hidden = prompt(16), dict.fromkeys(range(DEPTH + 1), decoder.embedding)
    with torch.inference_mode():
        decoder.prefill(ids, hidden)
        anchors = torch.arange(12, 16)
        weights, positions = random_projections(decoder, transfer), torch.arange(ids.numel())
        trained = pseudo_rows(transfer, weights, hidden, positions, anchors, decoder)
        method.prefill(ids[:12])
        method.verify(TreeDraft(method._tree, ids[12:], "length"), 12)
    torch.testing.assert_close(method._pseudo, trained, atol=1e-10, rtol=0)


def test_entering_after_the_last_layer_is_a_linear_head() -> None:
    decoder = random_decoder()
    transfer = TRANSFERS["after the last layer"]
    method, taps = bound(decoder, transfer), {DEPTH: decoder.embedding}
    with torch.inference_mode():
        decoder.prefill(prompt(), taps)
        method.prefill(prompt())
    expected = [F.linear(taps[DEPTH][-1], weight) for weight in random_projections(decoder, transfer)]
    torch.testing.assert_close(method._pseudo, torch.stack(expected))


def test_each_step_learns_the_targets_choice_at_its_own_position() -> None:
    """Trained on one sequence, step i ranks the target's choice after position q + i first."""
    decoder = random_decoder()
    method = unattached()
    torch.manual_seed(0)
    module = method.trainer().new_module(decoder)
    rows = observe(method.trainer(), decoder, prompt(30).tolist(), [False] * 10 + [True] * 20)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    losses: list[float] = []
    for _ in range(80):
        loss, figures = method.trainer().loss(module, rows, decoder)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    probs = rows.likely.probs
    least = 3 * float(-(probs * probs.log()).sum(dim=-1).mean())  # of the cross-entropy of three steps
    assert losses[-1] - least < 0.1 * (losses[0] - least)
    assert all(figures[f"top5_{step}"] > 0.9 for step in (1, 2, 3))
    projections = [layer.attention.qkv.weight for layer in decoder.layers]
    frozen = [decoder.embedding, decoder.final_norm, *projections]
    assert all(weight.grad is None and not weight.requires_grad for weight in frozen)


def test_a_token_outside_the_answer_is_no_target() -> None:
    decoder = random_decoder()
    method = unattached()
    module = method.trainer().new_module(decoder)
    both = [
        observe(
            method.trainer(), decoder, [*prompt(16).tolist(), *tail], [False] * 10 + [True] * 6 + [False] * 4
        )
        for tail in ([1, 2, 3, 4], [5, 6, 7, 8])
    ]
    same = unattached(anchors=100)
    first, second = (same.trainer().loss(module, rows, decoder)[0] for rows in both)
    torch.testing.assert_close(first, second)


def test_anchors_are_answer_positions_and_the_same_at_every_start() -> None:
    decoder = random_decoder()
    rows = observe(unattached().trainer(), decoder, prompt(30).tolist(), [False] * 10 + [True] * 20)
    first, second = (choose_anchors(rows, 256, 5) for _ in range(2))
    assert torch.equal(first, second)
    assert first.tolist() == sorted(set(first.tolist()))
    assert rows.mask[first].all()
