"""Delayed merging: recent text is seen token by token, old text as the entries of immediate merging."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.runtime.decoder import Decoder
from methods.hamburger.decoder import new_taps
from methods.hamburger.groups import collate
from methods.hamburger.history import History
from tests.methods.hamburger.hamburgers import (
    TUNED_SEED,
    answer,
    bound,
    checkpoint,
    random_model,
    shape_for,
    unattached,
)
from tests.methods.hamburger.test_hamburger import GREEDY, sizes_of
from tests.methods.small import CPU, prompt, random_decoder, run

SIZES = [2, 1, 4, 1, 1, 3, 2, 4, 1, 2]


def read(sizes: list[int], delay: int) -> tuple[Decoder, list[Tensor], list[int], History]:
    """Reads groups after a prompt of 9: the model, the row of each group, slots in use, the history."""
    tuned = random_decoder(seed=TUNED_SEED)
    method = unattached(merge_delay=delay)
    method.use(checkpoint(tuned))
    method._prefill(prompt(9), GREEDY)
    ids, done, rows, held = prompt(sum(sizes), 3), 0, [], []
    for size in sizes:
        group, done = ids[done : done + size], done + size
        rows.append(method._history.read(group, 9 + done - 1, new_taps(tuned, shape_for(tuned))))
        held.append(tuned.cache.length - 9)
    return tuned, rows, held, method._history


@pytest.mark.parametrize("delay", [0, 1, 2, 3, 20])
def test_the_newest_groups_hold_a_slot_a_token_and_all_others_one(delay: int) -> None:
    _, _, held, _ = read(SIZES, delay)
    for count, slots in enumerate(held, start=1):
        old, new = SIZES[: max(0, count - delay)], SIZES[max(0, count - delay) : count]
        assert slots == len(old) + sum(new)


def test_what_is_not_merged_yet_is_plain_text() -> None:
    tuned, rows, _, _ = read(SIZES, delay=20)
    text = torch.cat([prompt(9), prompt(sum(SIZES), 3)])
    tuned.cache.truncate(0)
    plain = tuned.run_layers(tuned.embed(text), tuned.placement.chain(0, text.numel()))
    ends = 9 + torch.tensor(SIZES).cumsum(0) - 1
    torch.testing.assert_close(torch.cat(rows), plain[ends], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_entries_are_those_of_immediate_merging(delay: int) -> None:
    """They see merged history alone, whatever tokens are in the cache at the time."""
    sizes = [2, 4, 3, 2, 3, 4]
    at_once, later = (_entries(*read(sizes, each)) for each in (0, delay))
    assert later.shape[3] == 9 + len(sizes) - delay
    torch.testing.assert_close(later, at_once[:, :, :, : later.shape[3]], rtol=1e-4, atol=1e-5)


def _entries(tuned: Decoder, rows: list[Tensor], held: list[int], history: History) -> Tensor:
    """Keys and values of the prompt's tokens and of all entries, shape [L, 2, Hkv, entries, D]."""
    base = history._base
    slots = [*range(base), *(base + i for i, slot in enumerate(history._slots) if slot.group is None)]
    end, none = tuned.cache.length, torch.empty(0, 4, 8)
    layers = [torch.stack(tuned.cache.write(layer, end, none)) for layer in range(tuned.depth)]
    return torch.stack(layers)[:, :, :, slots]


def test_with_a_delay_of_one_every_pass_is_the_trained_forward() -> None:
    """The same rows as the training pass over the text with only its last group in single tokens."""
    tuned = random_decoder(seed=TUNED_SEED)
    model = random_model(tuned)
    _, rows, _, _ = read(SIZES, delay=1)
    ids, done = [*prompt(9).tolist(), *prompt(sum(SIZES), 3).tolist()], 0
    for index, size in enumerate(SIZES):
        done += size
        example = answer([*ids[: 9 + done], 0], 9, [*SIZES[:index], *[1] * size, 1])
        with torch.no_grad():
            states = model(collate([example], 4, CPU), tuned.placement.rotation(0, tuned.capacity))
        normed = torch.nn.functional.rms_norm(rows[index], (32,), tuned.final_norm, tuned.config.norm_eps)
        torch.testing.assert_close(states[-1, :1], normed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("delay", [1, 3])
def test_budgets_and_a_full_cache_give_prefixes(delay: int) -> None:
    whole = run(bound(merge_delay=delay), prompt(), new=40).ids
    for new in (1, 2, 7, 13, 22):
        assert run(bound(merge_delay=delay), prompt(), new=new).ids == whole[:new]
    tight = random_decoder(seed=TUNED_SEED, capacity=12 + 40)
    assert run(bound(tight, merge_delay=delay), prompt(), new=40).ids == whole


def test_a_delay_changes_what_is_read_and_never_the_counts() -> None:
    got = run(bound(merge_delay=2), prompt(9), new=60)
    assert sum(sizes_of(got)) == len(got.ids) == 60
    sizes = sizes_of(got)[:-1]
    assert got.counts["kv_entries"] == len(sizes) - 2 + sum(sizes[-2:])


def test_positions_follow_the_convention() -> None:
    plain, shifted = (
        run(bound(merge_delay=2, position_convention=name), prompt(), new=40).ids
        for name in ("last_token", "hf_compat")
    )
    assert plain != shifted


def test_a_history_begins_after_the_prompt() -> None:
    tuned = random_decoder(seed=TUNED_SEED)
    tuned.prefill(prompt(9))
    history = History(tuned, lambda tokens: tokens.mean(dim=0, keepdim=True), 1, 0)
    history.read(prompt(3), 11, new_taps(tuned, shape_for(tuned)))
    assert tuned.cache.length == 12
