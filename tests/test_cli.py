"""The command line as a person meets it: a process, its two streams and its exit status.

The runner is replaced by a stand-in, so these tests are about the command line alone. What needs no process
of its own runs in this one: a start takes most of a second.
"""

import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from bench.cli import main
from tests.command import Done, mistake_lines, run_command

ROOT = Path(__file__).resolve().parents[1]
FIRST_LINE = (
    "kangaroo on mt_bench, model tiny: records are read, torch and model loaded; "
    "warm-up and measuring come next\n"
)

RUNNER = '''
"""Stand-in for bench.measure.runner and finished: what it does is spelt in the seed."""
import os, signal, sys, time, types
from pathlib import Path
from types import SimpleNamespace
from bench.errors import UserError

ROW = ["kangaroo", "mt_bench", "tiny", "2.00x [1.90, 2.10]", "3.00", "exact 4 of 4", "none"]
DONE, PARTLY, BROKEN, REFUSED, UNKNOWN_KEY, FOREVER, KILLED, PROCESS, CRASHED, PREEMPTED = range(10)

def execute(settings, session=None, task=None):
    if settings.seed == BROKEN:
        raise RuntimeError("the machine is on fire")
    if settings.seed == REFUSED:
        raise UserError("the adapter is for another model", "train one for this model")
    if settings.seed == UNKNOWN_KEY:
        settings.method.build()
    if settings.seed == FOREVER:
        print("started", flush=True)
        time.sleep(60)
    if settings.seed == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if settings.seed == CRASHED:
        os.abort()
    if settings.seed == PROCESS:
        print("process", os.getpid(), "sees", os.environ.get("CUDA_VISIBLE_DEVICES"))
    if settings.seed == PREEMPTED and not Path("preempted").exists():
        Path("preempted").write_text("")
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(60)
    return SimpleNamespace(table=f"table of {settings.method.name}", run_dir=Path("results/runs/x"),
                           failures=int(settings.seed == PARTLY), rows=[ROW] * (settings.seed != CRASHED))

def finished(settings, task=None):
    return None

def plan(settings):
    return SimpleNamespace(text=f"{settings.method.name}-{settings.task.name}: not started", seconds=1800.0)
'''

