"""The pages for people are right: files exist, links resolve, commands compose, and the examples run."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from bench.compose.schema import BenchConfig, register_schema
from bench.convert.cli import ConvertConfig
from bench.profile.cli import ProfileConfig
from bench.prove.certificates import Check, Status
from bench.prove.config import ProveConfig
from bench.prove.control_run import Outcome
from bench.prove.controls import CONTROLS
from bench.routing.cli import RoutingConfig
from bench.train.answers.cli import AnswersConfig
from bench.train.calibrate.cli import CalibrateConfig
from bench.train.cli import TrainConfig
from bench.train.exits.cli import ExitsConfig
from bench.train.frequent_tokens.cli import FrequentTokensConfig
from bench.train.mixture.cli import MixtureConfig
from bench.train.skip_set.cli import SkipSetConfig
from bench.tune.cli import TuneConfig
from tests.command import run_command
from tests.docs.pages import PAGES, ROOT, Block, blocks, commands, links, spans
from tests.harness import composed_tree, undrawn

CONF = ROOT / "conf"
GUIDE = ROOT / "docs" / "add-a-method.md"
HYDRA = {
    "bench": "bench",
    "bench.prove": "prove",
    "bench.tune": "tune",
    "bench.profile": "profile",
    "bench.routing": "routing",
    "bench.train": "train",
    "bench.train.answers": "answers",
    "bench.train.calibrate": "calibrate",
    "bench.train.exits": "exits",
    "bench.train.frequent_tokens": "frequent_tokens",
    "bench.train.mixture": "mixture",
    "bench.train.skip_set": "skip_set",
    "bench.convert": "convert",
}
"""The primary yaml of every command that Hydra composes."""
SCHEMAS = {
    "prove": ProveConfig,
    "profile": ProfileConfig,
    "routing": RoutingConfig,
    "train": TrainConfig,
    "answers": AnswersConfig,
    "calibrate": CalibrateConfig,
    "exits": ExitsConfig,
    "frequent_tokens": FrequentTokensConfig,
    "mixture": MixtureConfig,
    "skip_set": SkipSetConfig,
    "convert": ConvertConfig,
    "tune": TuneConfig,
}
ARGPARSE = {
    "bench.report": "bench.report.__main__",
    "bench.reference": "bench.reference.comparison",
    "bench.quality": "bench.quality.scores",
    "bench.train.curves": "bench.train.curves",
    "bench.train.corpus": "bench.train.corpus.__main__",
    "bench.fetch": "bench.fetch.__main__",
    "bench.project": "bench.project.__main__",
}
"""The module with ``main`` of every command that reads its arguments itself."""
PLACES = re.compile(r"(?:\.ci|bench|methods|conf|tests|docs|notebooks|results/published)/[\w./*-]*")
IMAGINED = {"methods/mine.py", "methods/lookup/last_seen.py", "conf/method/last_seen.yaml"}
"""Files that a reader is to write."""
NAMES = re.compile(r"(?:bench|methods)(?:\.\w+)+")
SMALL = {
    "bench": ["task.limit=2", "max_new_tokens=24", "measure.warmup.max_rounds=1"],
    "bench.train": ["recipe.steps=1", "recipe.batch=1", "recipe.max_tokens=64"],
    "bench.prove": ["draws=200", "tokens=3", "prompts=1", "max_new_tokens=12", "jobs=1"],
}
"""What makes the commands of the guide small enough for a test."""

page_by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@page_by_page
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = {name.rstrip("./") for span in spans(page) for name in PLACES.findall(span)} - IMAGINED
    assert [name for name in sorted(named) if not any(ROOT.glob(name))] == []


@page_by_page
def test_modules_and_definitions_that_a_page_names_exist(page: Path) -> None:
    keys = {f"bench.{field.name}" for field in fields(BenchConfig)}  # of the configuration
    named = {span for span in spans(page) if NAMES.fullmatch(span)} - keys
    assert [name for name in sorted(named) if not is_defined(name)] == []


def is_defined(name: str) -> bool:
    """Whether a dotted name is a folder or a module of ours, or something that a module mentions."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        stem, rest = ROOT.joinpath(*parts[:count]), parts[count:]
        if stem.is_dir():
            return not rest
        if stem.with_suffix(".py").is_file():
            text = stem.with_suffix(".py").read_text(encoding="utf-8")
            return all(re.search(rf"\b{part}\b", text) for part in rest)
    return False


@page_by_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page if not path else (page.parent / path).resolve()
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            broken.append(link)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@page_by_page
def test_commands_compose(page: Path, guide_folder: Path) -> None:
    register_schemas()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for module, *arguments in commands(page):
            if module in ARGPARSE:
                parse(module, [word for word in arguments if word != "--help"])
            else:
                compose_all(HYDRA[module], arguments, guide_folder / "myconf")


def register_schemas() -> None:
    register_schema()
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)


def compose_all(config: str, arguments: list[str], myconf: Path) -> None:
    """Compose a command, with every option that it sweeps over; a pattern's options exist anyway."""
    if "--config-dir" in arguments:
        at = arguments.index("--config-dir")
        assert arguments[at + 1] == "myconf"
        arguments = [*arguments[:at], f"hydra.searchpath=[file://{myconf}]", *arguments[at + 2 :]]
    flags = [word for word in arguments if word.startswith("-")]
    assert set(flags) <= {"-m", "--help", "--cfg", "--resolve", "--hydra-help"}
    words = [word for word in arguments if word not in (*flags, *(["job"] if "--cfg" in flags else []))]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed = parser.parse_overrides(words)
    fixed = [str(item.input_line) for item in parsed if not item.is_sweep_override()]
    compose_once(config, *fixed)
    for item in parsed:
        for text in item.sweep_string_iterator() if item.is_choice_sweep() else ():
            compose_once(config, *fixed, f"{item.key_or_group}={text}")


