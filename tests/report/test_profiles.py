"""Profiles in the leaderboard: shown where the folder holds some, and not otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import UserError
from bench.profile.records import save_profile
from bench.report.profiles import profile_chapters
from tests.profile.test_profile import METHOD, PROFILE


def test_no_profile_makes_no_chapter(tmp_path: Path) -> None:
    assert profile_chapters(tmp_path) == []


def test_a_profile_shows_its_passes_above_the_roofline_and_predictions_beside_measurements(
    tmp_path: Path,
) -> None:
    save_profile(tmp_path, PROFILE)
    (chapter,) = profile_chapters(tmp_path)
    passes, methods = chapter.parts[0].tables
    assert chapter.title == "Cost of passes: tiny on A CPU, 1 thread, float32"
    assert passes.rows == (("100 tokens", "10.00", "11.00", "11.83", "12.67", "14.33", "16.00", "50%"),)
    assert methods.rows == (("kangaroo", "3.00", "4.00", "10.00", "1.00", "2.10x", "2.00x"),)
    assert [picture.name for picture in chapter.pictures] == ["passes", "layers", "prediction"]


def test_without_methods_nothing_is_predicted(tmp_path: Path) -> None:
    save_profile(tmp_path, replace(PROFILE, methods=(replace(METHOD, predicted=None),)))
    assert [picture.name for picture in profile_chapters(tmp_path)[0].pictures] == ["passes", "layers"]


def test_a_published_profile_comes_first_and_an_own_one_of_the_same_name_keeps_its_own_anchor(
    tmp_path: Path,
) -> None:
    for results in (tmp_path / "published", tmp_path):
        save_profile(results, PROFILE)
    first, second = profile_chapters(tmp_path)
    assert second.anchor == f"{first.anchor}-own"
    assert second.title == f"{first.title} (own)"


def test_a_file_that_is_no_profile_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "x.json").write_text("{}")
    with pytest.raises(UserError, match="is no profile"):
        profile_chapters(tmp_path)