SITE = """
import importlib.abc, importlib.util, sys

class StandIn(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("bench.measure.finished", "bench.measure.runner", "bench.plan.planning"):
            return importlib.util.spec_from_file_location(name, __file__.replace("sitecustomize", "stand_in"))
        if name in ("torch", "transformers"):
            raise AssertionError(f"{name} was imported by the command line itself")

sys.meta_path.insert(0, StandIn())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory whose `site` folder replaces runner and plan by the stand-in, and forbids torch."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    (tmp_path / "site" / "stand_in.py").write_text(RUNNER, encoding="utf-8")
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    ours = [str(folder / "site"), str(folder), str(ROOT)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*ours, *filter(None, inherited)])}


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """The command line in this process and that folder, with the same stand-in."""
    for name in ("bench.measure.finished", "bench.measure.runner", "bench.plan.planning"):
        stand_in = ModuleType(name)
        exec(RUNNER, vars(stand_in))
        monkeypatch.setitem(sys.modules, name, stand_in)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # `run_composed` sets it; put back after the test
    return lambda *arguments: run_command(main, *with_model(arguments))


def with_model(arguments: tuple[str, ...]) -> list[str]:
    """The arguments with ``model=tiny``, beside the other keys: Hydra takes no flag between them."""
    names_model = any(argument.startswith("model=") for argument in arguments)
    flags = next((place for place, argument in enumerate(arguments) if "=" in argument), len(arguments))
    return [*arguments[:flags], *([] if names_model else ["model=tiny"]), *arguments[flags:]]


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *with_model(arguments)],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def assert_mistake(done: subprocess.CompletedProcess[str] | Done, what: str, fix: str) -> None:
    """Two lines on stderr after what a run says first, nothing on stdout, status 2."""
    lines = [line for line in mistake_lines(done.stderr) if not line.endswith("measuring come next")]
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 2), done.stderr
    assert lines[0].startswith("error: ")
    assert what in lines[0]
    assert lines[1].startswith("fix: ")
    assert fix in lines[1]


def test_a_run_prints_its_table_and_last_its_folder(folder: Path) -> None:
    done = bench(folder, "method=kangaroo", "task=mt_bench")
    assert (done.returncode, done.stdout) == (0, "table of kangaroo\nresults/runs/x\n")
    assert done.stderr == FIRST_LINE


def test_logs_of_the_command_line_lie_in_the_results_folder(folder: Path, here: Callable[..., Done]) -> None:
    here("results_dir=elsewhere")
    assert list(folder.glob("elsewhere/hydra/*/*/bench.log"))
    assert not (folder / "outputs").exists()


def test_help_lists_the_groups_with_their_options(here: Callable[..., Done]) -> None:
    done = here("--help")
    assert done.returncode == 0
    said = " ".join(done.stdout.split())
    for line in (r"method: autoregressive, .*kangaroo", r"model: .*tiny", r"launch: isolated, local, slurm"):
        assert re.search(f" {line}", said), done.stdout


def test_cfg_shows_what_would_run(here: Callable[..., Done]) -> None:
    done = here("method=kangaroo", "--cfg", "job", "--resolve")
    assert done.returncode == 0
    assert "weights: package:bench/assets/tiny/modules/kangaroo" in done.stdout


def test_plan_lists_the_run_without_running_it(here: Callable[..., Done]) -> None:
    done = here("bench.plan=true", "seed=2")
    assert (done.returncode, done.stdout) == (0, "kangaroo-mt_bench: not started\n")


def test_a_sweeps_plan_ends_with_the_time_of_all_runs(here: Callable[..., Done]) -> None:
    done = here("-m", "bench.plan=true", "method=kangaroo,layerskip", "launch=isolated")
    assert done.stdout.splitlines() == [
        "kangaroo-mt_bench: not started",
        "layerskip-mt_bench: not started",
        "2 runs, estimated 1.0 h in all",
    ]


@pytest.mark.parametrize(
    ("arguments", "what", "fix"),
    [
        (
            ["method=kangaro"],
            "unknown method 'kangaro'",
            "did you mean method=kangaroo? options: autoregressive",
        ),
        (["method.treshold=0.5"], "unknown key method.treshold", "did you mean method.threshold?"),
        (["max_new_token=5"], "unknown key max_new_token", "did you mean max_new_tokens?"),
        (["seed=abc"], "seed: Value 'abc'", "change seed"),
        (
            ["runtime.device=gpu"],
            "runtime.device must be one of auto, cpu, cuda, got 'gpu'",
            "runtime.device=auto",
        ),
        (["model=local"], "model.path must be given", "add model.path=..."),
        (["kangaroo"], "cannot read the argument 'kangaroo'", "write KEY=VALUE"),
        (["method=kangaroo,layerskip"], "Ambiguous value for argument 'method=kangaroo,layerskip'", "add -m"),
        (["--config-dir", "nowhere"], "nowhere' not found", "--help"),
        (["seed=3"], "the adapter is for another model", "train one for this model"),
        (["method=null"], "Config group override must be a string or a list", "--help"),
        (["-m", "method=kangaroo,nope"], "unknown method 'nope'", "options: autoregressive"),
    ],
    ids=[
        "unknown option",
        "misspelt parameter",
        "misspelt top-level key",
        "wrong type",
        "value out of range",
        "missing value",
        "no KEY=VALUE",
        "a sweep without -m",
        "missing folder",
        "refused by the runner",
        "no option",
        "unknown option in a sweep, before anything runs",
    ],
)
def test_a_mistake_costs_two_lines_and_status_2(
    here: Callable[..., Done], arguments: list[str], what: str, fix: str
) -> None:
    assert_mistake(here(*arguments), what, fix)


def out_of_tree(folder: Path, yaml: str) -> None:
    """A method in somebody's own package and config folder."""
    (folder / "mine.py").write_text("class Mine:\n    def __init__(self, length=3): ...\n", encoding="utf-8")
    (folder / "conf" / "method").mkdir(parents=True)
    (folder / "conf" / "method" / "mine.yaml").write_text(yaml, encoding="utf-8")


def test_a_method_may_live_out_of_tree(folder: Path, here: Callable[..., Done]) -> None:
    out_of_tree(folder, "_target_: mine.Mine\nlength: 3\n")
    done = here("--config-dir", "conf", "method=mine", "seed=4")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "table of mine"), done.stderr


