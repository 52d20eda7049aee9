"""Every model by name composes, says what it must, and a device that is too small is told at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

import bench.runtime.modules
from bench import PACKAGE_PREFIX
from bench.compose.mistakes import unknown_key
from bench.compose.schema import DTYPES, ModelConfig, RuntimeConfig
from bench.compose.workbench import options_for
from bench.convert.cli import ConvertConfig
from bench.errors import UserError
from bench.runtime.loading import load_decoder
from bench.runtime.modules import require_room
from bench.runtime.package_index import PREFIX as FETCH_PREFIX
from tests.harness import save_random_model
from tests.runtime.models import options

CONF = Path(__file__).resolve().parents[2] / "conf"
FILES = sorted((CONF / "model").glob("*.yaml"))
PUBLISHED = [file for file in FILES if "\nrevision:" in file.read_text()]
"""Models of the Hub; the others are shipped or a user's own."""
ASKED_FOR = {
    "vicuna": ["7b", "13b", "33b"],
    "llama2": ["7b", "13b", "70b", "7b_chat", "13b_chat", "70b_chat"],
    "llama3": ["8b", "8b_instruct"],
    "llama3.1": ["8b", "8b_instruct"],
    "llama3.2": ["1b", "1b_instruct"],
    "layerskip_llama2": ["7b", "13b", "70b"],
    "layerskip_codellama": ["7b", "34b"],
    "layerskip_llama3": ["8b"],
    "layerskip_llama3.2": ["1b"],
    "codellama": ["7b", "13b", "34b"],
    "qwen2.5": ["7b"],
    "qwen3": ["0.6b", "8b"],
    "mistral": ["7b_instruct"],
    "mixtral": ["8x7b_instruct"],
    "phi3": ["mini"],
    "gemma": ["2b_it", "7b_it"],
    "gemma3": ["270m_it", "1b_it"],
    "smollm3": ["3b"],
    "granite3.3": ["2b_instruct", "8b_instruct"],
    "olmo2": ["1b_instruct", "7b_instruct"],
    "tinyllama": ["1.1b_chat"],
    "smollm2": ["135m", "360m", "1.7b"],
}


def model(name: str) -> ModelConfig:
    """The model as any command of the benchmark composes it; the smallest of them, since there are many."""
    ConfigStore.instance().store(name="convert_schema", node=ConvertConfig)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed: ModelConfig = OmegaConf.to_object(compose("convert", [f"model={name}"]).model)
    return composed


@pytest.mark.parametrize("name", [file.stem for file in PUBLISHED])
def test_every_published_model_composes_and_says_what_it_must(name: str) -> None:
    composed = model(name)
    assert composed.name == name, "claims of papers and tables name models as their files do"
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", composed.path)
    assert composed.revision
    assert composed.dtype in (None, *DTYPES)
    assert composed.context is not None
    assert composed.stop_ids
    assert composed.modules is None


def test_the_list_is_complete() -> None:
    names = {f"{family}_{size}" for family, sizes in ASKED_FOR.items() for size in sizes}
    assert names <= {file.stem for file in PUBLISHED}


def test_base_models_are_not_given_a_chat_template() -> None:
    for file in PUBLISHED:
        node = OmegaConf.load(file)
        says_base = "base model" in file.read_text()
        assert says_base == (node.get("template") == "raw"), file.name


def test_models_that_are_gated_say_so() -> None:
    gated = [file.stem for file in PUBLISHED if file.read_text().count("Gated:")]
    assert {name.split("_")[0] for name in gated} == {
        "gemma",
        "gemma3",
        "layerskip",
        "llama2",
        "llama3",
        "llama3.1",
        "llama3.2",
    }


def test_what_is_not_on_the_hub_is_shipped_fetched_or_ones_own() -> None:
    for file in set(FILES) - set(PUBLISHED):
        is_own = file.stem in ("local", "auto")
        assert is_own or str(OmegaConf.load(file).path).startswith((PACKAGE_PREFIX, FETCH_PREFIX))


class TestPrecision:
    @pytest.mark.parametrize(
        ("device", "asked", "published", "given"),
        [
            ("cuda", None, "float16", torch.float16),
            ("cuda", None, None, torch.bfloat16),
            ("cuda", "float32", "float16", torch.float32),
            ("cpu", None, "float16", torch.float32),
            ("cpu", "bfloat16", "float16", torch.bfloat16),
        ],
        ids=["the published one", "none published", "as asked", "cpu", "cpu, as asked"],
    )
    def test_what_the_weights_are_run_in(
        self,
        monkeypatch: pytest.MonkeyPatch,
        device: str,
        asked: str | None,
        published: str | None,
        given: torch.dtype,
    ) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        runtime = RuntimeConfig(device=device, dtype=asked)
        assert options_for(runtime, ModelConfig(path="x", dtype=published)).dtype == given

    @pytest.mark.parametrize(("key", "value"), [("dtype", "int4"), ("stop_ids", [-1])])
    def test_values_out_of_range_are_refused(self, key: str, value: object) -> None:
        with pytest.raises(UserError, match=f"model.{key} must be"):
            ModelConfig(path="x", **{key: value})


class TestRoom:
    def test_weights_that_do_not_fit_are_refused_before_they_are_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = save_random_model(tmp_path)
        monkeypatch.setattr(bench.runtime.modules, "memory_bytes", lambda device: 100_000)
        with pytest.raises(
            UserError, match=r"the weights need 0\.0 GiB in float32, and this machine has"
        ) as caught:
            load_decoder(folder, options())
        assert "runtime.devices=2" in caught.value.fix

    def test_half_the_precision_needs_half_the_room(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = [save_random_model(tmp_path) / "model.safetensors"]
        size = files[0].stat().st_size  # a little above four bytes a weight
        monkeypatch.setattr(bench.runtime.modules, "memory_bytes", lambda device: size * 3 // 4)
        require_room(files, torch.device("cuda"), torch.bfloat16)
        with pytest.raises(UserError):
            require_room(files, torch.device("cuda"), torch.float32)


def test_the_key_of_another_tool_names_the_one_here() -> None:
    what, fix = unknown_key("model.device_map", ["model.path", "model.dtype"])
    assert what == "model.device_map does not exist"
    assert "runtime.devices=2" in fix
