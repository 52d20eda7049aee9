"""``.ci/chain_attention.py`` on a pretended GPU: both ways side by side, or one with the reason."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.measure.probes import Turns
from bench.runtime import loading
from bench.runtime.tiers.graph.decoder import GraphDecoder
from tests.harness import ROOT
from tests.runtime.pretended_cuda import flash
from tests.runtime.pretended_cuda.device import PretendedCuda
from tests.runtime.pretended_cuda.flash import Rule
from tests.runtime.pretended_cuda.models import decoder_on
from tests.runtime.pretended_cuda.recorder import PretendedRecorder
from tests.runtime.pretended_cuda.tensors import CUDA

pytestmark = pytest.mark.usefixtures("torch_products")
CONTEXTS = (20, 120)


def table(rule: Rule, file: Path, patch: pytest.MonkeyPatch) -> list[str]:
    spec = importlib.util.spec_from_file_location("chain_attention_script", ROOT / ".ci/chain_attention.py")
    assert spec is not None
    assert spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with PretendedCuda(rule) as device:
        patch.setattr(loading, "CudaRecorder", lambda _: PretendedRecorder(device))
        decoder = decoder_on(3, CUDA, "graph", dtype=torch.bfloat16)
        assert isinstance(decoder, GraphDecoder)
        script.write_table(decoder, PretendedRecorder(device), file, CONTEXTS, Turns(1, 0.1))
    return file.read_text().splitlines()


def test_both_ways_are_timed_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, _, _, _, *lines = table(flash.documented, tmp_path / "table.md", monkeypatch)
    assert text == "Both ways agree on this device."
    assert [tuple(map(int, line.split("|")[1:3])) for line in lines] == [
        (context, rows) for context in CONTEXTS for rows in (1, 4, 8, 16)
    ]
    assert all(re.fullmatch(r"\| \d+ \| \d+ \| \d+\.\d+ \| \d+\.\d+ \| \d+\.\d+ \|", line) for line in lines)


def test_a_wrong_kernel_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, _, _, _, *lines = table(flash.top_left, tmp_path / "table.md", monkeypatch)
    assert text.startswith("runtime.attention=lengths is not possible: the Flash kernel is off by ")
    assert all(line.endswith("| - | - |") for line in lines)
