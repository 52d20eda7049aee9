"""Tuned settings take the place of a yaml file's, and only for the model that they were tuned for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.compose.settings import settings_from
from bench.compose.tuned import with_tuned
from bench.errors import UserError
from tests.harness import composed_tree


def folder_with(path: Path, content: Any, method: str = "prompt_lookup") -> Path:
    """A folder of tuned settings that holds this file."""
    path.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (path / f"{method}.json").write_text(text)
    return path


def params(folder: Path, method: str = "prompt_lookup") -> dict[str, Any]:
    """The settings of a method with the tuned ones of a folder."""
    composed, choices = composed_tree("model=tiny", f"method={method}", f"tuned={folder}")
    composed.model.name = "tiny"
    return dict(settings_from(with_tuned(composed, method), choices).method.params)


def test_they_replace_those_of_the_yaml_file(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"model": "tiny", "settings": {"draft_length": 3}})
    assert params(folder) == {"max_ngram": 3, "draft_length": 3}


def test_the_log_says_whose_settings_count_with_a_line_a_method_at_most(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    folder = folder_with(tmp_path, {"model": "tiny", "settings": {"draft_length": 3}})
    params(folder)
    params(folder, "sam")
    assert [record.getMessage() for record in caplog.records] == [
        f"prompt_lookup has the settings of {folder / 'prompt_lookup.json'}",
        f"sam has no tuned settings in {folder}, its published ones are used",
    ]
    caplog.clear()
    for method in ("prompt_lookup", "sam"):
        composed, _ = composed_tree("model=tiny", f"method={method}", f"tuned={folder}", "methods=[sam]")
        composed.model.name = "tiny"
        with_tuned(composed, method)
    assert [record.getMessage().split()[0] for record in caplog.records] == ["prompt_lookup"]


def test_a_method_without_a_file_keeps_its_published_ones(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"model": "tiny", "settings": {"draft_length": 3}}, "sam")
    assert params(folder)["draft_length"] == 10


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param({"model": "other", "settings": {}}, "tuned for model other", id="another model"),
        pytest.param({"model": "tiny"}, "no tuned settings", id="no settings"),
        pytest.param({"model": "tiny", "settings": [1]}, "no tuned settings", id="a list"),
        pytest.param("[1", "no tuned settings", id="damaged"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, content: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        params(folder_with(tmp_path, content))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        params(tmp_path / "nowhere")
