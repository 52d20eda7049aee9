"""Is the baseline honest? Our autoregressive decoding beside ``transformers.generate``.

Without options the embedded model decodes, with ``--model PATH`` a checkpoint, with ``--random-60m`` or
``--random-125m`` a random Llama of that many parameters. Both sides decode greedily in fp32 on the CPU, in
one process, interleaved prompt by prompt (ours, theirs, theirs, ours). A speedup over a slow baseline is
worth nothing, so ours must not be the slow one; and the token ids must be equal.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LlamaForCausalLM, logging
from transformers.generation.streamers import BaseStreamer

from bench.cli import report_mistake
from bench.compose.components import resolve_path
from bench.errors import UserError
from bench.measure.environment import device_name
from bench.measure.meters import turn_clock
from bench.metrics.intervals import Costs
from bench.metrics.run_figures import speedup
from bench.metrics.speedups import faster_by_total
from bench.runtime.by_transformers import load_by_transformers
from bench.runtime.loading import RuntimeOptions, load_config, load_decoder
from bench.runtime.sampling import Sampler, Sampling
from bench.runtime.tier_choice import choose_tier
from bench.show.layout import text_table
from bench.show.spelling import as_arguments
from bench.show.waiting import waited
from bench.tasks.chat import ChatFormat
from bench.tasks.spec_bench import read_builtin
from bench.tasks.tokenizer import ignored_generation_settings, load_tokenizer
from methods.core.autoregressive import Autoregressive
from methods.core.base import Budget

TINY = "package:bench/assets/tiny"
SHAPES = "package:bench/assets/shapes"
RANDOM_SHAPES = ("60m", "125m")
CPU = torch.device("cpu")
ORDER = ("ours", "theirs", "theirs", "ours")


@dataclass(frozen=True, slots=True)
class SideBySide:
    """The work of both sides.

    Args:
        costs: Decode seconds and tokens of our runtime (``ours``) and of transformers (``theirs``), in one
            session of two repeats.
        equal: Prompts on which all four outputs had the same ids.
        prompts: Prompts compared.
        left_out: Settings of ``generation_config.json`` that neither side applies.
    """

    costs: Costs
    equal: int
    prompts: int
    left_out: str = ""


class FirstToken(BaseStreamer):
    """Notes when ``generate`` hands over its first new token, which follows the prompt."""

    def __init__(self) -> None:
        self._calls = 0
        self.at_s = 0.0

    def put(self, value: Tensor) -> None:
        """Called with the prompt, then with every token."""
        self._calls += 1
        if self._calls == 2:
            self.at_s = time.perf_counter()

    def end(self) -> None:
        """Called after the last token."""


class Sides:
    """The same checkpoint twice.

    Args:
        folder: Checkpoint.
        max_new_tokens: Budget of every answer.
        length: Longest sequence.
    """

    def __init__(self, folder: Path, max_new_tokens: int, length: int) -> None:
        self._decoder = load_decoder(
            folder, RuntimeOptions(CPU, torch.float32, length, choose_tier("auto", CPU))
        )
        self._model: Any = load_by_transformers(folder, torch.float32)
        end = self._model.generation_config.eos_token_id
        self.left_out = ignored_generation_settings(folder)
        self._model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            eos_token_id=end, pad_token_id=min(end) if isinstance(end, list) else end
        )  # without the checkpoint's own settings, such as a repetition penalty
        self._eos = frozenset([end] if isinstance(end, int) else end or [])
        self._budget = Budget(max_new_tokens, self._eos)
        self._method = Autoregressive()
        self._method.attach(self._decoder)
        self._clock = turn_clock(CPU)

    def decode(self, side: str, ids: Tensor) -> tuple[tuple[int, ...], float]:
        """Output ids and decode seconds, from the first new token to the last."""
        with torch.inference_mode():
            return self._ours(ids) if side == "ours" else self._theirs(ids)

    def _ours(self, ids: Tensor) -> tuple[tuple[int, ...], float]:
        sampler = Sampler(Sampling(), CPU, 0)
        with self._clock:
            generation = self._method.generate(ids, self._budget, sampler, self._clock)
        sampler.require_finite()
        return generation.ids, self._clock.timing().decode_s

    def _theirs(self, ids: Tensor) -> tuple[tuple[int, ...], float]:
        streamer = FirstToken()
        out = self._model.generate(
            ids[None],
            attention_mask=torch.ones_like(ids)[None],
            max_new_tokens=self._budget.max_new_tokens,
            do_sample=False,
            streamer=streamer,
        )
        seconds = time.perf_counter() - streamer.at_s
        return tuple(out[0, ids.numel() :].tolist()), seconds


def decode_on_both_sides(sides: Sides, prompts: Sequence[Tensor]) -> SideBySide:
    """Decode every prompt twice by both sides, interleaved, after a warm-up on the first one."""
    for side in ORDER:
        sides.decode(side, prompts[0])
    seconds: dict[str, list[list[float]]] = {"ours": [], "theirs": []}
    tokens: dict[str, list[list[float]]] = {"ours": [], "theirs": []}
    equal = 0
    for ids in waited(prompts, "decoding on both sides", "prompt"):
        outputs = [(side, *sides.decode(side, ids)) for side in ORDER]
        equal += len({out for _, out, _ in outputs}) == 1
        for side in seconds:
            seconds[side].append([took for name, _, took in outputs if name == side])
            tokens[side].append([len(out) - 1 for name, out, _ in outputs if name == side])
    spent, emitted = (
        np.array([values[side] for side in seconds], dtype=np.float64)[:, :, None]
        for values in (seconds, tokens)
    )  # [2, Q, 1, 2]
    return SideBySide(Costs(tuple(seconds), spent, emitted), equal, len(prompts), sides.left_out)


def side_by_side_text(result: SideBySide) -> str:
    """Device, equal outputs and both speeds with their ratio, as three lines."""
    costs = result.costs
    ours, theirs = costs.tokens.sum(axis=(1, 2, 3)) / costs.seconds.sum(axis=(1, 2, 3))
    ratio = speedup(faster_by_total(costs, "ours", "theirs"))
    rows = [
        ("device", f"{device_name(CPU)}, float32"),
        ("same token ids", f"{result.equal} of {result.prompts} prompts"),
        ("decode tokens/s", f"ours {ours:.0f}, transformers {theirs:.0f}; speedup over transformers {ratio}"),
    ]
    if result.left_out:
        rows.append(("not applied", f"{result.left_out} of generation_config.json, on both sides"))
    return "\n".join(text_table(rows))


def save_random(shape: str, folder: Path) -> int:
    """Save a checkpoint of random weights in one of the shipped shapes; returns its vocabulary size."""
    torch.manual_seed(0)
    config = load_config(Path(resolve_path(f"{SHAPES}/{shape}")))
    LlamaForCausalLM(config).save_pretrained(folder)
    return int(config.vocab_size)


def random_prompts(vocab: int, count: int, length: int) -> list[Tensor]:
    """Seeded random ids, each shape [length]."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(vocab, (length,), generator=generator) for _ in range(count)]


