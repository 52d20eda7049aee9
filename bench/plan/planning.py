"""``bench.plan=true``: which run a command means, how much of it is measured, and what it would take."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from bench.compose.cells import cells_of, key_of
from bench.compose.settings import Settings
from bench.outline import Unclear
from bench.outline.run import RunOutline, has_shipped_settings, outline_of
from bench.plan.devices import GPUS, Gpu
from bench.plan.outlook import Outlook, estimate
from bench.plan.size import Size
from bench.records.model import ARENA, Key
from bench.records.store import load_run, load_samples
from bench.show.layout import byte_size
from bench.show.waiting import announce


@dataclass(frozen=True, slots=True)
class Planned:
    """What `execute` would do.

    Args:
        text: The run's id and progress, memory, time, and what must be fetched or trained first.
        seconds: Estimated time; None if there is no estimate.
    """

    text: str
    seconds: float | None


def plan(settings: Settings) -> Planned:
    """What `execute` would do, and what it would take. Fetches nothing and loads no weights."""
    run = _outline(settings)
    has_begun = run is not None and (settings.results_dir / "runs" / run.run_id / "run.json").is_file()
    if not has_begun and not has_shipped_settings(settings):  # a run on disk has passed its constructor
        announce("loading torch to check the method's settings")
        for method in settings.methods.values():
            method.build()
    outlook = estimate(settings)
    if not outlook.is_startable:
        progress = _unstarted(settings, outlook.samples)
    else:
        progress = _progress(settings, *((run.run_id, run.keys) if run is not None else _loaded(settings)))
    return Planned("\n".join([progress, *outlook_lines(outlook)]), outlook.seconds)


def outlook_lines(outlook: Outlook) -> list[str]:
    """The estimates in words, one line each, then what must be done first."""
    first = [f"  first   {task}" for task in outlook.missing]
    if outlook.size is None:
        return ["  memory  unknown: neither the checkpoint nor its shape is here", *first]
    memory = [_memory_line(outlook.size, outlook.gpu, outlook.gpus), *_buffers_line(outlook.size)]
    return [*memory, _time_line(outlook), *first]


def duration(seconds: float) -> str:
    """Seconds in the largest unit that leaves a number above one."""
    for unit, scale in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * scale:
            return f"{seconds / scale:.1f} {unit}"
    return f"{seconds:.0f} s"


def _outline(settings: Settings) -> RunOutline | None:
    """The run as files describe it; None where they do not, or where they are not here."""
    try:
        return outline_of(settings)
    except Unclear:
        return None


def _loaded(settings: Settings) -> tuple[str, Set[Key]]:
    """Id and samples of a run that the files do not describe plainly."""
    announce("loading torch and the tokenizer to name this run")
    from bench.compose.workbench import prepare_run

    prepared = prepare_run(settings)
    cells = cells_of(
        prepared.task.prompts,
        prepared.arms,
        repeats=settings.measure.repeats,
        sessions=range(settings.measure.sessions),
        seed=settings.seed,
    )
    return prepared.run.run_id, {key_of(cell, label) for cell in cells for label in cell.labels}


def _progress(settings: Settings, run_id: str, keys: Set[Key]) -> str:
    folder = settings.results_dir / "runs" / run_id
    has_begun = (folder / "run.json").is_file()  # a start that was killed at once leaves an empty folder
    stored = load_samples(folder) if has_begun and load_run(folder) else []
    done = sum(sample.error is None and sample.key in keys for sample in stored)
    state = "complete" if done == len(keys) else "not started" if not stored else "incomplete"
    return f"{run_id}  {done} of {len(keys)} samples  {state}"


def _unstarted(settings: Settings, samples: int) -> str:
    """A run whose id is not known yet, because it depends on what has to be fetched."""
    method = ARENA if settings.is_arena else settings.method.name
    names = method, settings.task.name, settings.model.name
    return f"{'-'.join(names)}  0 of {samples} samples  not started"


def _memory_line(size: Size, gpu: Gpu | None, gpus: int) -> str:
    modules = byte_size(size.module_bytes)
    cache = f"cache {byte_size(size.cache_bytes)} for {size.capacity} tokens"
    parts = f"weights {byte_size(size.weight_bytes)}, modules {modules}, {cache}"
    line = f"  memory  about {byte_size(size.total_bytes)}: {parts}"
    if gpu is None:
        return line
    room = gpus * gpu.memory_bytes
    verdict = "has" if size.total_bytes <= room else "DOES NOT FIT:"
    return f"{line}; {f'{gpus} x ' if gpus > 1 else ''}{gpu.title}: {verdict} {byte_size(room)}"


def _buffers_line(size: Size) -> list[str]:
    """What the sum holds beside weights, modules and cache; no line if that is nothing."""
    buffers = size.buffers
    parts = {
        "weights rearranged for the CPU": buffers.copy_bytes,
        "cache of modules": buffers.drafter_bytes,
        "position tables": buffers.table_bytes,
        "logits of recorded passes": buffers.logits_bytes,
        "their inputs and outputs": buffers.graph_bytes,
        "their intermediate results": buffers.scratch_bytes,
    }
    listed = [f"{name} {byte_size(count)}" for name, count in parts.items() if count]
    return [f"          and buffers {byte_size(buffers.total_bytes)}: {', '.join(listed)}"] if listed else []


def _time_line(outlook: Outlook) -> str:
    if outlook.gpu is None or outlook.seconds is None or outlook.token_s is None:
        return f"  time    no estimate without a GPU: add bench.device={'|'.join(GPUS)}"
    rate = f"{1e3 * outlook.token_s:.1f} ms a token at {outlook.gpu.bytes_per_s / 1e9:.0f} GB/s"
    work = f"{outlook.samples} answers of up to {outlook.longest} tokens, {rate}"
    return f"  time    estimated {duration(outlook.seconds)} on {outlook.gpu.title}: {work}"
