"""Random damage to a checkpoint's folder: config fields, side files, tensors and the index.

A damage is drawn from a seed, so that a failing one can be repeated. Each function changes the folder and
says what it did.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Damage = Callable[[Path, Random], str]

VALUES: tuple[Any, ...] = (
    None, "x", "4", "", True, False, 0, -1, 1, 2, 3, 5, 799, 4096, 10**9, 10**15, 2**70, 1.5, 1e-40, 1e300,
    float("nan"), float("inf"), [], [1], [3, 799], ["x"], {}, {"a": 1}, "x" * 10_000,
)  # fmt: skip
FIELDS = (
    "model_type", "architectures", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "intermediate_size", "vocab_size", "max_position_embeddings",
    "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta", "tie_word_embeddings", "attention_bias",
    "mlp_bias", "hidden_act", "eos_token_id", "bos_token_id", "pad_token_id", "dtype", "torch_dtype",
    "quantization_config", "auto_map", "sliding_window", "layer_types", "use_cache", "initializer_range",
    "transformers_version", "draft_vocab_size", "pretraining_tp", "is_decoder", "id2label",
)  # fmt: skip
ROPES = ("linear", "dynamic", "yarn", "longrope", "llama3", "default", "spiral", "proportional")
ROPE_FIELDS = (
    "rope_type", "rope_theta", "factor", "original_max_position_embeddings", "partial_rotary_factor",
    "short_factor", "long_factor", "attention_factor", "beta_fast", "low_freq_factor", "high_freq_factor",
    "mscale",
)  # fmt: skip
SIDE_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    "model.safetensors",
)  # fmt: skip
EXTRA = ("mtp.x", "fc.weight", "y", "model.layers.7.z")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 44\n"
_NAMES = ("uint8", "int8", "int64", "bool", "complex64", "float8_e4m3fn", "float16")
DTYPES = tuple(getattr(torch, name) for name in _NAMES)


def config_field(folder: Path, random: Random) -> str:
    """Another value, or none, in a field of config.json."""
    return _field(folder / "config.json", random, FIELDS)


def generation_field(folder: Path, random: Random) -> str:
    """Another value in a field of generation_config.json."""
    return _field(
        folder / "generation_config.json", random, ("eos_token_id", "temperature", "pad_token_id", "x")
    )


def tokenizer_field(folder: Path, random: Random) -> str:
    """Another value in a field of tokenizer_config.json."""
    names = ("eos_token", "bos_token", "tokenizer_class", "auto_map", "added_tokens_decoder", "chat_template",
             "model_max_length", "clean_up_tokenization_spaces", "extra_special_tokens")  # fmt: skip
    return _field(folder / "tokenizer_config.json", random, names)


def rope_field(folder: Path, random: Random) -> str:
    """A rule of the rotary embedding with missing or odd settings."""
    rule: dict[str, Any] = {"rope_type": random.choice(ROPES), "rope_theta": 10000.0, "factor": 2.0}
    rule |= {"short_factor": [1.0, 1.1], "long_factor": [2.0, 4.0], "original_max_position_embeddings": 64}
    name = random.choice(ROPE_FIELDS)
    rule[name] = random.choice(VALUES) if name != "rope_type" or random.random() < 0.3 else rule[name]
    if random.random() < 0.3:
        rule.pop(random.choice(list(rule)))
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "rope_parameters": rule}))
    return f"rope {rule}"


def side_file(folder: Path, random: Random) -> str:
    """A file that is missing, cut short, or something else."""
    file = folder / random.choice(SIDE_FILES)
    kinds: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda content: b"",
        "cut short": lambda content: content[: random.randrange(max(1, len(content)))],
        "pointer": lambda content: POINTER,
        "null": lambda content: b"null",
        "list": lambda content: b"[1, 2]",
        "no object of objects": lambda content: b'{"a": [1, null, {"b": "c"}]}',
        "deep": lambda content: b"[" * 200_000,
        "latin": lambda content: content.replace(b"e", "é".encode("latin-1"), 3),
        "mark": lambda content: b"\xef\xbb\xbf" + content,
        "noise": lambda content: random.randbytes(300),
        "bytes": lambda content: _flipped(content, random),
    }
    kind = random.choice([*kinds, "missing", "folder", "pipe", "dangling"])
    if kind in kinds:
        file.write_bytes(kinds[kind](file.read_bytes()))
    else:
        file.unlink()
        if kind == "folder":
            file.mkdir()
        elif kind == "pipe":
            os.mkfifo(file)
        elif kind == "dangling":
            file.symlink_to(folder / "nowhere")
    return f"{file.name} {kind}"


def tensors(folder: Path, random: Random) -> str:
    """A tensor that is missing, renamed, misshapen, of other numbers, not finite, or one too many."""
    stored = load_file(folder / "model.safetensors")
    name = random.choice(sorted(stored))
    value = stored[name]
    kinds: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
        "missing": lambda: {},
        "renamed": lambda: {f"{name}_": value},
        "prefixed": lambda: {random.choice(["module.", "_orig_mod.", "x."]) + name: value},
        "without model.": lambda: {name.removeprefix("model."): value},
        "twice": lambda: {name: value, f"module.{name}": value.clone()},
        "reshaped": lambda: {name: value.reshape(-1)[:-1].clone()},
        "turned": lambda: {name: value.t().contiguous() if value.ndim == 2 else value[None]},
        "empty": lambda: {name: value[:0].clone()},
        "typed": lambda: {name: value.to(random.choice(DTYPES))},
        "nan": lambda: {name: value.index_fill(0, torch.tensor([0]), float("nan"))},
        "inf": lambda: {name: value.index_fill(0, torch.tensor([1]), float("-inf"))},
        "extra": lambda: {
            name: value,
            random.choice(EXTRA): value.clone(),
        },
    }
    kind = random.choice(sorted(kinds))
    del stored[name]
    save_file({**stored, **kinds[kind]()}, folder / "model.safetensors", {"format": "pt"})
    return f"{name} {kind}"


def all_names(folder: Path, random: Random) -> str:
    """All tensors under other names, as wrappers and base models leave them."""
    stored = load_file(folder / "model.safetensors")
    prefix = random.choice(["module.", "_orig_mod.", "module._orig_mod.", "wrapped."])
    save_file({prefix + name: value for name, value in stored.items()}, folder / "model.safetensors")
    return f"all {prefix}"


def header(folder: Path, random: Random) -> str:
    """Bytes of the header of the weights, or its length."""
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    if random.random() < 0.3:
        content[:8] = struct.pack("<Q", random.choice([0, 1, 2**20, 2**40, 2**63]))
        kind = "length"
    else:
        place = random.randrange(8, 300)
        content[place] = random.randrange(256)
        kind = f"byte {place}"
    file.write_bytes(bytes(content))
    return f"header {kind}"


def index(folder: Path, random: Random) -> str:
    """Shards with an index that is damaged."""
    stored = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(stored)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, own in shards.items():
        save_file({name: stored[name] for name in own}, folder / shard, {"format": "pt"})
    places: Any = {name: shard for shard, own in shards.items() for name in own}
    kind = random.choice(["whole", "value", "map", "missing map", "shard gone", "cut short", "list", "extra"])
    if kind == "value":
        places[names[0]] = random.choice([*VALUES[:20], "../out.safetensors", "/etc/passwd", ".", "a/b"])
    elif kind == "map":
        places = random.choice(VALUES)
    elif kind == "shard gone":
        (folder / random.choice(sorted(shards))).unlink()
    elif kind == "extra":
        places["more"] = names[0]
    text = json.dumps({} if kind == "missing map" else {"metadata": {}, "weight_map": places})
    text = {"cut short": text[: random.randrange(len(text))], "list": "[]"}.get(kind, text)
    (folder / "model.safetensors.index.json").write_text(text)
    return f"index {kind} {places if kind in ('map', 'value') else ''}"[:300]


DAMAGES: tuple[Damage, ...] = (
    config_field, config_field, config_field, config_field, generation_field, tokenizer_field, rope_field,
    side_file, side_file, side_file, tensors, tensors, all_names, header, index,
)  # fmt: skip


def damage(source: Path, folder: Path, seed: int) -> str:
    """Copy a checkpoint to `folder` and damage it; the same seed does the same."""
    shutil.copytree(source, folder)
    random = Random(seed)
    return random.choice(DAMAGES)(folder, random)


def gguf_damage(content: bytes, random: Random) -> bytes:
    """A GGUF file that is cut short, or with other bytes in its header."""
    header = content.index(b"token_embd.weight")
    changed = bytearray(content)
    kind = random.choice(["cut short", "byte", "byte", "number"])
    if kind == "cut short":
        return content[: random.randrange(len(content))]
    place = random.randrange(header)
    if kind == "byte":
        changed[place] = random.randrange(256)
    else:
        changed[place : place + 8] = struct.pack("<Q", random.choice([0, 1, 2**31, 2**40, 2**63]))
    return bytes(changed)


def _field(file: Path, random: Random, names: tuple[str, ...]) -> str:
    fields = json.loads(file.read_text())
    name, value = random.choice(names), random.choice(VALUES)
    if random.random() < 0.1:
        fields.pop(name, None)
    else:
        fields[name] = value
    file.write_text(json.dumps(fields))
    return f"{file.name}: {name} = {str(value)[:40]}"


def _flipped(content: bytes, random: Random) -> bytes:
    """Three bytes changed; of weights only in the header, since other numbers are no damage."""
    changed = bytearray(content)
    for _ in range(3):
        changed[random.randrange(min(len(changed), 2000))] = random.randrange(256)
    return bytes(changed)
