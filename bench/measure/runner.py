"""Measures every turn with all arms, one after the other; each turn is on disk before the next begins.

`bench.compose.cells` gives the order of the arms, which changes from question to question, so that a slow
drift of the machine affects all arms alike. The harness cuts outputs at the end token and the budget,
recounts them, and judges them against the target. A sample that fails is stored with its error, and the run
goes on.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench.compose.cells import Cell, blank, cells_of, failed, key_of
from bench.compose.settings import Settings
from bench.compose.workbench import Workbench, build_workbench
from bench.errors import UserError
from bench.measure.environment import environment, is_gpu_shared
from bench.measure.finished import Outcome, joined, outcome_of
from bench.measure.meters import MemoryMeter, energy_meter, turn_clock
from bench.measure.probes import probe, row_counts
from bench.measure.progress import Progress
from bench.measure.verdicts import check_counts, judged
from bench.measure.warmup import first_prompt, warm_up
from bench.plan.empty_model import require_room_for_all
from bench.prove.source import source_hash
from bench.records.codec import to_line
from bench.records.model import Arm, Run, Sample, Timing
from bench.records.rounds import Rounds
from bench.records.store import RunStore, load_samples
from bench.runtime.sampling import Sampler
from bench.runtime.tier_choice import tier_labels
from bench.runtime.tiers.graph.decoder import GraphDecoder
from bench.tasks.chat import ChatFormat, prompt_hash
from bench.tasks.checkers import is_right
from bench.tasks.task import LoadedTask
from methods.core.base import Budget

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Measured:
    """A run as it is on disk after a start."""

    run: Run
    samples: Sequence[Sample]
    folder: Path


def execute(settings: Settings, session: int | None = None, task: LoadedTask | None = None) -> Outcome:
    """Measure what is still missing of one run and summarise all of it; see `measure`."""
    measured = measure(settings, session, task)
    return outcome_of(settings, measured.run, measured.samples, measured.folder)


def measure(settings: Settings, session: int | None = None, task: LoadedTask | None = None) -> Measured:
    """Measure what is still missing of one run.

    Args:
        settings: Of the run.
        session: The session to measure; None measures those that are missing, all in this process.
        task: Its prompts, if they have been read.

    Raises:
        UserError: If the settings cannot be met or the records cannot be written.
    """
    if settings.is_arena:
        require_room_for_all(settings)
    bench = build_workbench(settings, task)
    block = environment(bench.decoder.device, bench.decoder.dtype)
    block |= {"gpu_shared": is_gpu_shared(block), **tier_labels(bench.decoder)}
    run = replace(bench.run, attempts=(block,))
    sources = {
        label: source_hash(method.target, bench.decoder.tier) for label, method in settings.methods.items()
    }
    sessions = range(settings.measure.sessions) if session is None else (session,)
    with RunStore.open(settings.results_dir, run, joined(sources)) as store:
        Session(settings, bench, store, sources).run(sessions)
        store.require_in_place()
        samples = [_recounted(sample, bench.chat) for sample in load_samples(store.folder)]
        return Measured(store.run, samples, store.folder)


def _recounted(sample: Sample, chat: ChatFormat) -> Sample:
    """The sample with the length of its text in tokens, which records of older code lack."""
    if sample.text_tokens is not None or sample.error is not None:
        return sample
    return replace(sample, text_tokens=chat.text_tokens(sample.text))


class Session:
    """One start of a run: measures with the objects of `bench` what `store` does not hold yet.

    Args:
        sources: Hash of the code that each method decodes with, by label, for the record.
    """

    def __init__(
        self, settings: Settings, bench: Workbench, store: RunStore, sources: Mapping[str, str]
    ) -> None:
        self._settings, self._bench, self._store, self._sources = settings, bench, store, sources
        self._clock = turn_clock(bench.decoder.device)
        self._memory = MemoryMeter(bench.decoder.cache.devices)
        self._energy = energy_meter(bench.decoder.cache.devices)
        self._before = ""

    def run(self, sessions: Sequence[int]) -> None:
        """Measure every cell of these sessions that is not complete."""
        bench, prompts, repeats = self._bench, self._bench.task.prompts, self._settings.measure.repeats
        self._require_repeats(repeats)
        every = cells_of(prompts, bench.arms, repeats=repeats, sessions=sessions, seed=self._settings.seed)
        cells = [cell for cell in every if self._missing(cell)]
        if not cells:
            return
        longest = max(prompts, key=lambda prompt: prompt.first_characters)
        warmup, most = self._settings.measure.warmup, self._settings.max_new_tokens
        rows = warm_up(bench, (prompts[0], longest), warmup, most)
        context = len(first_prompt(bench, prompts[0])) + most // 2
        self._store.note("source", joined(self._sources))
        if self._settings.is_arena:
            self._store.note("sources", self._sources)
        self._store.note("probe", asdict(probe(bench.decoder, context, row_counts(rows))))
        decoder = bench.decoder
        before = decoder.tally.recorded if isinstance(decoder, GraphDecoder) else 0
        self._measure_all(cells)
        if isinstance(decoder, GraphDecoder):  # a turn that had to record a graph took longer
            late = decoder.tally.recorded - before
            self._store.note("graphs", asdict(decoder.tally) | {"recorded_while_measuring": late})

    def _require_repeats(self, repeats: int) -> None:
        """Refuse repeats that are not those of the sessions measured so far, which number their samples.

        Raises:
            UserError: If a stored sample belongs to another session than its repeat would now.
        """
        for sample in self._store.good.values():
            if sample.session != sample.repeat // repeats and self._settings.measure.sessions > 1:
                raise UserError(
                    f"{self._store.folder} was measured with another measure.repeats than {repeats}",
                    "set the same repeats per session, or choose another results folder",
                )

    def _measure_all(self, cells: list[Cell]) -> None:
        with Progress(sum(len(self._missing(cell)) for cell in cells)) as progress:
            for cell in cells:
                for sample in self._measure(cell, progress):
                    progress.stored(self._store.append(sample))

    def _missing(self, cell: Cell) -> list[str]:
        """Labels of the arms of a cell still to be decoded, in its order."""
        return [label for label in cell.labels if key_of(cell, label) not in self._store.good]

    def _measure(self, cell: Cell, progress: Progress) -> list[Sample]:
        """Decode a cell with every arm that is missing, then judge the outputs."""
        samples: dict[str, Sample] = {}
        for label in self._missing(cell):
            progress.begin(label, cell.prompt.id)
            undecoded = blank(cell, label, cell.labels.index(label), self._before)
            samples[label] = self._try(undecoded, cell, self._decode)
            progress.decoded()
            self._before = label
        baseline = samples.get(Arm.BASELINE) or self._store.good.get(key_of(cell, Arm.BASELINE))
        judge = partial(self._judged, baseline=baseline)
        return [self._try(sample, cell, judge) for sample in samples.values()]

    def _try(self, sample: Sample, cell: Cell, work: Callable[[Cell, Sample], Sample]) -> Sample:
        """The sample that `work` returns; an exception inside it becomes the record of a failure."""
        try:
            return work(cell, sample)
        except UserError as mistake:
            return failed(sample, f"{mistake.what}; {mistake.fix}")
        except Exception as error:
            log.warning("%s failed", sample.key, exc_info=True)
            return failed(sample, f"{type(error).__name__}: {error}")

    def _decode(self, cell: Cell, blank: Sample) -> Sample:
        prompt_ids = self._prompt_ids(cell, blank.label)
        bench, clock = self._bench, self._clock
        budget = self._budget(prompt_ids.numel())
        sampler = self._sampler(blank)
        self._memory.reset()
        self._energy.start()
        started_at, clock_s = time.time(), time.monotonic()
        with torch.inference_mode(), clock:
            generation = bench.arms[blank.label].generate(prompt_ids, budget, sampler, clock)
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
            rounds=Rounds.of(cut.rounds),
            counts=cut.counts,
            timing=_of_rounds(clock.timing(), len(generation.rounds), len(cut.rounds)),
            started_at=started_at,
            clock_s=clock_s,
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

    def _prompt_ids(self, cell: Cell, label: str) -> Tensor:
        """The conversation so far: with the arm's own answers, or the baseline's (``measure.history``)."""
        source = Arm.BASELINE if self._settings.measure.history == "frozen" else label
        answers = []
        for turn in range(cell.turn):
            before = self._store.good.get(key_of(replace(cell, turn=turn), source))
            if before is None:
                raise UserError(f"turn {turn + 1} of this prompt failed", "see the error of that turn")
            answers.append(before.text)
        ids = self._bench.chat.ids_of(cell.prompt, answers)
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
        prompt_ids = partial(self._prompt_ids, cell, sample.label)
        promise = self._bench.promise(sample.label)
        sample = judged(sample, baseline, self._bench.decoder, prompt_ids, promise)
        if cell.prompt.checks:
            sample = replace(sample, is_right=is_right(cell.prompt.checks[cell.turn], sample.text))
        to_line(sample)  # a number that cannot be stored is this sample's failure, not the run's
        return sample


def _of_rounds(timing: Timing, decoded: int, kept: int) -> Timing:
    """The timing with the time of every round that was kept; none where passes and rounds do not pair up."""
    seconds = timing.rounds_s[: kept if len(timing.rounds_s) == decoded else 0]
    return replace(timing, rounds_s=seconds)
