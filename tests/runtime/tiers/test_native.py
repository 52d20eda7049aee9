"""Compiled products and passes: the same bits for a row whatever is beside it; a message without a compiler.

Shapes: R rows, I inputs, O outputs.
"""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from bench.compose import workbench
from bench.compose.schema import RuntimeConfig
from bench.errors import UserError
from bench.runtime import tier_choice
from bench.runtime.decoder import Decoder, Skip
from bench.runtime.delta import Projection
from bench.runtime.linear import Linear
from bench.runtime.loading import RuntimeOptions, build_decoder
from bench.runtime.tier_choice import choose_tier
from bench.runtime.tiers.compiled import library as build
from bench.runtime.tiers.compiled.decoder import CompiledDecoder
from bench.runtime.tiers.compiled.library import Missing, library
from methods.core.trees import Tree
from methods.m2r2.accelerated import FrozenLowRank
from methods.m2r2.module import LowRank
from tests.runtime.models import CONFIGS, CONTEXT, CPU, needs_compiler, options, tiny_model, tokens

TREE = Tree.of_paths([(0,), (1,), (0, 0), (0, 1), (0, 0, 0)])
WINDOWED = [name for name, config in CONFIGS.items() if getattr(config, "sliding_window", None)]


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def pair(name: str) -> tuple[Decoder, Decoder]:
    """A tiny random model, operation by operation and compiled."""
    made = tiny_model(CONFIGS[name])
    made.config.architectures = [type(made).__name__]
    state = {key: value.clone() for key, value in made.state_dict().items()}
    static = build_decoder(made.config, dict(state), options())
    compiled = build_decoder(made.config, dict(state), options(tier="compiled"))
    return static, compiled


def ids(count: int, seed: int = 1) -> Tensor:
    return torch.tensor(tokens(count, seed))


class Counting:
    """Implements `bench.runtime.delta.Delta`: adds nothing and notes where."""

    seen: ClassVar[list[str]] = []

    def add(self, layer: int, projection: Projection, inputs: Tensor, outputs: Tensor) -> None:
        self.seen.append(projection)


@needs_compiler
class TestProducts:
    @pytest.mark.parametrize(("outputs", "inputs"), [(24, 5), (64, 33), (61, 20), (1, 8), (1024, 512)])
    def test_a_row_has_the_same_bits_whatever_is_beside_it(self, outputs: int, inputs: int) -> None:
        linear, x = Linear(torch.randn(outputs, inputs), torch.randn(outputs)), torch.randn(40, inputs)
        alone = torch.cat([linear(row[None]) for row in x])
        for rows in range(1, 41):
            assert torch.equal(linear(x[:rows]), alone[:rows])

    def test_bits_do_not_depend_on_the_threads(self, threads: Callable[[int], None]) -> None:
        linear, x = Linear(torch.randn(1024, 512)), torch.randn(5, 512)
        results = []
        for count in (1, 2, 3):
            threads(count)
            results.append(linear(x))
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])

    def test_rows_may_lie_apart_in_memory(self) -> None:
        linear, wide = Linear(torch.randn(16, 12)), torch.randn(12, 30)
        torch.testing.assert_close(linear(wide.T[::3]), wide.T[::3] @ linear.weight.T)
        torch.testing.assert_close(linear(wide[:, 4:16]), wide[:, 4:16] @ linear.weight.T)


