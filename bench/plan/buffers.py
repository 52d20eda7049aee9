"""Memory beside weights, modules and the model's own cache, as plain arithmetic of shapes. Imports no torch.

Shapes: B rows of a recorded pass, C cache slots that it reads, G query heads per key/value head, d width,
f MLP width, D head width, V vocabulary, S capacity in slots.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import Any

from bench.runtime.families import DecoderConfig
from bench.runtime.tiers.graph.sizes import MOST_ROWS, column_sizes, row_sizes

PACKED_SIZE = 500_000
"""Weights from which PyTorch's fp32 product on a CPU makes a second copy, as in `bench.runtime.linear`."""
TEMPLATE_ROWS = 64
"""Rows of the table that masks are parts of, as in `bench.runtime.rows`."""
_INDEX_BYTES = 8
_CACHED = re.compile(r"\.(self_attn\.[kv]_proj|attn_[kv])\.weight$")
"""Names of projections whose outputs are cached: of transformers, and of llama.cpp."""
_EMBEDDINGS, _HEADS = ("embed_tokens.weight", "token_embd.weight"), ("lm_head.weight", "output.weight")
"""End the names of embeddings and LM heads of a whole model; without a head, the embedding is the head."""
_FEW_SLOTS = ".decoders."
"""In the names of layers whose cache holds one group of tokens, in modules of ``hamburger``."""


@dataclass(frozen=True, slots=True)
class Buffers:
    """Bytes beside weights, modules and the model's own cache.

    Args:
        copy_bytes: Weights once more, in layouts that a CPU multiplies faster.
        drafter_bytes: Keys and values of the drafters' own layers.
        table_bytes: Rotary tables, and the table that masks are parts of.
        logits_bytes: Logits of recorded passes, one buffer for every number of rows.
        graph_bytes: Inputs, outputs and masks of recorded passes.
        scratch_bytes: Room for intermediate results, which all recorded passes share.
    """

    copy_bytes: int = 0
    drafter_bytes: int = 0
    table_bytes: int = 0
    logits_bytes: int = 0
    graph_bytes: int = 0
    scratch_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))


NO_BUFFERS = Buffers()


@dataclass(frozen=True, slots=True)
class Recorded:
    """Which passes the tier ``graph`` records for a run.

    Args:
        rows: Most rows of a pass.
        has_trees: Whether some of them have a mask that no base and length can replace.
    """

    rows: int
    has_trees: bool


def recorded_passes(methods: Sequence[Mapping[str, Any]]) -> Recorded:
    """What the methods of a run may have recorded, by their settings.

    A method that has a draft length verifies a chain of one row more. Others, and those that give their
    drafts a width, may verify trees of any size that is recorded.
    """
    chains = [
        params["draft_length"] + 1
        for params in methods
        if "draft_length" in params and not any(key.startswith("widths") for key in params)
    ]
    has_trees = len(chains) < sum(bool(params) for params in methods)
    return Recorded(MOST_ROWS if has_trees else max(chains, default=1), has_trees)


def table_bytes(shape: DecoderConfig, capacity: int, width: int) -> int:
    """Of cosines, sines and the masks' table, for numbers of `width` bytes."""
    kinds = 1 if shape.alternate is None else 2
    numbers = 2 * capacity * shape.head_dim + TEMPLATE_ROWS * (capacity + TEMPLATE_ROWS)
    return kinds * numbers * width


def logits_bytes(shape: DecoderConfig, recorded: Recorded, width: int) -> int:
    """Of the logits [B, V] of every recorded number of rows."""
    return sum(row_sizes(recorded.rows)) * shape.vocab * width


def graph_bytes(shape: DecoderConfig, recorded: Recorded, capacity: int, width: int) -> int:
    """Of inputs, outputs and masks, if one range of layers is recorded beside the whole of them."""
    sizes, columns = row_sizes(recorded.rows), column_sizes(capacity, capacity)
    kinds = 1 if shape.alternate is None else 2
    groups = shape.heads // shape.kv_heads
    ids, slots, order = (_INDEX_BYTES,) * 3
    entering = (shape.width + 2 * kinds * shape.head_dim) * width + ids + slots + order  # a row
    leaving = len(columns) * shape.width * width
    masks = kinds * groups * sum(columns) * width if recorded.has_trees else 0
    return sum(sizes) * (entering + leaving + masks)


def scratch_bytes(shape: DecoderConfig, recorded: Recorded, capacity: int, width: int) -> int:
    """Most that the intermediate results of the longest recorded pass take at a time.

    What the driver keeps for every recorded kernel comes on top: nothing documents it.
    """
    projected = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    attention = 2 * projected + shape.heads // shape.kv_heads * capacity  # before and after rotation; a mask
    row = 2 * shape.width + max(attention, 3 * shape.mlp_width, shape.vocab)
    return row_sizes(recorded.rows)[-1] * row * width


def copied_numbers(shape: DecoderConfig, dtype: str, *, is_compiled: bool) -> int:
    """Numbers of the model's weights that a CPU's products hold beside those that a checkpoint stores.

    Compiled products keep nothing but their own layout, so only a tied head is held twice.
    """
    tied = shape.vocab * shape.width
    if is_compiled:
        return tied if shape.tied_head else 0
    return sum(size * copies(size, dtype) for size in _matrices(shape))


def copies(size: int, dtype: str) -> int:
    """How often PyTorch's products on a CPU hold a matrix of so many weights beside the stored one."""
    return 1 + (dtype == "float32" and size >= PACKED_SIZE)


def _matrices(shape: DecoderConfig) -> Iterator[int]:
    """Numbers of every matrix that a dense model multiplies by, as they are fused."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    for _ in range(shape.layers):
        yield (queries + 2 * keys) * shape.width
        yield queries * shape.width
        if shape.moe is None:
            yield 2 * shape.mlp_width * shape.width
            yield shape.mlp_width * shape.width
    yield shape.vocab * shape.width


def cached_numbers(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Numbers that a token's keys and values are in layers of a module's own, by shapes of its tensors."""
    return sum(
        shape[0]
        for name, shape in shapes.items()
        if _CACHED.search(f".{name}") and _FEW_SLOTS not in f".{name}"
    )


def module_copies(shapes: Mapping[str, tuple[int, ...]], dtype: str, *, is_compiled: bool) -> int:
    """Numbers of a module's matrices that a CPU's products hold once more."""
    matrices = {name: prod(shape) for name, shape in shapes.items() if len(shape) > 1}
    if not is_compiled:
        return sum(size * copies(size, dtype) for size in matrices.values())
    is_untied = any(name.endswith(_HEADS) for name in matrices)
    return 0 if is_untied else sum(size for name, size in matrices.items() if name.endswith(_EMBEDDINGS))
