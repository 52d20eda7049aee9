"""Folders that people have: the ids of ``transformers.generate``, or what the folder is and the fix."""

import builtins
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Phi3Config

from bench.compose.identity import checkpoint_hash
from bench.errors import UserError
from bench.runtime.loading import load_decoder
from bench.runtime.modules import load_module, save_module
from bench.runtime.tensor_header import hash_pieces
from methods.two_model.draft import load_draft_model
from tests.runtime.checkpoints import LITTLE, model, oracle_ids, our_ids, patch, random_model, rewrite, save
from tests.runtime.models import options

TIED = json.dumps({**LITTLE, "tie_word_embeddings": True})
LONG = "Name three birds. " * 10
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 44\n"
CONTENTS = {"pointer": POINTER, "empty": b"", "cut": b"{", "bytes": b"\xff\xfe\x00"}
FILES = ("config.json", "generation_config.json", "tokenizer.json", "model.safetensors")
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0, 1.1],
    "long_factor": [3.0, 7.0],
}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def assert_as_transformers(folder: Path, prompt: str = "Name three birds.", new: int = 8) -> list[int]:
    ids, answer = our_ids(folder, prompt, new)
    assert answer == oracle_ids(folder, ids, new)
    return answer


def refusal(folder: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        our_ids(folder)
    assert caught.value.fix
    return caught.value


def scaled(rule: dict[str, Any], **changes: Any) -> Any:
    return random_model(LlamaConfig(**{**LITTLE, **changes}, rope_parameters={"rope_theta": 100.0, **rule}))


def with_rows(rows: int, layers: int = 2) -> Any:
    return model(json.dumps({**LITTLE, "vocab_size": rows, "num_hidden_layers": layers}))


class TestRotary:
    @pytest.mark.parametrize("prompt", ["Name three birds.", LONG], ids=["short text", "long text"])
    def test_longrope_goes_by_the_length_of_the_text(self, tmp_path: Path, prompt: str) -> None:
        config = Phi3Config(**LITTLE, rope_parameters=LONGROPE, original_max_position_embeddings=40)
        save(tmp_path, random_model(config))
        assert_as_transformers(tmp_path, prompt)

    def test_an_answer_that_outgrows_the_short_factors_is_a_failure_with_its_cure(
        self, tmp_path: Path
    ) -> None:
        config = Phi3Config(**LITTLE, rope_parameters=LONGROPE, original_max_position_embeddings=14)
        error = refusal(save(tmp_path, random_model(config)))
        assert "grows past 14 tokens" in error.what
        assert "runtime.max_length=14" in error.fix

    @pytest.mark.parametrize("kind", ["linear", "dynamic"])
    def test_scaling_extends_the_context(self, tmp_path: Path, kind: str) -> None:
        source = scaled({"rope_type": kind, "factor": 4.0}, max_position_embeddings=32)
        save(tmp_path, source)
        assert load_decoder(tmp_path, options(max_length=1000)).capacity == 128
        assert_as_transformers(tmp_path, LONG, new=12)

    def test_dynamic_scaling_follows_an_answer_past_the_trained_context(self, tmp_path: Path) -> None:
        save(tmp_path, scaled({"rope_type": "dynamic", "factor": 4.0}, max_position_embeddings=12))
        assert_as_transformers(tmp_path, new=20)


class TestHead:
    def test_a_head_of_its_own_under_a_config_that_ties_it(self, tmp_path: Path) -> None:
        patch(save(tmp_path), tie_word_embeddings=True)
        assert_as_transformers(tmp_path)
        assert not load_decoder(tmp_path, options()).config.tied_head

    def test_a_copy_of_the_embedding_is_tied(self, tmp_path: Path) -> None:
        save(tmp_path, model(TIED))
        rewrite(tmp_path, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
        assert_as_transformers(tmp_path)
        assert load_decoder(tmp_path, options()).config.tied_head

    def test_a_head_alone_is_the_embedding_too(self, tmp_path: Path) -> None:
        save(tmp_path, model(TIED))
        expected = assert_as_transformers(tmp_path)
        rewrite(tmp_path, lambda tensors: tensors.update({HEAD: tensors.pop(EMBEDDING)}))
        assert our_ids(tmp_path)[1] == expected


class TestEnd:
    def test_end_tokens_of_the_config_count_without_a_generation_config(self, tmp_path: Path) -> None:
        answer = assert_as_transformers(save(tmp_path))
        patch(tmp_path, eos_token_id=[3, answer[4]])
        (tmp_path / "generation_config.json").unlink()
        assert assert_as_transformers(tmp_path) == answer[:5]

    @pytest.mark.parametrize("value", ["3", [3, None, "x"], {}, 1.5])
    def test_end_tokens_that_are_no_ids_are_named(self, tmp_path: Path, value: Any) -> None:
        patch(save(tmp_path), "generation_config.json", eos_token_id=value)
        assert "generation_config.json: eos_token_id is" in refusal(tmp_path).what


class TestNumbers:
    @pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
    def test_weights_that_are_not_finite_are_refused(self, tmp_path: Path, value: str) -> None:
        name = "model.layers.1.mlp.down_proj.weight"
        rewrite(save(tmp_path), lambda tensors: tensors[name][3].fill_(float(value)))
        assert f"{name} holds numbers that are not finite" in refusal(tmp_path).what

    def test_weights_that_half_precision_cannot_hold_are_refused(self, tmp_path: Path) -> None:
        rewrite(save(tmp_path), lambda tensors: tensors["model.norm.weight"][0].fill_(1e6))
        with pytest.raises(UserError, match="not finite in float16") as caught:
            load_decoder(tmp_path, options(torch.float16))
        assert "runtime.dtype=bfloat16" in caught.value.fix

    @pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "complex64", "float8_e4m3fn"])
    def test_numbers_of_another_kind_are_refused(self, tmp_path: Path, dtype: str) -> None:
        name = "model.layers.0.self_attn.q_proj.weight"
        rewrite(
            save(tmp_path), lambda tensors: tensors.update({name: tensors[name].to(getattr(torch, dtype))})
        )
        assert f"{name} holds" in refusal(tmp_path).what

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, "1e-5", None, True])
    def test_an_epsilon_that_is_no_number(self, tmp_path: Path, value: Any) -> None:
        patch(save(tmp_path), rms_norm_eps=value)
        assert "config.json: rms_norm_eps is" in refusal(tmp_path).what

    def test_a_method_s_weights_are_checked_too(self, tmp_path: Path) -> None:
        save_module(tmp_path, {"a": torch.tensor([1.0, float("nan")])}, {})
        with pytest.raises(UserError, match=r"module\.safetensors: a holds numbers that are not finite"):
            load_module(tmp_path, {"a": (2,)}, torch.zeros(1))


