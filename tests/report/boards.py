"""Made-up runs: methods on six subtasks, among them a lossy, an invalid, a partial and a failed one."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.compose.cells import blank, cells_of
from bench.compose.schema import run_id
from bench.records.codec import encode_sample
from bench.records.model import Arm, Equivalence, Prompt, Round, Run, Sample, Timing, Verdict
from bench.records.rounds import Rounds
from bench.report.build import Leaderboard, build
from bench.report.stored_runs import StoredRun

SUBTASKS = ("mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag")
TOKENS = 40
BASE_S = 0.01
"""Seconds per baseline token."""


@dataclass(frozen=True)
class Plan:
    """What a made-up run looks like."""

    method: str
    speed: float = 2.0
    """Tokens per second over the baseline's."""
    drafted: int = 4
    accept: float = 0.7
    questions: int = 12
    repeats: int = 2
    subtasks: tuple[str, ...] = SUBTASKS
    exactness: str = "greedy-exact"
    verdict: Verdict = Verdict.EXACT
    margin: float = 0.0
    drift: float = 0.0
    """How much slower the baseline's first repeat of each question in one A/A half is."""
    fail: int = 0
    limit: int | None = 72
    device: str = "NVIDIA A100-SXM4-80GB"
    dtype: str = "bfloat16"
    is_shared: bool = False
    params: dict[str, Any] = field(default_factory=dict)
    template: str = "6b7c8b8f"
    runtime: dict[str, Any] = field(default_factory=dict)
    """Settings of the runtime other than device, precision, threads and a length of 4096 tokens."""
    labels: dict[str, Any] = field(default_factory=dict)
    task: str = "spec_bench"
    seed: int = 0


@dataclass(frozen=True)
class ArenaPlan:
    """What a made-up run of several methods looks like.

    Args:
        methods: Tokens per second over the baseline's, by label.
        lossy: Labels of methods whose output is not the model's own.
        spread: Of the log of how easy a question is for every method alike.
        control: How many times as fast the second baseline is as the first.
    """

    methods: dict[str, float]
    lossy: tuple[str, ...] = ()
    questions: int = 24
    repeats: int = 2
    spread: float = 0.3
    control: float = 1.0
    seed: int = 0
    sessions: int = 1


BOARD = (
    Plan("kangaroo", 1.9, 6, 0.72),
    Plan("kangaroo_tree", 2.3, 12, 0.72, labels={"independent re-implementation": True}),
    Plan("medusa", 2.32, 10, 0.6, labels={"draft parameters": 591_000_000}),
    Plan("hidden_transfer", 1.75, 10, 0.55),
    Plan("layerskip", 1.55, 6, 0.5, params={"exit_layer": 4}),
    Plan("swift", 1.2, 5, 0.8),
    Plan("del", 1.62, 6, 0.62),
    Plan("hamburger", 1.65, 3, 0.9, exactness="lossy", verdict=Verdict.UNCHECKED),
    Plan("draft_verify", 1.3, 5, 0.75, drift=0.25),
    Plan("m2r2", 1.5, 5, 0.6, fail=2),
    Plan("prompt_lookup", 1.33, 9, 0.3, questions=5, limit=30),
)


def stored(plan: Plan, is_published: bool = False) -> StoredRun:
    """A run that follows the plan, the same every time."""
    rng = random.Random(f"{plan.method}{plan.seed}")
    identity = {
        "method": {"target": f"methods.{plan.method}.Method", "weights": None, **plan.params},
        "method_weights": None,
        "task": {"name": plan.task, "subtasks": list(plan.subtasks), "limit": plan.limit, "ids": None},
        "questions": "f" * 64,
        "model": {"name": "vicuna_7b", "context": None},
        "model_weights": "a1b2c3d4e5f60718",
        "sampling": {"temperature": 0.0, "top_k": 0, "top_p": 1.0},
        "template": plan.template,
        "runtime": {"device": "cuda", "dtype": None, "threads": None, "max_length": 4096, **plan.runtime},
        "max_new_tokens": 128,
        "seed": plan.seed,
    }
    labels = {"exactness": plan.exactness, "prompts": "official", "partial": plan.limit is not None}
    run = Run(
        run_id=run_id(plan.method, plan.task, "vicuna_7b", identity),
        method=plan.method,
        task=plan.task,
        model="vicuna_7b",
        identity=identity,
        config={"model": {"path": "lmsys/vicuna-7b-v1.3"}},
        attempts=({"device": plan.device, "dtype": plan.dtype, "gpu_shared": plan.is_shared},),
        labels=labels | plan.labels,
    )
    return StoredRun(run, tuple(_samples(plan, rng)), is_published)


