"""What all tests share: one quiet thread, the shared data where it exists, a clean Hydra."""

import gc
import logging
import os

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # before torch: spinning threads starve each other on few cores

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

# torch and transformers are imported where they are needed: pytest-xdist loads this file, too, in the process
# that only hands the tests out

ROOT = Path(__file__).resolve().parents[1]


LONG = (
    "methods/core/test_exactness.py",
    "docs/",
    "methods/test_every_run.py",
    "test_cli.py",
    "methods/test_pretended_cuda.py",
    "runtime/test_decoder_oracle.py",
    "faults/",
    "prove/",
    "train/",
    "report/",
)
"""Files whose tests take longest, the longest first; the others fill what is left of the time."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep the order of files: pytest-xdist would hand out those with many tests first, however short."""
    config.option.loadscopereorder = False
    gc.disable()  # importing modules makes objects and no garbage; see `pytest_collection_finish`


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that several workers end together."""
    tests = ROOT / "tests"

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(tests).as_posix()
        return next((place for place, start in enumerate(LONG) if name.startswith(start)), len(LONG))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``--dist loadfile``, files that share what takes long to make go to one worker.

    A fork server takes 5 s to start; tests in ``compose`` compose the same commands.
    """
    from xdist.scheduler import LoadFileScheduling

    forking = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if any(module in path.read_text(encoding="utf-8") for module in ("tests.forks", "tests.faults"))
    }

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            if file in forking:
                return "files that fork"
            return "tests/compose" if file.startswith("tests/compose/") else file

    return Scheduling(config, log) if config.option.dist == "loadfile" else None


def pytest_collection_finish() -> None:
    """From here on the garbage collector leaves out what was imported, and searches far less often."""
    gc.freeze()
    gc.set_threshold(20_000)  # what is imported later is searched each time, which took 3 % of the suite
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums of a tiny model do not gain from threads, and one thread adds in one order."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def quick_composition() -> Iterator[None]:
    """Tests compose hundreds of commands; see `tests.harness.hydra_repeats_nothing`."""
    from tests.harness import hydra_repeats_nothing

    with hydra_repeats_nothing():
        yield


@pytest.fixture(autouse=True)
def clean_hydra() -> Iterator[None]:
    """Hydra keeps its state in a singleton, and log files open; no test inherits another's."""
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()
    for handler in [*logging.getLogger().handlers]:
        if isinstance(handler, logging.FileHandler):
            handler.close()
            logging.getLogger().removeHandler(handler)


@pytest.fixture
def torch_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Projections made here multiply by torch, as on a GPU or where nothing can be compiled."""
    monkeypatch.setattr("bench.runtime.linear._is_compiled", lambda device, dtype: False)


@pytest.fixture
def results_dir(tmp_path: Path) -> Path:
    """A folder for records, gone after the test."""
    return tmp_path / "results"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small random model."""
    from tests.harness import save_random_model

    return save_random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A file of two conversations, one of two turns and one of a single turn."""
    from tests.harness import save_prompts

    return save_prompts(
        tmp_path / "prompts.jsonl", ["Tell me a story.", "And another?"], ["What is the capital?"]
    )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real question files beside the checkout; tests that want them skip where they are absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder
