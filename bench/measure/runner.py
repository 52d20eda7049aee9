"""Measures prompts x turns x repeats with the arms interleaved; every pair is on disk before the next begins.

Order is ABBA: repeat 0 decodes baseline then method, repeat 1 method then baseline, and so on, turn by turn,
so that a slow drift of the machine affects both arms alike; an eager arm comes last in repeat 0. The harness
cuts outputs at the end token and the budget, recounts them, and judges them against the target. A sample that
fails is stored with its error, and the run goes on.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from bench.compose.settings import Settings
from bench.compose.workbench import Cell, Workbench, arms_of, build_workbench, cells_of, key_of
from bench.errors import UserError
from bench.measure.environment import environment, is_gpu_shared
from bench.measure.meters import MemoryMeter, energy_meter, turn_clock
from bench.measure.probes import probe, row_counts
from bench.measure.verdicts import check_counts, judged
from bench.measure.warmup import first_prompt, warm_up
from bench.metrics.summary import summarise
from bench.prove.certificates import badge_of
from bench.prove.source import source_hash
from bench.records.codec import to_line
from bench.records.model import Arm, Sample
from bench.records.store import RunStore, load_samples
from bench.runtime.sampling import Sampler
from bench.runtime.tiers.graph.decoder import GraphDecoder
from bench.show.table import run_table
from bench.tasks.chat import ChatFormat, prompt_hash
from bench.tasks.checkers import is_right
from methods.core.base import Budget, Exactness

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run: its table as plain text, its folder, and how many samples failed."""

    table: str
    run_dir: Path
    failures: int


def execute(settings: Settings) -> Outcome:
    """Measure what is still missing of one run and summarise all of it.

    Raises:
        UserError: If the settings cannot be met or the records cannot be written.
    """
    bench = build_workbench(settings)
    block = environment(bench.decoder.device, bench.decoder.dtype)
    block |= {"gpu_shared": is_gpu_shared(block), "tier": bench.decoder.tier}
    run = replace(bench.run, attempts=(block,))
    source = source_hash(settings.method.target, bench.decoder.tier)
    with RunStore.open(settings.results_dir, run, source) as store:
        Session(settings, bench, store, source).run()
        store.require_in_place()
        folder, run = store.folder, store.run
        samples = [_recounted(sample, bench.chat) for sample in load_samples(folder)]
    evidence, seed = badge_of(run, settings.results_dir), settings.seed
    level, resamples = settings.measure.level, settings.measure.resamples
    summary = summarise(run, samples, level=level, resamples=resamples, seed=seed, evidence=evidence)
    return Outcome(run_table(summary), folder, sum(sample.error is not None for sample in samples))


def _recounted(sample: Sample, chat: ChatFormat) -> Sample:
    """The sample with the length of its text in tokens, which records of older code lack."""
    if sample.text_tokens is not None or sample.error is not None:
        return sample
    return replace(sample, text_tokens=chat.text_tokens(sample.text))