class TestIdentity:
    def test_every_tensor_counts_however_large_the_file_is(self, tmp_path: Path) -> None:
        wide = json.dumps({**LITTLE, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6})
        save(tmp_path, model(wide))
        assert (tmp_path / "model.safetensors").stat().st_size > 3 << 20
        before = checkpoint_hash(tmp_path)
        assert before.startswith("v2-")
        for name in (EMBEDDING, "model.layers.5.mlp.up_proj.weight", "model.norm.weight"):
            rewrite(tmp_path, lambda tensors, name=name: tensors[name].mul_(1.5))  # type: ignore[misc]
            after = checkpoint_hash(tmp_path)
            assert after != before
            before = after

    def test_shards_are_the_same_weights(self, tmp_path: Path) -> None:
        save(tmp_path / "whole")
        save(tmp_path / "shards", max_shard_size="20KB")
        assert checkpoint_hash(tmp_path / "whole") == checkpoint_hash(tmp_path / "shards")

    def test_a_large_tensor_is_read_in_pieces(self, tmp_path: Path) -> None:
        class Counting:
            def __init__(self) -> None:
                self.bytes = 0

            def update(self, data: bytes) -> None:
                self.bytes += len(data)

        file, counting = tmp_path / "sparse", Counting()
        with file.open("wb") as made:
            made.truncate(1 << 34)  # 16 GiB that take no room
        with file.open("rb") as opened:
            hash_pieces(counting, opened, 100, 1 << 34)  # type: ignore[arg-type]
        assert counting.bytes == 4 << 12


