"""Training of the embedded model from nothing: the run's folder, its worker processes, interrupt and resume.

On the CPU each core runs one worker with one thread (about 1.7 times the throughput of one process with two
threads at these matrix sizes). A step depends only on the recipe and the step's number, so an interrupted run
is resumed exactly by the same command.
"""

import logging
import os
import signal
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from itertools import islice
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import torch
from torch import distributed

from bench.errors import UserError
from bench.measure.isolate import end_with_parent
from bench.records.files import acquire, release
from bench.train.base.loop import Trainer
from bench.train.base.recipe import BaseRecipe, default_recipe
from bench.train.corpus import training_dialogues
from bench.train.data.tokenizer import train_tokenizer
from bench.train.trainers.checkpoint import load_state, make_folder

__all__ = ["BaseRecipe", "default_recipe", "train_base"]

# Environment of the worker processes. By default glibc returns large blocks to the system after every use and
# then has to map them again; keeping them makes a step about a quarter faster.
WORKER_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "OMP_WAIT_POLICY": "PASSIVE",
}
RENDEZVOUS = "rendezvous"
log = logging.getLogger(__name__)


def train_base(
    recipe: BaseRecipe, out: Path, *, device: str = "cpu", stop_after: int | None = None
) -> Path | None:
    """Train the embedded model, or continue the run that `out` holds.

    Ctrl-C or SIGTERM stops after the current step with a checkpoint; the same call resumes.

    Args:
        recipe: Settings of the run.
        out: Folder of the run; receives `state.pt`, `tokenizer/` and, at the end, `final/`.
        device: ``cpu`` or ``cuda``; see `default_recipe` for settings that fit.
        stop_after: Stop with a checkpoint after this many steps, as an interrupt would.

    Returns:
        The Hugging Face folder of the finished model (bf16), or None if the run was stopped.

    Raises:
        UserError: If `out` holds a run with other settings or a damaged one, another process trains there,
            or several workers are to share a GPU.
        RuntimeError: If a worker failed.
    """
    if device != "cpu" and recipe.workers > 1:
        raise UserError(f"workers must be 1 on {device}, got {recipe.workers}", "Set workers=1.")
    load_state(out, asdict(recipe))  # raises if settings differ, before any worker starts
    if (out / "final").exists():
        return out / "final"
    make_folder(out)
    lock = acquire(out)
    try:
        _run_workers(recipe, out, device, stop_after)
    finally:
        release(lock)
    return out / "final" if (out / "final").exists() else None


def _run_workers(recipe: BaseRecipe, out: Path, device: str, stop_after: int | None) -> None:
    _prepare_tokenizer(recipe, out / "tokenizer")
    (out / RENDEZVOUS).unlink(missing_ok=True)
    os.environ.update(WORKER_ENVIRONMENT)
    context = torch.multiprocessing.get_context("spawn")
    stop, level = context.Event(), log.getEffectiveLevel()
    workers = [
        context.Process(target=_work, args=(rank, recipe, out, device, stop, stop_after, level))
        for rank in range(recipe.workers)
    ]
    for worker in workers:
        worker.start()
    _wait(workers, stop)


def _prepare_tokenizer(recipe: BaseRecipe, folder: Path) -> None:
    if folder.exists():
        return
    messages = (
        text
        for dialogue in islice(training_dialogues(recipe.seed), recipe.tokenizer_dialogues)
        for text in (*dialogue.turns, *dialogue.answers)
    )
    train_tokenizer(messages, recipe.shape.vocab).save_pretrained(folder)


def _wait(workers: Sequence[SpawnProcess], stop: Event) -> None:
    """Wait for the workers; an interrupt stops them after their step, a failed worker ends the others."""
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while any(worker.is_alive() for worker in workers):
            try:
                for worker in workers:
                    worker.join(timeout=0.5)
            except KeyboardInterrupt:
                log.warning("interrupted: writing a checkpoint after this step")
                stop.set()
            if any(worker.exitcode for worker in workers):
                break
    finally:
        signal.signal(signal.SIGTERM, handler)
    if any(worker.exitcode for worker in workers):
        for worker in workers:
            worker.terminate()
        raise RuntimeError("a training worker failed; its own message is above")


def _work(
    rank: int, recipe: BaseRecipe, out: Path, device: str, stop: Event, stop_after: int | None, level: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    end_with_parent()
    logging.basicConfig(level=level, format="%(asctime)s %(message)s")
    if device == "cpu":
        _take_one_core(rank)
    if recipe.workers > 1:
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{(out / RENDEZVOUS).resolve()}",
            rank=rank,
            world_size=recipe.workers,
            timeout=timedelta(minutes=10),
        )
    trainer = Trainer(recipe, out, rank, torch.device(device))
    trainer.run(lambda: stop.is_set() or trainer.step == stop_after)
    if recipe.workers > 1:
        distributed.destroy_process_group()


def _take_one_core(rank: int) -> None:
    """Use one thread, pinned to a core if the system can: two workers on one core would halve the speed."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
