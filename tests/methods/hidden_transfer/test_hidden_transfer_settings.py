"""The settings of hidden transfer, the weights it accepts, and the tree it drafts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import UserError
from bench.runtime.modules import save_module
from methods.core.tree_round import Calibratable
from methods.hidden_transfer.draft import HiddenTransfer
from methods.hidden_transfer.pseudo_rows import Transfer
from tests.methods.hidden_transfer.transfers import (
    WIDTH,
    bound,
    saved,
    unattached,
)
from tests.methods.small import prompt, random_decoder


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({}, (4, 4, 4)),
        ({"steps": 2, "enter": 0.5}, (3, 3)),
        ({"enter": 0.5, "stride": 2}, (3, 5, 6)),
        ({"steps": 1, "enter": 1.0}, (6,)),
    ],
    ids=["5/8 of the depth", "half-way", "staircase ends after the last layer", "linear head"],
)
def test_steps_enter_at_a_share_of_the_depth(settings: dict[str, Any], layers: tuple[int, ...]) -> None:
    decoder = random_decoder()
    method = unattached(**settings)
    assert method.trainer().provenance(decoder)["layers"] == layers
    assert method.trainer().taps(decoder) == tuple(sorted({*range(layers[0], 6), *layers}))
    assert method.trainer().new_module(decoder).state_dict()["projections"].shape == (
        len(layers),
        WIDTH,
        WIDTH,
    )


def test_it_is_labelled_a_reimplementation() -> None:
    assert HiddenTransfer.traits.is_reimplementation


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"enter": 1.5}, r"enter must lie in \[0, 1\], got 1.5"),
        ({"stride": -1}, "stride must be at least 0, got -1"),
        ({"source": "fake"}, "source must be real or chain, got 'fake'"),
        ({"anchors": 0}, "anchors must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unattached(**settings)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"": 1, "0": 1, "00": 1, "000": 1},
            "the tree is 4 deep, the modules of hidden_transfer draft depths 1..3",
        ),
        ({"": 1, "3": 1}, r"method.tree is no tree: path \[3, 0\] has no parent"),
    ],
    ids=["deeper than the steps", "not a tree"],
)
def test_a_tree_that_cannot_be_drafted_is_refused(tree: dict[str, int], message: str, tmp_path: Path) -> None:
    decoder = random_decoder()
    saved(decoder, tmp_path)
    with pytest.raises(UserError, match=message):
        unattached(tree, weights=str(tmp_path)).attach(decoder)


def test_missing_weights_name_the_command_that_makes_them(tmp_path: Path) -> None:
    command = r".*\n.*bench\.train method=hidden_transfer"
    with pytest.raises(UserError, match=r"holds no module\.safetensors" + command):
        unattached(weights=str(tmp_path)).attach(random_decoder())
    with pytest.raises(UserError, match=r"method\.weights is not set" + command):
        unattached().attach(random_decoder())


def test_projections_of_another_width_are_refused_by_tensor_name(tmp_path: Path) -> None:
    method, other = saved(random_decoder(), tmp_path), random_decoder()
    object.__setattr__(other.config, "width", 64)
    with pytest.raises(
        UserError, match=r"projections has shape \(3, 32, 32\), this model needs \(3, 64, 64\)"
    ):
        method.attach(other)


@pytest.mark.parametrize(
    "change", [{"steps": 2}, {"enter": 0.5}, {"stride": 1}, {"source": "chain"}, {"isolate": True}]
)
def test_weights_trained_for_other_settings_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    decoder = random_decoder()
    method = saved(decoder, tmp_path, **change)
    with pytest.raises(UserError, match=r"were trained as Transfer\(layers=\(4, 4, 4\).*, not as"):
        method.attach(decoder)


@pytest.mark.parametrize(
    ("stored", "configured", "nodes"),
    [({}, None, 26), ({"tree": [[0], [0, 0]]}, None, 3), ({"tree": [[0], [0, 0]]}, "chain", 4)],
    ids=["uncalibrated", "stored with the weights", "configured"],
)
def test_the_tree_is_the_configured_or_the_stored_or_the_uncalibrated_one(
    stored: dict[str, Any], configured: str | None, nodes: int, tmp_path: Path
) -> None:
    decoder, plain = random_decoder(), unattached()
    save_module(
        tmp_path,
        plain.trainer().new_module(decoder).state_dict(),
        {**plain.trainer().provenance(decoder), **stored},
    )
    method = unattached(configured, weights=str(tmp_path))
    method.attach(decoder)
    assert method._tree.size == nodes


def test_calibration_sees_the_candidates_that_decoding_drafts() -> None:
    decoder = random_decoder()
    method = bound(decoder, Transfer((2, 3, 3)))
    with torch.inference_mode():
        offered = method.candidates(prompt(20), 4)
        method.prefill(prompt(20)[:15])
        drafted = decoder.head(method._pseudo).topk(4, dim=-1).indices
    assert isinstance(method, Calibratable)
    assert offered.shape == (20, 3, 4)
    assert torch.equal(offered[14], drafted)


def test_settings_that_repeat_those_of_training_are_accepted(tmp_path: Path) -> None:
    decoder = random_decoder()
    saved(decoder, tmp_path, steps=3, enter=0.625, stride=0).attach(decoder)
