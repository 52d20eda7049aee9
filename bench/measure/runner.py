"""Measures prompts x turns x repeats, the arms interleaved, every pair on disk before the next begins.

Order is ABBA: repeat 0 decodes baseline then method, repeat 1 method then baseline, and so on, turn by turn,
so that a slow drift of the machine falls on both arms alike; an eager arm comes behind them in repeat 0. The
harness cuts outputs at the end token and the budget, recounts them, and judges them against the target. A
sample that fails is a record with its error; the run goes on.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from bench.compose.settings import Settings
from bench.compose.workbench import Workbench, build_workbench
from bench.errors import UserError
from bench.measure.cells import Cell, arms_of, cells_of, key_of
from bench.measure.environment import environment, is_gpu_shared
from bench.measure.meters import EnergyMeter, MemoryMeter, turn_clock
from bench.measure.nvml import nvml_device
from bench.measure.probes import probe, row_counts
from bench.measure.progress import LiveFigures
from bench.measure.verdicts import first_divergence, judge, reference_nll
from bench.measure.warmup import warm_up
from bench.metrics.summary import summarise
from bench.prove.certificates import badge_of, source_hash
from bench.records.checks import check_identities
from bench.records.model import Arm, Equivalence, Sample, Verdict
from bench.records.sample_file import to_line
from bench.records.store import RunStore, load_samples
from bench.runtime.sampling import Sampler
from bench.runtime.tiers.graphs import GraphDecoder
from bench.show.table import run_table
from bench.tasks.chat import prompt_hash
from bench.tasks.checkers import is_right
from methods.core.base import Budget, Exactness

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to.

    Args:
        table: The final table, plain text.
        run_dir: Folder of the records.
        failures: Samples that failed.
    """

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
    block |= {"gpu_shared": is_gpu_shared(block), "source": source_hash(settings.method.target)}
    block |= {"tier": bench.decoder.tier}
    run = replace(bench.run, attempts=(block,))
    with RunStore.open(settings.results_dir, run) as store:
        Session(settings, bench, store).run()
        folder, run = store.folder, store.run
    samples = load_samples(folder)
    evidence, resamples = badge_of(run, settings.results_dir), settings.measure.resamples
    summary = summarise(run, samples, resamples=resamples, seed=settings.seed, evidence=evidence)
    return Outcome(run_table(summary), folder, sum(sample.error is not None for sample in samples))