class TestNames:
    @pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
    def test_wrappers_are_taken_off(self, tmp_path: Path, prefix: str) -> None:
        expected = our_ids(save(tmp_path))
        rewrite(
            tmp_path,
            lambda tensors: [tensors.update({prefix + name: tensors.pop(name)}) for name in list(tensors)],
        )
        assert our_ids(tmp_path) == expected

    def test_a_compiled_layer(self, tmp_path: Path) -> None:
        expected = our_ids(save(tmp_path))
        name = "model.layers.1.mlp.up_proj.weight"
        wrapped = "model.layers.1._orig_mod.mlp.up_proj.weight"
        rewrite(tmp_path, lambda tensors: tensors.update({wrapped: tensors.pop(name)}))
        assert our_ids(tmp_path) == expected

    def test_two_names_for_one_tensor(self, tmp_path: Path) -> None:
        name = "model.norm.weight"
        rewrite(save(tmp_path), lambda tensors: tensors.update({f"module.{name}": tensors[name].clone()}))
        assert f"{name} and module.{name} are the same tensor" in refusal(tmp_path).what

    def test_a_tied_model_saved_without_its_head(self, tmp_path: Path) -> None:
        save(tmp_path, model(TIED))
        expected = our_ids(tmp_path)
        model(TIED).model.save_pretrained(tmp_path)
        assert "model.norm.weight" not in (tmp_path / "model.safetensors").read_bytes()[:4096].decode(
            "latin-1"
        )
        assert our_ids(tmp_path) == expected
        assert_as_transformers(tmp_path)

    def test_an_untied_model_saved_without_its_head(self, tmp_path: Path) -> None:
        save(tmp_path)
        model().model.save_pretrained(tmp_path)
        error = refusal(tmp_path)
        assert "lm_head.weight is missing" in error.what
        assert "AutoModelForCausalLM" in error.fix

    def test_no_architecture(self, tmp_path: Path) -> None:
        patch(save(tmp_path), drop=("architectures",))
        assert_as_transformers(tmp_path)

    def test_heads_for_several_tokens_are_left_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        rewrite(save(tmp_path), lambda tensors: tensors.update({"mtp.proj.weight": torch.ones(4, 4)}))
        with caplog.at_level(logging.INFO):
            assert_as_transformers(tmp_path)
        assert "left out 1 tensors of other heads: mtp.proj.weight" in caplog.text

    @pytest.mark.parametrize("rows", [2048, 2112, 2304], ids=["fewer", "equal", "more"])
    def test_a_draft_model_with_another_padding(self, tmp_path: Path, rows: int) -> None:
        target = load_decoder(
            save(tmp_path / "target", model(json.dumps({**LITTLE, "vocab_size": 2112}))), options()
        )
        save(tmp_path / "draft", with_rows(rows, layers=1))
        drafter = load_draft_model(tmp_path / "draft", target)
        own = load_decoder(tmp_path / "draft", options())
        ids = torch.tensor([5, 6, 7])
        got, expected = drafter.prefill(ids)[0], own.prefill(ids)[0]
        common = min(rows, 2112)
        assert got.shape == (2112,)
        assert torch.allclose(got[:common], expected[:common], atol=1e-5)
        assert bool((got[common:] < got[:common].min()).all())

    def test_a_draft_model_with_another_tokenizer(self, tmp_path: Path) -> None:
        target = load_decoder(
            save(tmp_path / "target", model(json.dumps({**LITTLE, "vocab_size": 2000}))), options()
        )
        save(tmp_path / "draft")
        with pytest.raises(UserError, match="2048 tokens in its vocabulary, the target 2000"):
            load_draft_model(tmp_path / "draft", target)


