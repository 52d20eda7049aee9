"""What every method must keep, whatever it is: its promise about the output, the budget, the end token, the
cache, the records of an interrupted run, its row in a report.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch

from bench.compose.settings import Settings
from bench.measure.runner import execute
from bench.records.model import Arm, Sample, Verdict
from bench.records.store import RunStore, load_run, load_samples
from bench.runtime.decoder import Decoder
from bench.runtime.sampling import Sampler, Sampling
from methods.core.autoregressive import Autoregressive
from methods.core.base import Exactness
from tests.methods.options import Subject
from tests.methods.small import CPU, prompt, run

NEW = 24
SAMPLING = Sampling(temperature=1.0, top_k=2)
TOKENS = 3
"""Of a sampled answer: with two tokens to choose from, one of eight answers."""
DRAWS = 160
TAIL = 1e-5
"""Chance that an exact method fails the test of its samples."""


def promise(subject: Subject, sampling: Sampling) -> Exactness:
    """What the method says of its output."""
    return subject.method.exactness(Sampler(sampling, CPU, 0))


@cache
def target_ids(decoder: Decoder, vocabulary: int, length: int) -> tuple[int, ...]:
    """The target's own greedy answer to the prompt of that length."""
    baseline = Autoregressive()
    baseline.attach(decoder)
    return run(baseline, prompt(length, vocabulary=vocabulary), new=NEW).ids


def check_greedy(subject: Subject, lengths: tuple[int, ...] = (1, 2, 17)) -> None:
    """Greedy ids are the target's own, or the method says that they may not be."""
    promised = promise(subject, Sampling())
    assert promised in (Exactness.GREEDY_EXACT, Exactness.LOSSY)
    for length in lengths:
        ids = run(subject.method, prompt(length, vocabulary=subject.vocabulary), new=NEW).ids
        if promised is Exactness.GREEDY_EXACT:
            assert ids == target_ids(subject.decoder, subject.vocabulary, length)


