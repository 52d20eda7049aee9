"""`python -m bench.prove` as a person uses it: which methods, what is printed, which exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.prove.certificates import Check, Status
from bench.prove.cli import main, split_choice
from bench.prove.control_run import Outcome
from bench.prove.controls import CONTROLS

SMALL = ["draws=200", "tokens=3", "prompts=1", "max_new_tokens=12", "runtime.device=cpu", "jobs=1"]

MINE = '''
"""A method of somebody else: prompt copies that accept one token too many, if told to."""
from methods.core.chain import generate_chain
from methods.lookup.prompt_lookup import PromptLookup
from methods.core.acceptance import accept
import torch


class Mine(PromptLookup):
    def __init__(self, *, slip: int) -> None:
        super().__init__(max_ngram=1, draft_length=4)
        self._slip = slip

    def generate(self, prompt_ids, budget, sampler, clock):
        return generate_chain(self, self._decoder, prompt_ids, budget, sampler, clock, self._rule)

    def _rule(self, draft, probs, logits, sampler):
        right = accept(draft, probs, logits, sampler)
        agreed = right.numel() - 1
        if not self._slip or agreed == draft.numel():
            return right
        return torch.cat([draft[: agreed + 1], sampler.pick(logits[agreed + 1 : agreed + 2])])
'''

LOSSY = """

from methods.core.base import Exactness


class Blunt(Mine):
    def exactness(self, sampler):
        return Exactness.LOSSY
"""


@pytest.fixture
def myconf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three methods out of tree: an exact one, a broken one, one that calls itself lossy."""
    (tmp_path / "mypackage.py").write_text(MINE + LOSSY)
    folder = tmp_path / "myconf" / "method"
    folder.mkdir(parents=True)
    for name, target, slip in (("mine", "Mine", 0), ("broken", "Mine", 1), ("blunt", "Blunt", 1)):
        (folder / f"{name}.yaml").write_text(f"_target_: mypackage.{target}\nslip: {slip}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mypackage", raising=False)
    for module in ("prover", "battery"):
        monkeypatch.setattr(f"bench.prove.{module}.FAMILIES", ("llama",))
    caught = Check("greedy", "random llama", Status.FAILED, "prompt 0, first wrong round 1, token 1: ...")
    controls(monkeypatch, Outcome(CONTROLS[0], caught))
    return folder.parent


def controls(monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> None:
    """Let the controls end so, at no cost; that they do is the matter of test_controls.py."""
    monkeypatch.setattr("bench.prove.crew.Crew.controls", lambda crew, report: (outcome,))


def prove(monkeypatch: pytest.MonkeyPatch, results: Path, *arguments: str) -> int:
    """Exit status of the command, run inside this process."""
    monkeypatch.setattr(sys, "argv", ["bench.prove", *arguments, *SMALL, f"results_dir={results}"])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_broken_method_out_of_tree_fails_and_the_first_wrong_round_is_named(
    myconf: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = prove(monkeypatch, results_dir, "--config-dir", str(myconf), "method=broken")
    out = capsys.readouterr().out
    assert status == 1
    assert "broken: FAILED" in out
    assert "FAILED, prompt 0, first wrong round " in out
    (stored,) = (results_dir / "certificates").glob("broken-*.json")
    failed = [check for check in json.loads(stored.read_text())["checks"] if check["status"] == "failed"]
    assert {check["kind"] for check in failed} >= {"premises", "greedy", "sampling"}


def test_several_methods_share_one_command_one_table_and_the_worst_status(
    myconf: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = prove(monkeypatch, results_dir, "--config-dir", str(myconf), "method=mine,blunt")
    out = capsys.readouterr().out
    table = out[out.index("method    ") :].splitlines()
    assert status == 0
    assert [(row.split()[0], row.split()[-1]) for row in table[1:]] == [
        ("mine", "proved"),
        ("blunt", "lossy"),
    ]
    assert max(map(len, out.splitlines())) <= 120 + len(str(results_dir))  # the path is printed whole


def test_a_pattern_takes_methods_from_the_whole_search_path(
    myconf: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prove(monkeypatch, results_dir, "--config-dir", str(myconf), "method=glob(bl*)") == 0
    assert "blunt: named lossy" in capsys.readouterr().out


def test_settings_of_the_method_are_heeded(
    myconf: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--config-dir", str(myconf), "method=blunt", "method.slip=0"]
    assert prove(monkeypatch, results_dir, *arguments) == 0
    (stored,) = (results_dir / "certificates").glob("blunt-*.json")
    assert json.loads(stored.read_text())["params"] == {"slip": 0}


def test_tuned_settings_are_what_is_proved(
    myconf: Path, results_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "blunt.json").write_text(json.dumps({"model": "tiny", "settings": {"slip": 0}}))
    arguments = ["--config-dir", str(myconf), "method=blunt", "model=tiny", f"tuned={folder}"]
    assert prove(monkeypatch, results_dir, *arguments) == 0
    (stored,) = (results_dir / "certificates").glob("blunt-*.json")
    assert json.loads(stored.read_text())["params"] == {"slip": 0}


def test_a_control_that_escapes_fails_the_command_though_the_method_is_exact(
    myconf: Path, results_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    controls(monkeypatch, Outcome(CONTROLS[0], None))
    assert prove(monkeypatch, results_dir, "--config-dir", str(myconf), "method=blunt") == 1
    assert "ESCAPED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argument", "what", "fix"),
    [
        ("method=kangoroo", "unknown method 'kangoroo'", "did you mean method=kangaroo?"),
        ("method=kangoroo,medusa", "unknown method 'kangoroo'", "did you mean method=kangaroo?"),
        ("method=glob(x*)", "no method fits the pattern", "options: autoregressive"),
        ("draws=3", "draws must be at least 200", "draws=200"),
        ("runtime.dtype=bfloat16", "runs in fp32 and in bf16", "leave runtime.dtype out"),
        ("model.path=/nowhere", "/nowhere", ""),
        ("tuned=/nowhere", "tuned=/nowhere: there is no such folder", "python -m bench.tune"),
    ],
    ids=[
        "a name",
        "a name among several",
        "a pattern",
        "too few draws",
        "a precision",
        "no model",
        "no folder",
    ],
)
def test_mistakes_are_told_in_two_lines(
    argument: str,
    what: str,
    fix: str,
    results_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.prove", argument, f"results_dir={results_dir}"])
    with pytest.raises(SystemExit) as end:
        main()
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("proving ")]
    assert end.value.code == 2
    assert len(lines) == 2
    assert what in lines[0]
    assert fix in lines[1]


@pytest.mark.parametrize(
    ("argument", "is_choice"),
    [
        ("method=a,b", True),
        ("method=glob(*)", True),
        ("method=kangaroo", False),
        ("method.tree=[[0],[0,0]]", False),
        ("seed=1,2", False),
        ("--config-dir", False),
    ],
)
def test_only_a_choice_of_methods_is_kept_from_hydra(argument: str, is_choice: bool) -> None:
    chosen, rest = split_choice(["-m", argument])
    assert (chosen is not None) == is_choice
    assert rest == (["-m"] if is_choice else ["-m", argument])