@needs_compiler
class TestPasses:
    @pytest.mark.parametrize("name", [name for name in CONFIGS if name not in WINDOWED])
    def test_a_verified_chain_has_the_bits_of_decoding_it_token_by_token(self, name: str) -> None:
        _, decoder = pair(name)
        prompt, chain = ids(20), ids(9, seed=2)
        decoder.prefill(prompt)
        alone = [decoder.step(chain[place : place + 1], 20 + place) for place in range(9)]
        decoder.cache.truncate(20)
        assert torch.equal(decoder.step(chain, 20), torch.cat(alone))
        assert torch.equal(decoder.prefill(torch.cat([prompt, chain])), alone[-1])

    def test_bits_do_not_depend_on_the_threads(self, threads: Callable[[int], None]) -> None:
        _, decoder = pair("llama-mha")
        results = []
        for count in (1, 2, 3):
            threads(count)
            decoder.prefill(ids(30))
            results.append(decoder.step(ids(9, seed=2), 30))
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])

    @pytest.mark.parametrize("name", CONFIGS)
    def test_whatever_a_method_may_ask_is_what_the_static_tier_gives(self, name: str) -> None:
        seen = [self._every_kind_of_pass(decoder) for decoder in pair(name)]
        for static, compiled in zip(*seen, strict=True):
            torch.testing.assert_close(compiled, static, atol=2e-5, rtol=1e-4)

    @staticmethod
    def _every_kind_of_pass(decoder: Decoder) -> list[Tensor]:
        """Trees, rows that only read, ranges, skipped sub-layers and taps."""
        results = [decoder.prefill(ids(14))]
        place = decoder.placement.tree(14, TREE.offsets, TREE.sees)
        results.append(decoder.head(decoder.run_layers(decoder.embed(ids(TREE.size)), place)))
        decoder.cache.keep(14, torch.tensor([0, 1, 3]))
        two = decoder.embed(ids(1, seed=3)).repeat(2, 1)
        results.append(decoder.run_layers(two, decoder.placement.beside(17)))
        taps: dict[int, Tensor] = dict.fromkeys((0, 1, 3), torch.empty(0))
        skip = Skip(frozenset({1}), frozenset({0, 2}))
        rows = decoder.placement.chain(18, 3)
        decoder.cache.lengths[1] = 21  # as if an earlier pass had written what this pass skips
        shallow = decoder.run_layers(decoder.embed(ids(3, seed=4)), rows, 0, 1, skip=skip, taps=taps)
        results.append(decoder.run_layers(shallow, rows, 1, 3, skip=skip, taps=taps))
        return [*results, *taps.values(), decoder.run_layers(shallow, decoder.placement.chain(0, 3), 2, 2)]

    def test_a_gap_in_the_cache_is_refused_and_nothing_is_written(self) -> None:
        _, decoder = pair("llama-mha")
        decoder.prefill(ids(5))
        with pytest.raises(RuntimeError, match="cannot write slots 7"):
            decoder.step(ids(1), 7)
        with pytest.raises(UserError, match="the cache holds"):
            decoder.step(ids(2), CONTEXT - 1)
        assert decoder.cache.length == 5

    def test_a_companion_is_compiled_too_and_has_a_cache_of_its_own(self) -> None:
        static, decoder = pair("llama-gqa-llama3-rope")
        drafter = decoder.companion(decoder.layers[:1], decoder.final_norm)
        assert drafter.tier == "compiled"
        logits = drafter.prefill(ids(6))
        expected = static.companion(static.layers[:1], static.final_norm).prefill(ids(6))
        torch.testing.assert_close(logits, expected)
        assert (drafter.cache.length, decoder.cache.length) == (6, 0)

    def test_a_delta_of_another_kind_runs_operation_by_operation(self) -> None:
        _, decoder = pair("llama-mha")
        expected = decoder.prefill(ids(6))
        decoder.cache.truncate(0)
        rows = decoder.run_layers(decoder.embed(ids(6)), decoder.placement.chain(0, 6), delta=Counting())
        torch.testing.assert_close(decoder.head(rows[-1:]), expected)
        assert Counting.seen == ["qkv", "o", "gate_up", "down"] * decoder.depth

    @pytest.mark.parametrize("first", [0, 1, 2])
    @pytest.mark.parametrize("name", ["llama-all-biases", "gemma-mqa-untied"])
    def test_a_delta_of_low_rank_is_part_of_the_call(self, name: str, first: int) -> None:
        static, compiled = pair(name)
        shapes = LowRank(static, range(static.depth), ["q", "up", "down", "o"], rank=3).state_dict()
        generator = torch.Generator().manual_seed(first)
        delta = FrozenLowRank(
            {key: torch.randn(value.shape, generator=generator) / 5 for key, value in shapes.items()}, first
        )
        results = []
        for decoder in (static, compiled):
            decoder.prefill(ids(6))
            place = decoder.placement.chain(6, 4)
            results.append(decoder.run_layers(decoder.embed(ids(4, seed=2)), place, delta=delta))
        torch.testing.assert_close(results[1], results[0], atol=2e-5, rtol=1e-4)
        plain = compiled.run_layers(compiled.embed(ids(4, seed=2)), compiled.placement.chain(6, 4))
        assert [bool((row != unchanged).any()) for row, unchanged in zip(results[1], plain, strict=True)][
            first:
        ] == [True] * (4 - first)

    def test_the_hidden_rows_given_are_not_changed(self) -> None:
        _, decoder = pair("llama-mha")
        hidden = decoder.embed(ids(4))
        before = hidden.clone()
        decoder.run_layers(hidden, decoder.placement.chain(0, 4))
        assert torch.equal(hidden, before)