def stored_arena(plan: ArenaPlan) -> StoredRun:
    """A whole run of several methods that follows the plan, the same every time."""
    alone = stored(Plan("sam", subtasks=("qa",), questions=1, limit=plan.questions, seed=plan.seed)).run
    parts = {
        label: {"method": {"target": f"methods.{label}.Method", "draft_length": 4}, "method_weights": None}
        for label in plan.methods
    }
    identity = {key: value for key, value in alone.identity.items() if not key.startswith("method")}
    identity |= {"methods": parts}
    own = {
        label: {"exactness": "lossy" if label in plan.lossy else "greedy-exact", "cost only": False}
        for label in plan.methods
    }
    run = replace(
        alone,
        run_id=run_id("arena", alone.task, alone.model, identity),
        method="arena",
        identity=identity,
        labels={"prompts": "official", "partial": True},
        methods={label: {"name": label, **parts[label], "labels": own[label]} for label in plan.methods},
    )
    return StoredRun(run, tuple(_arena_samples(plan)))


def probed(run: StoredRun, weight_bytes: int, depth: int = 20) -> StoredRun:
    """A run whose attempts know what passes of a made-up model cost here.

    Args:
        run: Of any methods.
        weight_bytes: That a pass reads.
        depth: Layers of the model.
    """
    passes = {"rows": [1, 2], "seconds": [0.01, 0.011]}
    probe = {
        "costs": {"context": 100, "depth": depth, "passes": passes, "head": passes, "dispatch_s": 0.0},
        **{"weight_bytes": weight_bytes, "token_bytes": 10, "read_bytes_per_s": 1e10},
    }
    attempts = tuple({**attempt, "probe": probe} for attempt in run.run.attempts)
    return replace(run, run=replace(run.run, attempts=attempts))


def _arena_samples(plan: ArenaPlan) -> Iterator[Sample]:
    rng = random.Random(f"arena{plan.seed}")
    speeds = {"baseline": 1.0, **plan.methods, "control": plan.control}
    prompts = [Prompt(str(81 + number), "qa", ("Why?",)) for number in range(plan.questions)]
    ease = {prompt.id: math.exp(rng.gauss(0, plan.spread)) for prompt in prompts}
    now, before = 1_700_000_000.0, ""
    sessions = range(plan.sessions)
    for cell in cells_of(prompts, speeds, repeats=plan.repeats, sessions=sessions, seed=plan.seed):
        for order, label in enumerate(cell.labels):
            eased = ease[cell.prompt.id] if label in plan.methods else 1.0
            per_token_s = BASE_S / (speeds[label] * eased * rng.uniform(0.99, 1.01))
            yield replace(
                blank(cell, label, order, before),
                error=None,
                ids=tuple(range(TOKENS)),
                text="answer",
                text_tokens=2,
                rounds=Rounds.of(Round(0, 0, 1, 0, "none") for _ in range(TOKENS - 1)),
                timing=_timing(per_token_s, 0.3),
                equivalence=_equivalence(plan, label),
                started_at=now,
            )
            now, before = now + per_token_s * TOKENS, label


def _equivalence(plan: ArenaPlan, label: str) -> Equivalence | None:
    verdict = Verdict.UNCHECKED if label in plan.lossy else Verdict.EXACT
    return Equivalence(verdict) if label in plan.methods else None