def test_a_key_that_the_constructor_does_not_know_is_a_mistake(
    folder: Path, here: Callable[..., Done]
) -> None:
    out_of_tree(folder, "_target_: mine.Mine\nlenght: 3\n")
    done = here("--config-dir", "conf", "method=mine", "seed=4")
    assert_mistake(done, "unknown key method.lenght", "did you mean method.length?")


def test_failed_samples_end_with_status_1_behind_the_table(here: Callable[..., Done]) -> None:
    done = here("seed=1")
    assert (done.returncode, done.stdout) == (1, "table of kangaroo\nresults/runs/x\n")


def test_a_fault_of_ours_shows_its_traceback_and_status_1(here: Callable[..., Done]) -> None:
    done = here("seed=2")
    assert done.returncode == 1
    assert "RuntimeError: the machine is on fire" in done.stderr
    assert "HYDRA_FULL_ERROR" not in done.stderr


@pytest.mark.parametrize(
    ("seeds", "status"),
    [("0,0", 0), ("2,0", 1), ("3,0", 2)],
    ids=["all well", "one broke", "one was refused"],
)
def test_a_failing_run_of_a_sweep_does_not_stop_the_others(
    here: Callable[..., Done], seeds: str, status: int
) -> None:
    done = here("-m", f"seed={seeds}")
    assert "table of kangaroo" in done.stdout  # of the second
    *_, row, report = done.stdout.splitlines()
    shown = row if status == 0 else done.stdout.splitlines()[-3]
    assert shown.split()[:3] == ["kangaroo", "mt_bench", "tiny"]
    assert row.startswith("failed: ") == (status != 0)
    assert report == "the report of all runs: python -m bench.report results"
    assert done.returncode == status
    assert ("1 of 2 runs failed" in done.stderr) == (status != 0)


def heed_interrupts() -> None:
    """A shell's background job, and so everything below it, is born deaf to SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupt_says_that_the_same_command_resumes(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "bench", "model=tiny", "seed=5"],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    said = "interrupted: everything measured so far is kept, and the same command resumes"
    assert stderr.splitlines()[-1] == said


def test_the_entry_point_keeps_idle_threads_from_spinning(folder: Path) -> None:
    code = "import os, runpy; runpy.run_module('bench.__main__'); print(os.environ['OMP_WAIT_POLICY'])"
    clean = {key: value for key, value in environment(folder).items() if key != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout == "PASSIVE\n"


def test_isolated_runs_fail_one_by_one_each_in_its_own_process_that_sees_the_gpus_of_the_parent(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    done = bench(folder, "-m", "launch=isolated", "seed=7,7,2,6,8,0")
    assert done.returncode == 1
    assert "3 of 6 runs failed" in done.stderr
    assert "the run was killed by SIGKILL; what it measured is kept" in done.stderr
    last = done.stdout[done.stdout.rindex("process") :].split("results/runs/x\n", 1)[1]
    assert last.startswith("table of kangaroo\nresults/runs/x\n\n")  # the last one, after a crash
    seen = process_lines(done)
    assert len({line[1] for line in seen}) == 2
    assert [line[3] for line in seen] == ["3", "3"]


def process_lines(done: subprocess.CompletedProcess[str] | Done) -> list[list[str]]:
    """What runs said of their process, in words."""
    return [line.split() for line in done.stdout.splitlines() if line.startswith("process")]


def test_runs_that_are_not_isolated_share_their_process(here: Callable[..., Done]) -> None:
    seen = process_lines(here("-m", "launch=local", "seed=7,7"))
    assert [line[1] for line in seen] == [str(os.getpid())] * 2


def test_a_single_run_may_be_isolated_and_ends_with_its_status(folder: Path) -> None:
    done = bench(folder, "launch=isolated", "seed=3")
    assert_mistake(done, "the adapter is for another model", "train one for this model")


def isolated_run(folder: Path, prepare: Callable[[], None]) -> subprocess.Popen[str]:
    """An isolated sweep whose first run has begun and goes on for a minute."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", "-m", "model=tiny", "launch=isolated", "seed=5,0"],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.parametrize(
    ("number", "prepare", "status"),
    [(signal.SIGINT, heed_interrupts, 130), (signal.SIGTERM, ignore_interrupts, 143)],
    ids=["Ctrl-C", "SIGTERM to a sweep in the background, deaf to interrupts"],
)
def test_ending_an_isolated_sweep_ends_its_run(
    folder: Path, number: signal.Signals, prepare: Callable[[], None], status: int
) -> None:
    with isolated_run(folder, prepare) as process:
        process.send_signal(number)  # to the parent alone
        stdout, stderr = process.communicate(timeout=30)  # the child holds the pipe until it ends
    assert (process.returncode, stdout) == (status, "")
    assert ("interrupted: everything measured so far is kept" in stderr) == (status == 130)


