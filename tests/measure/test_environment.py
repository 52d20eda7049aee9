"""Provenance: JSON-able, free of personal data, with a reason for every value that is missing."""

import json
import os
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from bench.measure import environment as provenance
from bench.measure.environment import device_name, environment, is_gpu_shared, other_processes
from bench.measure.nvml import NvmlDevice, nvml_device

CPU = torch.device("cpu")


class NvmlError(Exception):
    """Stands for `pynvml.NVMLError`."""


def fake_library(**functions: object) -> ModuleType:
    library = ModuleType("pynvml")
    vars(library).update({"NVMLError": NvmlError, "NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2} | functions)
    return library


def unsupported(*arguments: object) -> None:
    raise NvmlError("Not Supported")


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with this package committed in it."""
    file = tmp_path / provenance.THIS_FILE
    file.parent.mkdir(parents=True)
    file.write_text("first")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    return tmp_path


def git_facts() -> tuple[dict[str, str | None], dict[str, str]]:
    block = environment(CPU, torch.float32)
    return block["git"], block["missing"]


def test_a_cpu_block_is_json_and_explains_every_gap() -> None:
    block = environment(CPU, torch.bfloat16)
    assert json.loads(json.dumps(block)) == block
    assert block["dtype"] == "bfloat16"
    assert block["started_utc"].endswith("+00:00")
    assert block["versions"]["torch"] == torch.__version__
    assert block["gpu"] is None
    assert block["missing"]["gpu"] == "the device is cpu"
    gaps = {f"versions.{name}" for name, value in block["versions"].items() if value is None}
    assert gaps <= set(block["missing"])


def test_the_device_of_a_cpu_run_names_its_threads() -> None:
    assert device_name(CPU).endswith(f", {torch.get_num_threads()} thread")


def test_the_home_folder_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setattr("sys.argv", ["bench", "model.path=/home/ada/my model"])
    assert environment(CPU, torch.float32)["argv"] == "bench 'model.path=~/my model'"


def test_precision_flags_that_refuse_to_be_read_stop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise RuntimeError("legacy and new settings are mixed, so this one has no value")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", refuse)
    block = environment(CPU, torch.float32)
    assert block["numerics"]["matmul_precision"] is None
    assert block["missing"]["numerics.matmul_precision"] == "legacy and new settings are mixed"


def test_the_file_that_tells_whose_repository_it_is_exists() -> None:
    assert Path(provenance.__file__) == (provenance.ROOT / provenance.THIS_FILE)


def test_a_clean_checkout_has_a_commit_and_no_diff(repository: Path) -> None:
    (repository / "results.jsonl").write_text("records do not count as a change of code")
    facts, _ = git_facts()
    assert len(facts["commit"] or "") == 40
    assert facts["diff"] is None


@pytest.mark.parametrize("name", ["environment.py", "new.py"], ids=["changed file", "new file"])
def test_changed_code_has_a_diff_that_follows_its_content(repository: Path, name: str) -> None:
    file = (repository / provenance.THIS_FILE).with_name(name)
    hashes = []
    for content in ("second", "third", "second"):
        file.write_text(content)
        hashes.append(git_facts()[0]["diff"])
    assert hashes[0] == hashes[2] != hashes[1]
    assert None not in hashes


def test_a_package_inside_another_repository_claims_no_commit_of_it(repository: Path) -> None:
    git(repository, "rm", "-rq", "--cached", "bench")
    facts, missing = git_facts()
    assert facts == {"commit": None, "diff": None}
    assert "did not match" in missing["git"]


def test_a_package_outside_git_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setenv("PATH", "")
    facts, missing = git_facts()
    assert facts["commit"] is None
    assert missing["git"] == "git: FileNotFoundError"


@pytest.mark.parametrize(
    ("processes", "is_on_gpu", "others"),
    [
        (None, True, None),
        ([7], True, 0),
        ([7, 8], True, 1),
        ([8], False, 1),
        ([4711], True, 0),
        ([4711, 4712], True, 1),
        ([], True, 0),
    ],
    ids=[
        "unknown",
        "ours alone",
        "ours and another",
        "another, we have not begun",
        "container: ours under the host's number",
        "container: ours and another",
        "container that shows none",
    ],
)
def test_other_processes_are_counted_inside_containers_too(
    processes: list[int] | None, is_on_gpu: bool, others: int | None
) -> None:
    assert other_processes(processes, own=7, is_on_gpu=is_on_gpu) == others


@pytest.mark.parametrize(
    ("block", "shared"),
    [
        ({"gpu": None}, None),
        ({"gpu": {"other_processes": None}}, None),
        ({"gpu": {"other_processes": 0}}, False),
        ({"gpu": {"other_processes": 2}}, True),
    ],
    ids=["cpu", "unknown", "alone", "shared"],
)
def test_a_gpu_is_shared_when_others_use_it(block: dict[str, object], shared: bool | None) -> None:
    assert is_gpu_shared(block) is shared


def test_nvml_values_that_a_card_withholds_are_none_with_a_reason() -> None:
    library = fake_library(
        nvmlSystemGetDriverVersion=lambda: "570.1",
        nvmlDeviceGetClockInfo=lambda handle, kind: 1000 * kind,
        nvmlDeviceGetTemperature=lambda handle, sensor: 50,
        nvmlDeviceGetPowerUsage=lambda handle: 250_500,
        nvmlDeviceGetEnforcedPowerLimit=unsupported,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 4,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=123),
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [SimpleNamespace(pid=os.getpid())],
        NVML_TEMPERATURE_GPU=0,
    )
    device = NvmlDevice(library, "handle")
    state = device.state()
    assert (device.driver(), state["sm_clock_mhz"], state["power_w"], state["throttle_bits"]) == (
        "570.1",
        1000,
        250.5,
        4,
    )
    assert device.process_ids() == [os.getpid()]
    assert state["power_limit_w"] is None
    assert device.energy_j() is None
    assert device.missing["power_limit_w"] == "NVML: Not Supported"
    assert "nvmlDeviceGetTotalEnergyConsumption" in device.missing["energy"]


def test_a_cpu_has_no_nvml_device() -> None:
    assert nvml_device(CPU) == (None, "the device is cpu")


def test_a_gpu_without_the_library_says_which_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert nvml_device(torch.device("cuda")) == (None, "nvidia-ml-py is not installed (extra 'gpu')")


def test_a_gpu_is_found_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    library = fake_library(nvmlInit=lambda: None, nvmlDeviceGetHandleByUUID=lambda uuid: uuid)
    library.__dict__["nvmlDeviceGetTotalEnergyConsumption"] = {"GPU-abc": 5000}.__getitem__
    monkeypatch.setitem(__import__("sys").modules, "pynvml", library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
    device, reason = nvml_device(torch.device("cuda"))
    assert reason is None
    assert device is not None
    assert device.energy_j() == 5.0
