"""Guesses of later layers' experts: how they are counted, stored, printed and drawn, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.errors import UserError
from bench.report.exchange.choice import named_tables
from bench.report.routing import by_distance, routing_chapters
from bench.routing.cli import main
from bench.routing.measure import Choices, decoded, guesses_of, named, shared
from bench.routing.records import (
    CHANGE,
    PREVIOUS,
    ROUTER,
    Guesses,
    Routing,
    load_routing,
    routing_rows,
    save_routing,
)
from bench.runtime.decoder import Decoder
from bench.runtime.experts.placement import mixtures_of
from bench.runtime.experts.prediction import LaterRouter, LowRankMap
from methods.core.autoregressive import Autoregressive
from tests.command import run_command
from tests.methods.small import SPARSE, prompt, random_decoder, run

ROUTING = Routing(
    model="tiny_moe",
    identity={"weights": "abc", "dtype": "float32", "prompts": 2},
    layers=(0, 2, 4),
    experts=8,
    top_k=2,
    candidates=2,
    rows=10,
    changes={"2": {"ahead": 2, "rank": 16, "data": "some dialogues", "recipe": {"steps": 60}}},
    guesses=(
        Guesses(ROUTER, 0, 2, 20, 18),
        Guesses(ROUTER, 2, 4, 20, 16),
        Guesses(ROUTER, 0, 4, 20, 11),
        Guesses(CHANGE, 0, 4, 20, 15),
        Guesses(PREVIOUS, 0, 2, 20, 10),
        Guesses(PREVIOUS, 2, 4, 20, 4),
        Guesses(PREVIOUS, 0, 4, 20, 4),
    ),
)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return random_decoder(SPARSE)


def test_shares_are_pooled_over_the_pairs_of_a_distance_counted_in_layers_with_experts() -> None:
    assert routing_rows(ROUTING)[1:] == [
        ("1", "85.0%", "-", "35.0%", "25.0%"),
        ("2", "55.0%", "75.0%", "20.0%", "25.0%"),
    ]


def test_an_expert_counts_once_for_each_row_that_chose_it() -> None:
    truth, guess = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[1, 0, 5], [3, 4, 5]])
    assert shared(truth, guess) == 3


def test_what_is_watched_is_what_plain_decoding_chose(decoder: Decoder) -> None:
    answer = decoded(decoder, prompt(), 8)
    assert sorted(answer) == sorted(mixtures_of(decoder))
    for layer, choices in answer.items():
        assert choices.chosen.shape == (7, 2)  # one row per decode pass; the prefill gave the first token
        own = named(mixtures_of(decoder)[layer], choices.hidden, decoder.config.norm_eps, 2)
        assert own.sort(dim=-1).values.tolist() == choices.chosen.tolist()
    plain = Autoregressive()
    plain.attach(decoder)
    before = run(plain, prompt(), new=8).ids
    decoded(decoder, prompt(), 8)
    assert run(plain, prompt(), new=8).ids == before  # the model itself keeps its experts


def test_guesses_are_those_that_the_stores_would_load(decoder: Decoder) -> None:
    answer = decoded(decoder, prompt(), 8)
    mixtures, eps = mixtures_of(decoder), decoder.config.norm_eps
    router, hits = LaterRouter(mixtures, eps, ahead=2, experts=2), 0
    for row, chosen in enumerate(answer[3].chosen[1:].tolist(), start=1):
        loaded = router.after(1, (), answer[1].hidden[row : row + 1])  # of layer 3
        hits += sum((3, expert) in loaded for expert in chosen)
    found = [guess for guess in guesses_of(decoder, [answer], {}, 2) if guess.guesser == ROUTER]
    (pair,) = [guess for guess in found if (guess.layer, guess.later) == (1, 3)]
    assert (pair.needed, pair.named) == (12, hits)


def test_the_previous_token_is_the_row_before(decoder: Decoder) -> None:
    chosen = torch.tensor([[0, 1], [0, 2], [0, 2], [1, 3]])
    answer = {layer: Choices(chosen, torch.randn(4, 32)) for layer in mixtures_of(decoder)}
    found = [guess for guess in guesses_of(decoder, [answer], {}, 2) if guess.guesser == PREVIOUS]
    assert {(guess.needed, guess.named) for guess in found} == {(6, 3)}  # 0, then 0 and 2, then none


def test_a_change_of_nothing_guesses_as_the_router_alone(decoder: Decoder) -> None:
    answer = decoded(decoder, prompt(), 8)
    nothing = LowRankMap(torch.zeros(32, 1), torch.zeros(1, 32), torch.zeros(32))
    found = guesses_of(decoder, [answer], {(0, 2): nothing}, 2)
    by_guesser = {guess.guesser: guess.named for guess in found if (guess.layer, guess.later) == (0, 2)}
    assert by_guesser[CHANGE] == by_guesser[ROUTER]
    assert sum(guess.guesser == CHANGE for guess in found) == 1


def test_naming_every_expert_is_always_right(decoder: Decoder) -> None:
    answer = decoded(decoder, prompt(), 6)
    found = [guess for guess in guesses_of(decoder, [answer], {}, 4) if guess.guesser == ROUTER]
    assert all(guess.named == guess.needed for guess in found)


def test_a_record_reads_back_and_is_named_after_its_identity(tmp_path: Path) -> None:
    path = save_routing(tmp_path, ROUTING)
    assert path.parent == tmp_path / "routing"
    assert load_routing(path) == ROUTING
    assert save_routing(tmp_path, replace(ROUTING, identity={"weights": "def"})) != path


@pytest.mark.parametrize("text", ["", "[]", '{"schema_version": 1}', '{"schema_version": 99}'])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError):
        load_routing(path)


def test_a_record_is_a_chapter_with_a_table_and_a_figure(tmp_path: Path) -> None:
    save_routing(tmp_path, ROUTING)
    save_routing(tmp_path / "published", ROUTING)
    ((_, table),) = named_tables(tmp_path / "published", "routing")
    assert table.header[0] == "layers ahead"
    published, own = routing_chapters(tmp_path)
    assert published.anchor + "-own" == own.anchor
    assert published.remarks[-1] == "Changes for 2 layers ahead: rank 16, 60 steps on some dialogues."
    (part,) = published.parts
    assert part.tables[0].rows[0] == ("1", "85.0%", "-", "35.0%", "25.0%")
    (axes,) = by_distance(ROUTING).axes
    lines = {str(line.get_label()): list(line.get_xdata()) for line in axes.lines}
    assert lines[ROUTER] == [1, 2]
    assert lines[CHANGE] == [2]


def test_the_command_prints_the_table_and_stores_the_record(tmp_path: Path) -> None:
    done = run_command(main, "prompts=2", "tokens=6", f"results_dir={tmp_path}")
    assert done.returncode == 0
    (path,) = (tmp_path / "routing").glob("tiny_moe-*.json")
    stored = json.loads(path.read_text())
    assert stored["rows"] == 2 * 4
    assert list(stored["changes"]) == ["2"]
    assert f"stored in {path}" in done.stdout
    assert "8 decoded tokens" in done.stdout


def test_two_folders_for_one_distance_are_a_mistake(tmp_path: Path) -> None:
    folder = "package:bench/assets/tiny_moe/modules/m2r2_moe"
    done = run_command(main, f"changes=['{folder}','{folder}']", f"results_dir={tmp_path}")
    assert done.returncode == 2
    assert "both trained for ahead=2" in done.stderr


def test_a_model_without_experts_is_a_mistake(tmp_path: Path) -> None:
    done = run_command(main, "model=tiny", "changes=[]", f"results_dir={tmp_path}")
    assert done.returncode == 2
    assert "no mixtures of experts" in done.stderr
