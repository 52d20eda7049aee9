"""The official question file: what it holds, how it is fetched, how a local one is judged."""

import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest

from bench.errors import UserError
from bench.tasks import spec_bench
from bench.tasks.spec_bench import OFFICIAL_SHA256, OFFICIAL_URL, SUBTASKS, QuestionTask, official_content
from bench.tasks.task import SourceName


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; the cached file's path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "self-speculative-bench" / "spec_bench" / "question.jsonl"


@pytest.fixture
def official(shared_data: Path) -> Path:
    """The official file, where it lies beside the checkout."""
    return shared_data / "spec_bench" / "question.jsonl"


def served(content: bytes) -> Callable[[str], bytes]:
    return lambda url: content


def refused(url: str) -> bytes:
    raise URLError("network is unreachable")


def test_the_official_file_has_eighty_questions_per_subtask(official: Path) -> None:
    loaded = QuestionTask("spec_bench", "official", path=str(official)).load()
    assert Counter(prompt.subtask for prompt in loaded.prompts) == dict.fromkeys(SUBTASKS, 80)
    assert [loaded.prompts[0].id, loaded.prompts[-1].id] == ["81", "560"]
    assert sum(len(prompt.turns) for prompt in loaded.prompts) == 560
    assert sum(bool(prompt.references) for prompt in loaded.prompts) == 359
    assert (loaded.source.name, loaded.source.sha256) == (SourceName.OFFICIAL, OFFICIAL_SHA256)
    assert not loaded.source.partial


def test_a_packed_official_file_is_still_official(official: Path, tmp_path: Path) -> None:
    packed = tmp_path / "question.jsonl.gz"
    packed.write_bytes(gzip.compress(official.read_bytes()))
    source = QuestionTask("qa", "builtin", ["qa"], path=str(packed)).load().source
    assert (source.name, source.n, source.partial) == (SourceName.OFFICIAL, 80, False)


def test_mt_benchs_own_file_is_read_and_labelled_modified(shared_data: Path) -> None:
    path = shared_data / "mt_bench" / "question.jsonl"
    loaded = QuestionTask("mt_bench", "official", ["mt_bench"], path=str(path)).load()
    assert len(loaded.prompts) == 80
    assert loaded.source.name == SourceName.MODIFIED


def test_the_download_is_checked_kept_and_not_repeated(official: Path, cache: Path) -> None:
    content = official.read_bytes()
    assert official_content(served(content)) == content
    assert [file.name for file in cache.parent.iterdir()] == ["question.jsonl"]
    assert official_content(refused) == content


def test_a_damaged_cache_is_fetched_again(official: Path, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(official.read_bytes()[:1000])
    assert official_content(served(official.read_bytes())) == official.read_bytes() == cache.read_bytes()


def test_official_questions_come_from_the_download(
    official: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spec_bench, "_fetch", served(official.read_bytes()))
    source = QuestionTask("rag", "official", ["rag"]).load().source
    assert (source.location, source.n) == (OFFICIAL_URL, 80)


def test_without_a_network_the_message_names_the_address_and_the_way_out(cache: Path) -> None:
    with pytest.raises(UserError, match=rf"{OFFICIAL_URL}: network is unreachable\n.*task\.path="):
        official_content(refused)


def test_another_file_from_the_network_is_refused_and_not_kept(cache: Path) -> None:
    with pytest.raises(UserError, match="its sha256 differs"):
        official_content(served(b"<html>sign in to this network</html>"))
    assert not cache.exists()


def test_an_unwritable_cache_says_so(tmp_path: Path, official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        official_content(served(official.read_bytes()))


def test_a_relative_cache_home_is_ignored_as_the_standard_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", "/nowhere")
    assert spec_bench.cache_folder() == Path("/nowhere/.cache/self-speculative-bench")


def own_file(folder: Path, *rows: str) -> str:
    path = folder / "own.jsonl"
    path.write_text("\n".join(rows))
    return str(path)


def test_a_local_file_is_accepted_and_labelled_modified(tmp_path: Path) -> None:
    path = own_file(tmp_path, '{"question_id": 1, "category": "coding", "turns": ["Q"]}')
    loaded = QuestionTask("spec_bench", "builtin", path=path).load()
    assert loaded.prompts[0].subtask == "mt_bench"
    assert (loaded.source.name, loaded.source.location) == (SourceName.MODIFIED, path)
    assert loaded.source.sha256 != OFFICIAL_SHA256


def test_a_file_without_categories_serves_a_task_of_one_subtask(tmp_path: Path) -> None:
    path = own_file(tmp_path, '{"question": "Q"}')
    assert QuestionTask("qa", "official", ["qa"], path=path).load().prompts[0].subtask == "qa"
    with pytest.raises(UserError, match="prompt 1 has no category"):
        QuestionTask("spec_bench", "official", path=path).load()


def test_an_unknown_category_is_refused(tmp_path: Path) -> None:
    path = own_file(tmp_path, '{"question_id": 7, "category": "summarisation", "turns": ["Q"]}')
    with pytest.raises(
        UserError, match=r"prompt 7 has category 'summarisation'.*\nDid you mean 'summarization'"
    ):
        QuestionTask("spec_bench", "official", path=path).load()


def test_a_subtask_that_the_file_lacks_is_refused(tmp_path: Path) -> None:
    path = own_file(tmp_path, '{"category": "qa", "turns": ["Q"]}')
    with pytest.raises(UserError, match=r"no question of subtask rag\nIt holds qa"):
        QuestionTask("rag", "official", ["rag"], path=path).load()