class TestFiles:
    @pytest.mark.parametrize("name", [*FILES, "tokenizer_config.json"])
    @pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
    def test_a_damaged_file_is_named(self, tmp_path: Path, name: str, content: bytes) -> None:
        (save(tmp_path) / name).write_bytes(content)
        error = refusal(tmp_path)
        assert str(tmp_path / name) in error.what
        assert ("git lfs pull" in error.fix) == (content == POINTER)

    @pytest.mark.parametrize("name", FILES)
    def test_a_pipe_is_not_read(self, tmp_path: Path, name: str) -> None:
        (save(tmp_path) / name).unlink()
        os.mkfifo(tmp_path / name)
        assert f"{tmp_path / name} is not a regular file" in refusal(tmp_path).what

    @pytest.mark.parametrize(
        ("places", "what"),
        [
            ("[]", "holds a JSON list"),
            ("{}", "no weight_map"),
            ('{"weight_map": {}}', "no weight_map"),
            ('{"weight_map": {"a": 1}}', "no weight_map"),
            ('{"weight_map": {"a": "../../secret.safetensors"}}', "outside of the folder"),
            ('{"weight_map": {"a": "/etc/passwd"}}', "outside of the folder"),
            ('{"weight_map": {"a": "gone.safetensors"}}', "names gone.safetensors"),
            ('{"weight_map": {"a": "mo', "is not valid JSON"),
        ],
    )
    def test_a_damaged_index(self, tmp_path: Path, places: str, what: str) -> None:
        (save(tmp_path) / "model.safetensors").unlink()
        (tmp_path / "model.safetensors.index.json").write_text(places)
        error = refusal(tmp_path)
        assert what in error.what
        assert "model.safetensors.index.json" in error.what

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("num_hidden_layers", "4"),
            ("num_hidden_layers", 10**9),
            ("num_hidden_layers", 4000),
            ("num_hidden_layers", -1),
            ("vocab_size", 10**15),
            ("num_attention_heads", 10**9),
            ("num_attention_heads", 3),
            ("num_key_value_heads", 3),
            ("hidden_size", True),
            ("head_dim", 3),
            ("rope_parameters", {"rope_type": "linear", "rope_theta": 1e4, "factor": "2"}),
            ("rope_parameters", {"rope_type": "linear", "rope_theta": 1e4}),
            ("rope_parameters", [1]),
            ("architectures", "LlamaForCausalLM"),
            ("tie_word_embeddings", "false"),
        ],
    )
    def test_a_value_that_no_model_has(self, tmp_path: Path, field: str, value: Any) -> None:
        patch(save(tmp_path), **{field: value})
        assert refusal(tmp_path).what

    def test_a_fault_of_the_config_is_not_blamed_on_the_tokenizer(self, tmp_path: Path) -> None:
        (save(tmp_path) / "config.json").write_text("{")
        assert "tokenizer" not in refusal(tmp_path).what

    def test_tokens_without_a_row_are_named(self, tmp_path: Path) -> None:
        patch(save(tmp_path), "tokenizer.json", added_tokens=[
            *json.loads((tmp_path / "tokenizer.json").read_text())["added_tokens"],
            {"id": 2048, "content": "<call>", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True},
        ])  # fmt: skip
        assert our_ids(tmp_path)[1]
        with pytest.raises(UserError, match=r"the prompt holds token 2048 \(<call>\)"):
            our_ids(tmp_path, "Use <call> now.")


class TestOtherThings:
    """Folders that hold something else than a model, called by their names."""

    def test_a_peft_adapter(self, tmp_path: Path) -> None:
        (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
        error = refusal(tmp_path)
        assert "PEFT adapter of org/base" in error.what
        assert "merge_and_unload" in error.fix

    def test_a_folder_with_a_gguf_file(self, tmp_path: Path) -> None:
        (tmp_path / "model.Q4_0.gguf").write_bytes(b"GGUF")
        assert f"model.path={tmp_path}/model.Q4_0.gguf" in refusal(tmp_path).fix

    def test_folders_of_checkpoints(self, tmp_path: Path) -> None:
        save(tmp_path / "checkpoint-500")
        assert f"model.path={tmp_path / 'checkpoint-500'}" in refusal(tmp_path).fix

    @pytest.mark.parametrize(
        ("fields", "kind"),
        [
            ({"speculators_model_type": "eagle3"}, "of the library speculators"),
            ({"architectures": ["LlamaForCausalLMEagle3"]}, "of EAGLE"),
            ({"medusa_num_heads": 5}, "of Medusa"),
        ],
    )
    def test_draft_heads(self, tmp_path: Path, fields: dict[str, Any], kind: str) -> None:
        patch(save(tmp_path), **fields)
        assert f"holds a draft head {kind}" in refusal(tmp_path).what

    def test_weights_of_a_draft_head_or_an_adapter(self, tmp_path: Path) -> None:
        rewrite(save(tmp_path), lambda tensors: tensors.update({"fc.weight": torch.ones(4, 4)}))
        assert "draft head of EAGLE" in refusal(tmp_path).what
        name = "model.layers.0.self_attn.q_proj.lora_A.weight"
        rewrite(save(tmp_path), lambda tensors: tensors.update({name: torch.ones(4, 4)}))
        assert "PEFT adapter" in refusal(tmp_path).what

    @pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
    def test_code_in_a_checkpoint_is_neither_run_nor_offered(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
    ) -> None:
        monkeypatch.setattr(builtins, "input", lambda *prompt: pytest.fail("asked for input"))
        save(tmp_path)
        (tmp_path / "mine.py").write_text("raise SystemExit('code of a checkpoint was run')")
        if file == "config.json":
            patch(tmp_path, model_type="mystery", auto_map={"AutoConfig": "mine.C"}, drop=("architectures",))
        else:
            patch(tmp_path, file, tokenizer_class="Mine", auto_map={"AutoTokenizer": ["mine.T", "mine.T"]})
        assert refusal(tmp_path).what


def test_a_gguf_file_that_is_cut_short(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 64)
    with pytest.raises(UserError, match="cannot be read as GGUF"):
        load_decoder(tmp_path / "model.gguf", options())