class Session:
    """One start of a run: measures with the objects of `bench` what `store` does not hold yet.

    Args:
        source: Hash of the code that decodes, for the record.
    """

    def __init__(self, settings: Settings, bench: Workbench, store: RunStore, source: str) -> None:
        self._settings, self._bench, self._store, self._source = settings, bench, store, source
        self._clock = turn_clock(bench.decoder.device)
        self._memory = MemoryMeter(bench.decoder.device)
        self._energy = energy_meter(bench.decoder.device)

    def run(self) -> None:
        """Measure every cell that is not complete."""
        bench, prompts = self._bench, self._bench.task.prompts
        cells = [cell for cell in cells_of(prompts, self._settings.measure.repeats) if self._missing(cell)]
        if not cells:
            return
        longest = max(prompts, key=lambda prompt: len(prompt.system) + len(prompt.turns[0]))
        warmup, most = self._settings.measure.warmup, self._settings.max_new_tokens
        rows = warm_up(bench, (prompts[0], longest), warmup, most)
        context = len(first_prompt(bench, prompts[0])) + most // 2
        self._store.note("source", self._source)
        self._store.note("probe", asdict(probe(bench.decoder, context, row_counts(rows))))
        decoder = bench.decoder
        before = decoder.tally.recorded if isinstance(decoder, GraphDecoder) else 0
        self._measure_all(cells)
        if isinstance(decoder, GraphDecoder):  # a turn that had to record a graph took longer
            late = decoder.tally.recorded - before
            self._store.note("graphs", asdict(decoder.tally) | {"recorded_while_measuring": late})

    def _measure_all(self, cells: list[Cell]) -> None:
        figures = LiveFigures()
        with tqdm(cells, unit="turn", disable=None, mininterval=0.5) as bar:
            for cell in bar:
                for sample in self._measure(cell):
                    figures.add(self._store.append(sample))
                bar.set_postfix_str(figures.text())

    def _missing(self, cell: Cell) -> list[Arm]:
        """Arms of a cell still to be decoded, in this repeat's order."""
        return [arm for arm in arms_of(cell, self._bench.arms) if key_of(cell, arm) not in self._store.good]

    def _measure(self, cell: Cell) -> list[Sample]:
        """Decode a cell with every arm that is missing, then judge the outputs."""
        blanks = [_failure(cell, arm, place, "not decoded") for place, arm in enumerate(self._missing(cell))]
        samples = {blank.arm: self._try(blank, cell, self._decode) for blank in blanks}
        baseline = samples.get(Arm.BASELINE) or self._store.good.get(key_of(cell, Arm.BASELINE))
        judge = partial(self._judged, baseline=baseline)
        return [self._try(sample, cell, judge) for sample in samples.values()]

    def _try(self, sample: Sample, cell: Cell, work: Callable[[Cell, Sample], Sample]) -> Sample:
        """The sample that `work` returns; an exception inside it becomes the record of a failure."""
        try:
            return work(cell, sample)
        except UserError as mistake:
            return _failure(cell, sample.arm, sample.order, f"{mistake.what}; {mistake.fix}")
        except Exception as error:
            log.warning("%s failed", sample.key, exc_info=True)
            return _failure(cell, sample.arm, sample.order, f"{type(error).__name__}: {error}")

    def _decode(self, cell: Cell, blank: Sample) -> Sample:
        prompt_ids = self._prompt_ids(cell, blank.arm)
        bench, clock = self._bench, self._clock
        budget = self._budget(prompt_ids.numel())
        sampler = self._sampler(blank)
        self._memory.reset()
        self._energy.start()
        with torch.inference_mode(), clock:
            generation = bench.arms[blank.arm].generate(prompt_ids, budget, sampler, clock)
        energy_j = self._energy.joules()
        sampler.require_finite()
        cut = generation.cut(budget.max_new_tokens, budget.eos_ids)
        text = bench.chat.text(cut.ids)
        sample = replace(
            blank,
            error=None,
            prompt_tokens=prompt_ids.numel(),
            prompt_hash=prompt_hash(prompt_ids.tolist()),
            ids=cut.ids,
            text=text,
            text_tokens=bench.chat.text_tokens(text),
            rounds=cut.rounds,
            counts=cut.counts,
            timing=clock.timing(),
            peak_memory_bytes=self._memory.peak_bytes(),
            peak_reserved_bytes=self._memory.peak_reserved_bytes(),
            energy_j=energy_j,
        )
        check_counts(sample)
        return sample

    def _budget(self, prompt_tokens: int) -> Budget:
        """As many tokens as are set, or as fit after the prompt.

        Raises:
            UserError: If there is no room for a single token.
        """
        room = self._bench.decoder.capacity - prompt_tokens
        if room < 1:
            raise UserError(
                f"the prompt has {prompt_tokens} tokens, the context holds {self._bench.decoder.capacity}",
                "shorten the prompt, or raise runtime.max_length if the model's context allows it",
            )
        return Budget(min(self._settings.max_new_tokens, room), self._bench.eos_ids)

    def _prompt_ids(self, cell: Cell, arm: Arm) -> Tensor:
        """The conversation so far: with the arm's own answers, or the baseline's (``measure.history``)."""
        source = Arm.BASELINE if self._settings.measure.history == "frozen" else arm
        answers = []
        for turn in range(cell.turn):
            before = self._store.good.get(key_of(replace(cell, turn=turn), source))
            if before is None:
                raise UserError(f"turn {turn + 1} of this prompt failed", "see the error of that turn")
            answers.append(before.text)
        prompt = cell.prompt
        ids = self._bench.chat.prompt_ids(prompt.turns[: cell.turn + 1], answers, prompt.system)
        return torch.tensor(ids, dtype=torch.int64, device=self._bench.decoder.device)

    def _sampler(self, sample: Sample) -> Sampler:
        """A sampler whose seed depends on the turn, and neither on the arm nor on the time."""
        name = f"{self._settings.seed}|{sample.prompt_id}|{sample.turn}|{sample.repeat}"
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
        return Sampler(self._bench.sampling, self._bench.decoder.device, seed)

    def _judged(self, cell: Cell, sample: Sample, baseline: Sample | None) -> Sample:
        """The sample with its verdict and its quality."""
        if sample.error is not None:
            return sample
        prompt_ids = partial(self._prompt_ids, cell, sample.arm)
        promise = Exactness(self._bench.run.labels["exactness"])
        sample = judged(sample, baseline, self._bench.decoder, prompt_ids, promise)
        if cell.prompt.checks:
            sample = replace(sample, is_right=is_right(cell.prompt.checks[cell.turn], sample.text))
        to_line(sample)  # a number that cannot be stored is this sample's failure, not the run's
        return sample


def _failure(cell: Cell, arm: Arm, order: int, error: str) -> Sample:
    """The record of a turn that failed."""
    return Sample(cell.prompt.id, cell.prompt.subtask, cell.turn, cell.repeat, arm, order, error=error)


class LiveFigures:
    """The figures beside the progress bar: speed of every arm and acceptance length since this start."""

    def __init__(self) -> None:
        self._tokens = dict.fromkeys(Arm, 0)
        self._seconds = dict.fromkeys(Arm, 0.0)
        self._rounds = self._failed = 0

    def add(self, sample: Sample) -> None:
        if sample.timing is None:
            self._failed += 1
            return
        self._tokens[sample.arm] += len(sample.ids) - 1
        self._seconds[sample.arm] += sample.timing.decode_s
        if sample.arm is Arm.METHOD:
            self._rounds += len(sample.rounds)

    def text(self) -> str:
        """Such as ``baseline 310 tok/s, method 450 tok/s, 3.1 tokens/round``."""
        spent = {arm: seconds for arm, seconds in self._seconds.items() if seconds}
        parts = [f"{arm.value} {self._tokens[arm] / seconds:.0f} tok/s" for arm, seconds in spent.items()]
        if self._rounds:
            parts.append(f"{self._tokens[Arm.METHOD] / self._rounds:.2f} tokens/round")
        if self._failed:
            parts.append(f"{self._failed} failed")
        return ", ".join(parts)