@cache
def compose_once(config: str, *overrides: str) -> None:
    """Compose; several pages show the same commands."""
    composed_tree(*overrides, config=config)


class Parsed(Exception):
    """The arguments are valid."""


def parse(module: str, arguments: list[str]) -> None:
    """Let a command read its arguments, and do nothing else."""
    real = argparse.ArgumentParser.parse_args

    def only_parse(parser: argparse.ArgumentParser, given: list[str] | None = None) -> None:
        real(parser, arguments if given is None else given)
        raise Parsed

    main = importlib.import_module(ARGPARSE[module]).main
    with patch.object(argparse.ArgumentParser, "parse_args", only_parse), pytest.raises(Parsed):
        main(arguments)


@pytest.fixture(scope="module")
def guide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the guide to a method of one's own, saved as it says."""
    folder = tmp_path_factory.mktemp("guide")
    for block in blocks(GUIDE):
        if block.title:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
    return folder


def guide_examples() -> Iterator[tuple[str, Block]]:
    """The shell block that follows each example's yaml, with the name of the method."""
    method = ""
    for block in blocks(GUIDE):
        if block.language == "yaml" and block.title:
            method = Path(block.title).stem
        elif block.language == "bash" and method:
            yield method, block
            method = ""


EXAMPLES = dict(guide_examples())


@pytest.mark.parametrize(
    ("method", "promise", "verdict"),
    [
        ("last_seen", "greedy-exact", "proved"),
        ("next_token", "greedy-exact", "proved"),
        ("tuned_exit", "lossy", "lossy: "),
    ],
)
def test_an_example_ends_on_a_board_with_a_certificate(
    method: str, promise: str, verdict: str, guide_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_small(monkeypatch)
    monkeypatch.chdir(guide_folder)
    monkeypatch.syspath_prepend(str(guide_folder))
    for line in EXAMPLES[method].text.splitlines():
        _, _, module, *arguments = line.split()
        small = SMALL.get(module, [])
        if module == "bench.train" and "recipe=joint" not in arguments:
            small = [*small, "recipe.pass_tokens=64"]  # a recipe of modules alone has it
        with undrawn():
            done = run_command(entry_point(module), *arguments, *small)
        assert done.returncode == 0, done.stderr
    (certificate,) = (guide_folder / "results" / "certificates").glob(f"{method}-*.json")
    assert json.loads(certificate.read_text(encoding="utf-8"))["declared"]["greedy"] == promise
    board = (guide_folder / "results" / "leaderboard.md").read_text(encoding="utf-8")
    row = next(line for line in board.splitlines() if line.startswith("|") and f" {method} " in line)
    assert verdict in row


def in_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what other tests cover: controls, most families of random models, the memory of trainings."""
    monkeypatch.setattr("bench.train.cli.require_memory_for", lambda *given: None)
    caught = Check("greedy", "random llama", Status.FAILED, "caught")
    monkeypatch.setattr(
        "bench.prove.crew.Crew.controls", lambda crew, report: (Outcome(CONTROLS[0], caught),)
    )
    for module in ("prover", "battery"):
        monkeypatch.setattr(f"bench.prove.{module}.FAMILIES", ("llama",))


def entry_point(module: str) -> Callable[[], None]:
    """What a command of the guide calls; the exit status of a report is raised, as Python would do."""
    if module == "bench.report":
        main = importlib.import_module("bench.report.__main__").main
        return lambda: sys.exit(main(["results"]))
    name = "bench.cli" if module == "bench" else f"{module}.cli"
    return importlib.import_module(name).main


def test_every_method_has_a_page() -> None:
    methods = {path.stem for path in (CONF / "method").glob("*.yaml")}
    pages = {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")}
    covered = pages | {"hamburger_reference"}  # on the page of hamburger
    assert methods - covered == set()
    index = (ROOT / "docs" / "methods" / "README.md").read_text(encoding="utf-8")
    assert [page for page in sorted(pages - {"README"}) if f"({page}.md)" not in index] == []


@pytest.mark.parametrize("method", sorted((CONF / "method").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_page_names_every_setting_with_its_default(method: Path) -> None:
    name = "hamburger" if method.stem == "hamburger_reference" else method.stem
    page = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
    settings = OmegaConf.to_container(OmegaConf.load(method))
    assert isinstance(settings, dict)
    if method.stem == "hamburger_reference":  # differs from hamburger in one setting, which its page names
        assert f"(`confidence` {settings['confidence']})" in page
        return
    wrong = []
    for key, value in settings.items():
        shown = [line for line in page.splitlines() if re.match(rf"\|[^|]*`{key}`", line)]
        is_given_elsewhere = key == "weights" or key in ("_target_", "defaults")
        if not is_given_elsewhere and not any(default_text(value) in line.split(" | ")[-1] for line in shown):
            wrong.append((key, value))
    assert wrong == []


def default_text(value: object) -> str:
    """A value as yaml writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(default_text, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def test_the_readme_is_short_and_sets_up_in_two_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    after = "\n".join(lines[lines.index("## Set-up") :])
    first = re.search(r"^```bash\n(.*?)^```$", after, re.DOTALL | re.MULTILINE)
    assert first is not None
    assert len(first[1].splitlines()) == 2
