"""A method of somebody's own, in a folder of their own, gets every check by being there; and a broken one
fails the check that it should.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.methods import checks
from tests.methods.options import Subject, attached, options, settings_of
from tests.methods.test_every_run import Runs, report_rows

SOURCE = '''
"""Drafts one token by a small trained table of successors."""
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from bench.runtime.modules import load_provenance
from methods.core.acceptance import accept
from methods.core.base import Lossless
from methods.core.chain import DraftBuilder, generate_chain


class Table(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.successors = nn.Parameter(torch.randn(vocabulary, vocabulary))


class Trainer:
    def new_module(self, decoder):
        return Table(decoder.config.vocab)

    def taps(self, decoder):
        return ()

    def loss(self, module, rows, decoder):
        raise NotImplementedError

    def provenance(self, decoder):
        return {"method": "successors"}


class Successors(Lossless):
    def __init__(self, *, weights, draft_length, mistake=""):
        self.weights, self.draft_length, self.mistake = weights, draft_length, mistake

    def trainer(self):
        return Trainer()

    def attach(self, decoder):
        load_provenance(Path(self.weights), "successors")
        self.table = load_file(Path(self.weights) / "module.safetensors")["successors"]
        self.decoder = decoder

    def generate(self, prompt_ids, budget, sampler, clock):
        if self.mistake == "stops_early" and budget.max_new_tokens > 2:
            budget = type(budget)(budget.max_new_tokens - 1, budget.eos_ids)
        if self.mistake == "ends_before_the_end_token" and budget.eos_ids:
            budget = type(budget)(budget.max_new_tokens // 4, budget.eos_ids)
        rule = anything if self.mistake == "accepts_anything" else accept
        return generate_chain(self, self.decoder, prompt_ids, budget, sampler, clock, rule)

    def prefill(self, prompt_ids):
        return self.decoder.prefill(prompt_ids)

    def draft(self, root, base, room, sampler):
        chain, token = DraftBuilder(root, self.draft_length, room), root
        while chain.has_room:
            token = chain.propose(self.table[token], sampler)
        return chain.finish()

    def verify(self, root, draft, base):
        return self.decoder.step(torch.cat([root, draft.tokens]), base)

    def commit(self, emitted, base):
        if self.mistake == "loses_rows":
            self.decoder.cache.truncate(base)


def anything(tokens, probs, logits, sampler):
    return torch.cat([tokens, sampler.pick(logits[-1:])])
'''
YAML = """
_target_: own_successors.Successors
weights: ${model.modules}/successors
draft_length: 3
"""


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A configuration folder with two methods, whose package can be imported."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_successors.py").write_text(SOURCE)
    (folder / "conf" / "method" / "successors").mkdir(parents=True)
    (folder / "conf" / "method" / "successors.yaml").write_text(YAML)
    (folder / "conf" / "method" / "successors" / "long.yaml").write_text(
        "defaults: [/method/successors@_here_]\ndraft_length: 6\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder / "conf"
    sys.modules.pop("own_successors", None)


def found(conf: Path) -> str:
    """What ``--config-dir`` does."""
    return f"hydra.searchpath=[file://{conf}]"


def test_its_yaml_files_are_found(conf: Path) -> None:
    assert options(conf) == ["successors", "successors/long"]


def own(conf: Path, folder: Path, option: str, *overrides: str) -> Subject:
    return attached(settings_of(option, found(conf), *overrides).method, folder)[1]


@pytest.mark.parametrize("option", ["successors", "successors/long"])
def test_it_gets_every_check_of_its_output(option: str, conf: Path, tmp_path: Path) -> None:
    subject = own(conf, tmp_path, option)
    checks.check_greedy(subject)
    checks.check_sampling(subject)
    checks.check_budget(subject)
    checks.check_end(subject)
    checks.check_cache(subject)


def test_its_run_is_resumed_and_has_a_row_in_the_report(conf: Path, tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    resumed = checks.interrupt_and_resume(runs.settings("successors", found(conf)))
    checks.check_resumed(resumed)
    checks.check_row(resumed, report_rows(runs.results))


@pytest.mark.parametrize(
    ("mistake", "check"),
    [
        ("accepts_anything", checks.check_greedy),
        ("accepts_anything", checks.check_sampling),
        ("loses_rows", checks.check_greedy),
        ("stops_early", checks.check_budget),
        ("ends_before_the_end_token", checks.check_end),
    ],
)
def test_a_mistake_is_caught(
    mistake: str, check: Callable[[Subject], None], conf: Path, tmp_path: Path
) -> None:
    subject = own(conf, tmp_path, "successors", f"+method.mistake={mistake}")
    with pytest.raises((AssertionError, RuntimeError)):
        check(subject)
