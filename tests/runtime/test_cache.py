"""The cache: slots fill without gaps, a length rolls them back, an accepted path moves down."""

import pytest
import torch
from torch import Tensor

from bench.runtime.cache import KVCache
from bench.runtime.tiers.graph.slot_cache import SlotCache

LAYERS, HEADS, CAPACITY, WIDTH = 3, 2, 10, 4


@pytest.fixture
def cache() -> KVCache:
    return KVCache(LAYERS, HEADS, CAPACITY, WIDTH, torch.float32, torch.device("cpu"))


def rows(*marks: float) -> Tensor:
    """One row per mark, its keys filled with it and its values with the negative, shape [R, 2 Hkv, D]."""
    keys = torch.tensor(marks)[:, None, None].expand(-1, HEADS, WIDTH)
    return torch.cat([keys, -keys], dim=1)


def marks(stored: Tensor) -> list[float]:
    """Marks of stored rows [Hkv, N, D]; every head and channel of a row must agree."""
    assert bool((stored == stored[:1, :, :1]).all())
    return stored[0, :, 0].tolist()


def fill(cache: KVCache, count: int) -> None:
    values = [float(i) for i in range(count)]
    for layer in range(LAYERS):
        cache.write(layer, 0, rows(*values))


def read(cache: KVCache, layer: int) -> tuple[list[float], list[float]]:
    keys, values = cache.write(layer, cache.lengths[layer], rows()[:0])
    return marks(keys), marks(values)


def test_writing_returns_every_valid_row(cache: KVCache) -> None:
    cache.write(0, 0, rows(1, 2))
    keys, values = cache.write(0, 2, rows(3))
    assert (marks(keys), marks(values)) == ([1, 2, 3], [-1, -2, -3])
    assert cache.lengths == [3, 0, 0]


def test_writing_behind_fewer_rows_forgets_the_rest(cache: KVCache) -> None:
    fill(cache, 5)
    keys, _ = cache.write(1, 2, rows(9))
    assert marks(keys) == [0, 1, 9]
    assert cache.lengths == [5, 3, 5]


def test_reading_only_changes_nothing(cache: KVCache) -> None:
    fill(cache, 5)
    keys, values = cache.write(1, 3, rows()[:0])
    assert (marks(keys), marks(values)) == ([0, 1, 2], [0, -1, -2])
    assert cache.lengths == [5, 5, 5]


@pytest.mark.parametrize(
    ("base", "count"), [(4, 1), (4, 0), (3, 8)], ids=["gap", "reading past the end", "overflow"]
)
def test_slots_that_are_not_there_are_refused(cache: KVCache, base: int, count: int) -> None:
    fill(cache, 3)
    with pytest.raises(RuntimeError, match="after 3 valid ones in a cache of 10"):
        cache.write(0, base, rows(*range(count)))
    assert read(cache, 0)[0] == [0, 1, 2]


def test_truncating_never_lengthens(cache: KVCache) -> None:
    fill(cache, 3)
    cache.write(0, 3, rows(3, 4))
    cache.truncate(4)
    assert cache.lengths == [4, 3, 3]


def test_length_needs_layers_that_agree(cache: KVCache) -> None:
    fill(cache, 3)
    assert cache.length == 3
    cache.write(0, 3, rows(3))
    with pytest.raises(RuntimeError, match=r"\[4, 3, 3\]"):
        _ = cache.length


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ([0, 2, 5], [0, 1, 2, 4, 7]),  # base 2: rows 0, 2, 5 of the tree stand in slots 2, 4, 7
        ([0, 1, 2], [0, 1, 2, 3, 4]),  # already in place
        ([], [0, 1]),  # nothing accepted
        ([1, 2, 3, 4, 5], [0, 1, 3, 4, 5, 6, 7]),  # every row moves onto its neighbour's slot
    ],
    ids=["scattered", "prefix", "empty", "overlapping"],
)
def test_keeping_a_path_compacts_it(cache: KVCache, path: list[int], kept: list[int]) -> None:
    fill(cache, 8)
    cache.keep(2, torch.tensor(path, dtype=torch.long))
    for layer in range(LAYERS):
        assert read(cache, layer) == (kept, [-mark for mark in kept])


def test_keeping_a_path_in_some_layers(cache: KVCache) -> None:
    fill(cache, 8)
    cache.keep(2, torch.tensor([0, 3]), layers=range(1))
    assert cache.lengths == [4, 8, 8]
    assert read(cache, 0)[0] == [0, 1, 2, 5]
    assert read(cache, 1)[0] == list(range(8))


def test_keeping_rows_a_layer_does_not_hold_is_refused(cache: KVCache) -> None:
    fill(cache, 8)
    cache.lengths[2] = 3
    with pytest.raises(RuntimeError, match=r"cannot keep slots 2\.\.3 of layers that hold \[8, 8, 3\]"):
        cache.keep(2, torch.tensor([0, 3]))
    assert read(cache, 0)[0] == list(range(8))


def test_token_bytes_count_keys_and_values_of_every_layer(cache: KVCache) -> None:
    assert cache.token_bytes == LAYERS * 2 * HEADS * WIDTH * 4


@pytest.mark.parametrize("kind", [KVCache, SlotCache])
def test_a_cache_for_other_layers_is_empty_and_of_the_kind_that_is_asked_for(kind: type[KVCache]) -> None:
    full = kind(LAYERS, HEADS, CAPACITY, WIDTH, torch.bfloat16, torch.device("cpu"))
    full.advance(range(LAYERS), 0, 4)
    for wanted in (KVCache, SlotCache):
        other = wanted.like(full, 2, 5)
        assert type(other) is wanted
        assert (other.lengths, other.capacity) == ([0, 0], 5)
        assert other.stores[0].shape == (2, HEADS, 5 + wanted.spare, WIDTH)
        assert other.stores[0].dtype == torch.bfloat16
