"""How long recorded passes take with chains that attend under masks and by their length, side by side.

    python .ci/chain_attention.py SHAPE FILE    SHAPE is a folder with config.json; its weights are random

FILE is a table, written line by line, so that a run that is cut short leaves what it has measured. Needs a
GPU; `tests/profile/test_chain_table.py` does the same on a pretended one.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench.errors import UserError
from bench.measure.meters import synchronizer
from bench.measure.probes import Turns, fastest, fill_cache
from bench.runtime.decoder import Decoder
from bench.runtime.loading import RuntimeOptions
from bench.runtime.random_weights import random_decoder
from bench.runtime.tier_choice import settle_attention
from bench.runtime.tiers.graph.decoder import GraphDecoder
from bench.runtime.tiers.graph.recorder import CudaRecorder, Recorder

CONTEXTS, ROWS = (128, 1024, 4000), (1, 4, 8, 16)
LENGTH = 8192
HEAD = "| tokens in the cache | rows | masked, ms | by length, ms | ratio |\n|---|---|---|---|---|\n"


def write_table(
    masked: GraphDecoder, recorder: Recorder, file: Path, contexts: Sequence[int], turns: Turns
) -> None:
    """Check the two ways against each other, then time both; without lengths where they cannot be used.

    Args:
        masked: The model.
        recorder: Makes the recordings of the passes by length.
        file: The table.
        contexts: Tokens in the cache in front of the timed passes.
        turns: How long to time the passes of one context.
    """
    short = GraphDecoder(masked.weights, masked.slots, masked.placement, recorder)
    ways, text = {"masked": masked, "lengths": short}, "Both ways agree on this device."
    try:
        settle_attention(short, "lengths")
    except UserError as error:
        ways, text = {"masked": masked}, error.what
    with file.open("w") as table:
        table.write(f"{text}\n\n{HEAD}")
        for context in contexts:
            ids = fill_cache(masked, context, ROWS[-1])
            calls = {
                (way, rows): _pass(decoder, ids[:rows], context)
                for way, decoder in ways.items()
                for rows in ROWS
            }
            times = fastest(calls, turns, synchronizer(masked.device))
            table.writelines(_line(context, rows, times) for rows in ROWS)
            table.flush()


def _pass(decoder: Decoder, ids: Tensor, context: int) -> Callable[[], object]:
    return partial(decoder.step, ids, context)


def _line(context: int, rows: int, times: dict[tuple[str, int], float]) -> str:
    masked, short = times["masked", rows], times.get(("lengths", rows))
    cells = ("-", "-") if short is None else (f"{1e3 * short:.3f}", f"{short / masked:.3f}")
    return f"| {context} | {rows} | {1e3 * masked:.3f} | {cells[0]} | {cells[1]} |\n"


def main() -> None:
    """Read the command line."""
    shape, file = map(Path, sys.argv[1:])
    logging.basicConfig(level=logging.INFO)
    device = torch.device("cuda")
    decoder = random_decoder(shape, RuntimeOptions(device, torch.bfloat16, LENGTH, "graph"))
    assert isinstance(decoder, GraphDecoder)
    contexts = [context for context in CONTEXTS if context + ROWS[-1] <= decoder.capacity]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_table(decoder, CudaRecorder(device), file, contexts, Turns(20, 4.0))
    print(file.read_text())  # noqa: T201 - the command's result


if __name__ == "__main__":
    main()