def test_a_killed_isolated_sweep_leaves_no_run_behind_that_measures_beside_the_next(folder: Path) -> None:
    with isolated_run(folder, heed_interrupts) as process:
        process.kill()
        process.communicate(timeout=30)  # ends with the last process that holds the pipes


def test_a_results_folder_that_takes_no_files_is_a_mistake(folder: Path, here: Callable[..., Done]) -> None:
    (folder / "file").write_text("")
    done = here("results_dir=file/results")
    assert_mistake(done, "cannot be written: Not a directory", "set results_dir")


class Stream(io.StringIO):
    """Standard output that refuses what it is given."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        raise self._error


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [(BrokenPipeError(), 141, 1), (OSError(28, "No space left on device"), 2, 3)],
    ids=["| head", "/dev/full"],
)
def test_a_result_that_cannot_be_printed_is_no_traceback(
    error: OSError,
    status: int,
    lines: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = SimpleNamespace(table="table", run_dir=tmp_path, failures=0)
    monkeypatch.setattr("bench.measure.runner.execute", lambda settings, session, task: outcome)
    arguments = ["bench", "model=tiny", "method=layerskip", "task=mt_bench", f"hydra.run.dir={tmp_path}"]
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.setattr("sys.stdout", Stream(error))
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err.splitlines()
    assert (stopped.value.code, len(said)) == (status, lines), said


def test_a_working_directory_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> Path:
        raise FileNotFoundError

    monkeypatch.setattr("bench.cli.Path.cwd", gone)
    assert_mistake(run_command(main, "method=layerskip"), "the working directory was deleted", "cd ~")


needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="extra 'launch' is not installed"
)


@pytest.fixture
def slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the stub cluster on PATH; the file that it notes the state of its tasks in."""
    state = folder / "slurm_state"
    monkeypatch.setenv("PATH", f"{ROOT / 'tests' / 'slurm_stub'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM_STATE", str(state))
    return state


def logs_of_tasks(folder: Path, stream: str) -> str:
    return "".join(path.read_text() for path in folder.rglob(f"*_log.{stream}"))


def assert_requeued(folder: Path, reason: str) -> None:
    logs = logs_of_tasks(folder, "err")
    assert f"this job is {reason}" in logs
    assert "Requeued job" in logs
    assert "table of kangaroo" in logs_of_tasks(folder, "out")


@needs_submitit
def test_a_sweep_on_slurm_is_one_array_and_a_preempted_task_of_it_runs_again(
    folder: Path, slurm: Path
) -> None:
    done = bench(folder, "-m", "launch=slurm", "seed=9,3")
    assert done.returncode == 2
    assert "_0|COMPLETED" in slurm.read_text()  # the stub notes a task once it is over, before the next
    assert "1 of 2 runs failed" in done.stderr
    assert_requeued(folder, "preempted")


@needs_submitit
def test_a_task_out_of_time_is_requeued_and_runs_again(folder: Path, slurm: Path) -> None:
    done = bench(folder, "-m", "launch=slurm", "hydra.launcher.timeout_min=1", "seed=9")
    assert done.returncode == 0, done.stderr
    assert_requeued(folder, "timed-out")


@pytest.mark.slow  # submitit waits a while for the result of a task that the cluster calls failed
@needs_submitit
def test_a_task_that_dies_is_told_in_two_lines(folder: Path, slurm: Path) -> None:
    done = bench(folder, "-m", "launch=slurm", "seed=6")
    lost, advice = done.stderr.splitlines()[-2:]
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert lost.startswith("a run was lost: Job ")
    assert advice.endswith("everything measured so far is kept, and the same command resumes")