def save(run: StoredRun, root: Path) -> Path:
    """The run on disk under ``root/runs``; its folder."""
    folder = root / "runs" / run.run.run_id
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(asdict(run.run)))
    lines = [json.dumps(encode_sample(sample)) for sample in run.samples]
    (folder / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def digest(board: Leaderboard) -> str:
    """Of every byte that a leaderboard would write."""
    parts = [name.encode() + text.encode() for name, text in board.texts.items()]
    parts += [name.encode() + picture for name, picture in board.pictures.items()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def digest_of(results: str) -> str:
    """The same, of the leaderboard built in this process."""
    return digest(build(Path(results)))


def _samples(plan: Plan, rng: random.Random) -> list[Sample]:
    samples: list[Sample] = []
    for place, subtask in enumerate(plan.subtasks):
        hardness = 1.0 - 0.06 * (SUBTASKS.index(subtask) if subtask in SUBTASKS else 0)
        for number in range(plan.questions):
            base_s = BASE_S * rng.uniform(0.95, 1.05)
            for repeat in range(plan.repeats):
                slow = 1 + plan.drift * (repeat == (place * plan.questions + number) % 2)
                question = (str(81 + 80 * SUBTASKS.index(subtask) + number), subtask, repeat)
                samples += _pair(plan, rng, question, base_s * slow, hardness)
    return _with_failures(samples, plan.fail)


def _pair(
    plan: Plan, rng: random.Random, question: tuple[str, str, int], base_s: float, hardness: float
) -> list[Sample]:
    prompt, subtask, repeat = question
    method_s = base_s / (plan.speed * hardness * rng.uniform(0.97, 1.03))
    rounds = Rounds.of(_rounds(plan, rng, hardness))
    equivalence = Equivalence(
        plan.verdict, None if plan.verdict is Verdict.EXACT else 7, plan.margin, plan.margin, 1
    )
    common = {"prompt_tokens": 60, "prompt_hash": "ab", "ids": tuple(range(TOKENS)), "text": "answer " * 20}
    common["text_tokens"] = 21  # a token per word, and the start token
    alone = Rounds.of(Round(0, 0, 1, 0, "none") for _ in range(TOKENS - 1))
    where, order = (prompt, subtask, 0, repeat), repeat % 2
    memory = 14_000_000_000 + 10_000_000 * plan.drafted
    base = Sample(*where, Arm.BASELINE, order, rounds=alone, timing=_timing(base_s, 0.0), **common)
    method = Sample(*where, Arm.METHOD, 1 - order, rounds=rounds, timing=_timing(method_s, 0.35), **common)
    return [base, replace(method, equivalence=equivalence, peak_memory_bytes=memory)]


def _rounds(plan: Plan, rng: random.Random, hardness: float) -> list[Round]:
    rounds: list[Round] = []
    left = TOKENS - 1
    while left:
        accepted = 0
        while accepted < plan.drafted and rng.random() < plan.accept * hardness:
            accepted += 1
        emitted = min(accepted + 1, left)
        left -= emitted
        rounds.append(Round(plan.drafted, accepted, emitted, plan.drafted, "length"))
    return rounds


def _timing(per_token_s: float, draft_share: float) -> Timing:
    decode_s = per_token_s * (TOKENS - 1)
    phases = {
        "draft": decode_s * draft_share,
        "verify": decode_s * (0.9 - draft_share),
        "commit": decode_s * 0.02,
    }
    return Timing(0.02, decode_s, phases, decode_s + 0.02)


def _with_failures(samples: list[Sample], count: int) -> list[Sample]:
    for place in [i for i, sample in enumerate(samples) if sample.arm is Arm.METHOD][:count]:
        sample = samples[place]
        samples[place] = Sample(
            sample.prompt_id,
            sample.subtask,
            sample.turn,
            sample.repeat,
            sample.arm,
            sample.order,
            error="OutOfMemoryError: CUDA <full>",
        )
    return samples