def check_sampling(subject: Subject) -> None:
    """Sampled answers are distributed as the target's, or the method says that they may not be."""
    promised = promise(subject, SAMPLING)
    assert promised in (Exactness.SAMPLING_EXACT, Exactness.LOSSY)
    if promised is Exactness.LOSSY:
        return
    if all(is_as_without_method(subject, seed) for seed in range(DRAWS // 10)):
        return
    ids = prompt(vocabulary=subject.vocabulary)
    answers = Counter(
        run(subject.method, ids, new=TOKENS, sampling=SAMPLING, seed=seed).ids for seed in range(DRAWS)
    )
    assert tail(answers, chances(subject.decoder, subject.vocabulary)) > TAIL


def is_as_without_method(subject: Subject, seed: int) -> bool:
    """Whether a method drafts nothing and samples what the target samples from the same seed."""
    answer = run(
        subject.method, prompt(vocabulary=subject.vocabulary), new=TOKENS, sampling=SAMPLING, seed=seed
    )
    is_drafting = any(round_.drafted for round_ in answer.rounds)
    return not is_drafting and answer.ids == target_sample(subject.decoder, subject.vocabulary, seed)


@cache
def target_sample(decoder: Decoder, vocabulary: int, seed: int) -> tuple[int, ...]:
    """What the target itself samples from this seed."""
    baseline = Autoregressive()
    baseline.attach(decoder)
    return run(baseline, prompt(vocabulary=vocabulary), new=TOKENS, sampling=SAMPLING, seed=seed).ids


@cache
def chances(decoder: Decoder, vocabulary: int) -> dict[tuple[int, ...], float]:
    """The probability of every answer that the target may sample."""
    sampler, start = Sampler(SAMPLING, CPU, 0), prompt(vocabulary=vocabulary)
    found = {(): 1.0}
    for _ in range(TOKENS):
        longer = {}
        for answer, chance in found.items():
            with torch.inference_mode():
                logits = decoder.prefill(torch.cat([start, torch.tensor(answer, dtype=torch.int64)]))
            probs = sampler.probabilities(logits)[0]
            longer |= {(*answer, int(token)): chance * float(probs[token]) for token in probs.nonzero()}
        found = longer
    return found


def tail(answers: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """Chance of a fit at least this bad, by Pearson's chi-square test; 0 for an impossible answer."""
    if set(answers) - set(expected):
        return 0.0
    draws = answers.total()
    cells = [(answers[answer], chance * draws) for answer, chance in expected.items()]
    large = [cell for cell in cells if cell[1] >= 5]
    rest = [sum(column) for column in zip(*(cell for cell in cells if cell[1] < 5), strict=True)]
    merged = [*large, *([(rest[0], rest[1])] if rest and rest[1] else [])]
    statistic = sum((seen - mean) ** 2 / mean for seen, mean in merged)
    halves = torch.tensor([(len(merged) - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(*halves))


def check_budget(subject: Subject, budgets: tuple[int, ...] = (1, 2, 7)) -> None:
    """An answer takes exactly the tokens it may take, and its rounds add up to it."""
    for new in budgets:
        generation = run(subject.method, prompt(vocabulary=subject.vocabulary), new=new)
        assert len(generation.ids) == new == 1 + sum(round_.emitted for round_ in generation.rounds)


def check_end(subject: Subject) -> None:
    """An answer ends with its first end token, even inside a round; an exact one is the target's own."""
    ids = prompt(12, vocabulary=subject.vocabulary)
    full = target_ids(subject.decoder, subject.vocabulary, 12)
    for token in {full[place] for place in (0, 1, 3, 6, 11)}:
        ended = run(subject.method, ids, new=NEW, eos=frozenset({token})).ids
        assert token not in ended[:-1]
        assert ended[-1] == token or len(ended) == NEW
        if promise(subject, Sampling()) is Exactness.GREEDY_EXACT:
            assert ended == full[: full.index(token) + 1]


def check_cache(subject: Subject) -> None:
    """After an answer the cache of the target holds all but the newest token, unless history is merged."""
    generation = run(subject.method, prompt(9, vocabulary=subject.vocabulary), new=20)
    if "kv_entries" not in generation.counts:
        assert subject.decoder.cache.length == 9 + len(generation.ids) - 1


@dataclass(frozen=True)
class Resumed:
    """A run that was interrupted after its first sample and started again.

    Args:
        folder: Of its records.
        before: The record file as the interrupt left it.
        failures: Failed samples of the second start.
    """

    folder: Path
    before: bytes
    failures: int


def interrupt_and_resume(settings: Settings) -> Resumed:
    """Start a run, interrupt it once a sample is stored, and start it again."""
    append, left = RunStore.append, list[bytes]()

    def interrupted(store: RunStore, sample: Sample) -> Sample:
        append(store, sample)
        left.append((store.folder / "samples.jsonl").read_bytes())
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunStore, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute(settings)
    outcome = execute(settings)
    return Resumed(outcome.run_dir, left[0], outcome.failures)


def check_resumed(resumed: Resumed) -> None:
    """What was stored stays, what was missing is measured once, and the output is as promised."""
    run, samples = load_run(resumed.folder), load_samples(resumed.folder)
    assert resumed.failures == 0
    assert len(run.attempts) == 2
    assert resumed.before.count(b"\n") == 1
    assert (resumed.folder / "samples.jsonl").read_bytes().startswith(resumed.before)
    assert len({sample.prompt_id for sample in samples}) == 2
    arms = {sample.arm for sample in samples}
    assert len({sample.key for sample in samples}) == len(samples) == 2 * len(arms)
    for sample in samples:
        assert 1 <= len(sample.ids) <= run.config["max_new_tokens"]
        if sample.arm is Arm.METHOD and run.labels["exactness"] == Exactness.GREEDY_EXACT:
            assert sample.equivalence is not None
            assert sample.equivalence.verdict is Verdict.EXACT


def check_row(resumed: Resumed, rows: Sequence[Mapping[str, str]]) -> None:
    """The report has one row of this run, which says whether the output may differ."""
    run = load_run(resumed.folder)
    (row,) = (row for row in rows if row["runs"] == run.run_id and row["subtask"] == "overall")
    assert row["method"].startswith(run.method)
    is_lossy = run.labels["exactness"] == Exactness.LOSSY
    assert row["class"] in ("not ranked", "lossy" if is_lossy else "lossless")
    assert row["questions"] == "2"