class TestChoice:
    def test_other_precisions_are_decoded_operation_by_operation(self) -> None:
        assert choose_tier("auto", CPU, torch.bfloat16) == "static"
        with pytest.raises(UserError, match="float32 on a CPU"):
            choose_tier("compiled", CPU, torch.bfloat16)
        with pytest.raises(UserError, match="float32 on a CPU"):
            choose_tier("compiled", torch.device("cuda"))

    def test_without_a_compiler_auto_is_static_and_compiled_a_mistake(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tier_choice, "library", lambda: Missing("no C compiler found"))
        assert choose_tier("auto", CPU) == "static"
        with pytest.raises(UserError) as caught:
            choose_tier("compiled", CPU)
        assert caught.value.what == "runtime.tier=compiled is not possible: no C compiler found"
        assert caught.value.fix == "install gcc or clang with OpenMP, or use runtime.tier=static"

    def test_a_run_that_could_be_faster_with_a_compiler_says_so(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(tier_choice, "library", lambda: Missing("no C compiler found"))
        assert workbench.options_for(RuntimeConfig(device="cpu")).tier == "static"
        assert "operation by operation, several times slower: no C compiler found" in caplog.text
        caplog.clear()
        workbench.options_for(RuntimeConfig(device="cpu", tier="static"))
        workbench.options_for(RuntimeConfig(device="cpu", dtype="bfloat16"))
        assert not caplog.text

    @needs_compiler
    def test_a_tier_is_a_kind_of_decoder(self) -> None:
        assert type(pair("llama-mha")[1]) is CompiledDecoder


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names processors of this architecture")
@pytest.mark.parametrize(("processor", "level"), [("ivybridge", "-O0"), ("haswell", "-O2")])
def test_it_compiles_for_every_generation_and_multiplies_and_adds_as_written(
    processor: str, level: str, tmp_path: Path
) -> None:
    """Ivy Bridge has AVX without FMA. Scalar FMA, which no file names, would be the choice of -O2."""
    flags = [flag for flag in build.FLAGS if flag not in ("-O3", "-march=native", "-shared")]
    for source in build.FOLDER.glob("*.c"):
        assembly = tmp_path / f"{source.stem}.s"
        command = ["cc", *flags, level, f"-march={processor}", "-S", str(source), "-o", str(assembly)]
        subprocess.run(command, check=True)
        assert not re.search(r"\bvfn?m(add|sub)\d+ss\b", assembly.read_text()), source


class TestBuilding:
    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def built(self) -> Any:
        return library.__wrapped__()

    @needs_compiler
    def test_it_is_built_once_and_leaves_nothing_else_behind(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(build, "FLAGS", ("-O0", *build.FLAGS[1:]))  # compiles in a fifth of the time
        assert not isinstance(self.built(), Missing)
        (made,) = (tmp_path / "self-speculative-bench").iterdir()
        monkeypatch.setattr(build.subprocess, "run", None)  # a second build would call it
        assert not isinstance(self.built(), Missing)
        assert made.suffix == ".so"

    @pytest.mark.parametrize("damage", [b"", b"half of the numb", bytes(32), b"half of the numbers"])
    def test_a_damaged_library_is_built_anew_instead_of_loaded(self, damage: bytes, tmp_path: Path) -> None:
        compiler = tmp_path / "cc"
        compiler.write_text(
            "#!/bin/sh\nwhile [ $1 != -o ]; do shift; done; echo code > $2; echo >> $0.calls\n"
        )
        compiler.chmod(0o755)
        made = build._compiled(str(compiler))
        assert build._compiled(str(compiler)) == made
        made.write_bytes(damage)
        assert build._compiled(str(compiler)) == made
        assert made.read_bytes() == b"code\n"
        assert list(made.parent.iterdir()) == [made]
        assert (tmp_path / "cc.calls").read_text() == "\n" * 2

    def test_no_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr(build.shutil, "which", lambda name: None)
        assert self.built() == Missing("no C compiler found")

    def test_a_compiler_that_fails_is_named_with_what_it_says(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        broken = tmp_path / "cc"
        broken.write_text("#!/bin/sh\necho 'unknown option -fopenmp' >&2\nexit 1\n")
        broken.chmod(0o755)
        monkeypatch.setenv("CC", str(broken))
        assert self.built() == Missing(f"{broken} failed: unknown option -fopenmp")

    def test_a_cache_folder_that_cannot_be_written(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        monkeypatch.setattr(build, "_compiler", lambda: "cc")
        missing = self.built()
        assert isinstance(missing, Missing)
        assert "Not a directory" in missing.reason


def test_options_default_to_the_static_tier() -> None:
    assert RuntimeOptions(CPU, torch.float32, 8).tier == "static"