def builtin_prompts(folder: Path, count: int) -> list[Tensor]:
    """First turns of built-in prompts, spread over the subtasks, as ids of this checkpoint's tokenizer."""
    chat = ChatFormat(load_tokenizer(folder))
    questions = read_builtin().prompts
    chosen = questions[:: max(1, len(questions) // count)][:count]
    return [torch.tensor(chat.prompt_ids(question.turns[:1], ())) for question in chosen]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print; 0 if every prompt has the same ids, 1 if not, 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.reference", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--model", default=TINY, help="checkpoint folder (default: the embedded model)")
    for shape in RANDOM_SHAPES:
        text = f"a random Llama of {shape.upper()} parameters instead"
        parser.add_argument(f"--random-{shape}", dest="shape", action="store_const", const=shape, help=text)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of both sides")
    try:
        given = parser.parse_args(as_arguments(parser, sys.argv[1:] if arguments is None else arguments))
        torch.set_num_threads(given.threads)
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        if given.shape is not None:
            with tempfile.TemporaryDirectory() as name:
                prompts = random_prompts(save_random(given.shape, Path(name)), given.prompts, 64)
                result = decode_on_both_sides(Sides(Path(name), given.max_new_tokens, 512), prompts)
        else:
            folder = Path(resolve_path(given.model))
            sides, prompts = Sides(folder, given.max_new_tokens, 2048), builtin_prompts(folder, given.prompts)
            result = decode_on_both_sides(sides, prompts)
    except UserError as mistake:
        return report_mistake(mistake)
    print(side_by_side_text(result))  # noqa: T201 - the command's result
    return 0 if result.equal == result.prompts else 1