class Session:
    """One attempt at a run.

    Args:
        settings: What to measure.
        bench: With what.
        store: Where it goes; knows what is measured already.
    """

    def __init__(self, settings: Settings, bench: Workbench, store: RunStore) -> None:
        self._settings, self._bench, self._store = settings, bench, store
        self._clock = turn_clock(bench.decoder.device)
        self._memory = MemoryMeter(bench.decoder.device)
        self._energy = EnergyMeter(nvml_device(bench.decoder.device)[0])
        self._answers = {sample.key: sample for sample in load_samples(store.folder) if sample.error is None}

    def run(self) -> None:
        """Measure every cell that is not complete."""
        cells = [cell for cell in self._all_cells() if self._missing(cell)]
        if not cells:
            return
        first, longest = (
            self._bench.task.prompts[0],
            max(self._bench.task.prompts, key=lambda one: len(one.turns[0])),
        )
        warmup, most = self._settings.measure.warmup, self._settings.max_new_tokens
        rows = warm_up(self._bench, (first, longest), warmup, most)
        context = len(self._bench.chat.prompt_ids(first.turns[:1], ())) + most // 2
        self._store.note("probe", asdict(probe(self._bench.decoder, context, row_counts(rows))))
        decoder = self._bench.decoder
        before = decoder.tally.recorded if isinstance(decoder, GraphDecoder) else 0
        self._measure_all(cells)
        if isinstance(decoder, GraphDecoder):  # a turn that had to record a graph took longer for it
            late = decoder.tally.recorded - before
            self._store.note("graphs", asdict(decoder.tally) | {"recorded_while_measuring": late})

    def _measure_all(self, cells: list[Cell]) -> None:
        figures = LiveFigures()
        with tqdm(cells, unit="turn", disable=None, mininterval=0.5) as bar:
            for cell in bar:
                for sample in self._measure(cell):
                    stored = self._store.append(sample)
                    if stored.error is None:
                        self._answers[stored.key] = stored
                    figures.add(stored)
                bar.set_postfix_str(figures.text())

    def _all_cells(self) -> Iterator[Cell]:
        return cells_of(self._bench.task.prompts, self._settings.measure.repeats)

    def _missing(self, cell: Cell) -> list[Arm]:
        """Arms of a cell still to be decoded, in this repeat's order."""
        order = arms_of(cell, self._bench.arms)
        return [arm for arm in order if key_of(cell, arm) not in self._store.done]

    def _measure(self, cell: Cell) -> list[Sample]:
        """Decode a cell by every arm that is missing, then judge what came out."""
        samples = {}
        for place, arm in enumerate(self._missing(cell)):
            blank = _failure(cell, arm, place, "not decoded")
            samples[arm] = self._try(blank, cell, self._decode)
        baseline = samples.get(Arm.BASELINE) or self._answers.get(key_of(cell, Arm.BASELINE))
        judge = partial(self._judged, baseline=baseline)
        return [self._try(sample, cell, judge) for sample in samples.values()]

    def _try(self, sample: Sample, cell: Cell, work: Callable[[Cell, Sample], Sample]) -> Sample:
        """What `work` makes of a sample; whatever goes wrong inside it becomes the record of a failure."""
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
        cut = generation.cut(budget.max_new_tokens, budget.eos_ids)
        sample = replace(
            blank,
            error=None,
            prompt_tokens=prompt_ids.numel(),
            prompt_hash=prompt_hash(prompt_ids.tolist()),
            ids=cut.ids,
            text=bench.chat.text(cut.ids),
            rounds=cut.rounds,
            counts=cut.counts,
            timing=clock.timing(),
            peak_memory_bytes=self._memory.peak_bytes(),
            peak_reserved_bytes=self._memory.peak_reserved_bytes(),
            energy_j=energy_j,
        )
        check_identities(sample)
        return sample

    def _budget(self, prompt_tokens: int) -> Budget:
        """The tokens asked for, or as many as fit behind the prompt.

        Raises:
            UserError: If not even one fits.
        """
        room = self._bench.decoder.capacity - prompt_tokens
        if room < 1:
            raise UserError(
                f"the prompt has {prompt_tokens} tokens, the context holds {self._bench.decoder.capacity}",
                "shorten the prompt, or raise runtime.max_length if the model's context allows it",
            )
        return Budget(min(self._settings.max_new_tokens, room), self._bench.eos_ids)

    def _prompt_ids(self, cell: Cell, arm: Arm) -> Tensor:
        """The conversation so far: on the arm's own answers, or on the baseline's (``measure.history``)."""
        source = Arm.BASELINE if self._settings.measure.history == "frozen" else arm
        answers = []
        for turn in range(cell.turn):
            before = self._answers.get(key_of(replace(cell, turn=turn), source))
            if before is None:
                raise UserError(f"turn {turn + 1} of this prompt failed", "see the error of that turn")
            answers.append(before.text)
        ids = self._bench.chat.prompt_ids(cell.prompt.turns[: cell.turn + 1], answers)
        return torch.tensor(ids, dtype=torch.int64, device=self._bench.decoder.device)

    def _sampler(self, sample: Sample) -> Sampler:
        """A sampler seeded by what is decoded, not by when or by which arm."""
        name = f"{self._settings.seed}|{sample.prompt_id}|{sample.turn}|{sample.repeat}"
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
        return Sampler(self._bench.sampling, self._bench.decoder.device, seed)

    def _judged(self, cell: Cell, sample: Sample, baseline: Sample | None) -> Sample:
        """The sample with the verdict on its output and with its quality."""
        if sample.error is not None:
            return sample
        if sample.arm is Arm.METHOD:
            sample = replace(sample, equivalence=self._judge(cell, sample, baseline))
        graded = self._graded(cell, sample)
        to_line(graded)  # a number that cannot be stored is this sample's failure, not the run's
        return graded

    def _judge(self, cell: Cell, method: Sample, baseline: Sample | None) -> Equivalence:
        """The verdict on a method's sample; lossy and sampled output is compared, not judged."""
        if baseline is None or baseline.error is not None:
            return Equivalence(Verdict.UNCHECKED)
        is_same_prompt = baseline.prompt_hash == method.prompt_hash
        if self._bench.run.labels["exactness"] == Exactness.GREEDY_EXACT:
            baseline_ids = baseline.ids if is_same_prompt else ()
            return judge(self._bench.decoder, self._prompt_ids(cell, Arm.METHOD), method.ids, baseline_ids)
        divergence = first_divergence(method.ids, baseline.ids) if is_same_prompt else None
        return Equivalence(Verdict.UNCHECKED, first_divergence=divergence)

    def _graded(self, cell: Cell, sample: Sample) -> Sample:
        """The sample with its quality: right or not where a check tells; in lossy runs its likelihood."""
        if cell.prompt.checks:
            sample = replace(sample, is_right=is_right(cell.prompt.checks[cell.turn], sample.text))
        if self._bench.run.labels["exactness"] != Exactness.LOSSY:
            return sample
        nll = reference_nll(self._bench.decoder, self._prompt_ids(cell, sample.arm), sample.ids)
        return replace(sample, reference_nll=nll)


def _failure(cell: Cell, arm: Arm, order: int, error: str) -> Sample:
    """The record of a decode that came to nothing."""
    return Sample(cell.prompt.id, cell.prompt.subtask, cell.turn, cell.repeat, arm, order, error=error)
