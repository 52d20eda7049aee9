import pytest

from bench.compose.schema import plain_name, run_id
from bench.errors import UserError
from bench.records.model import SCHEMA_VERSION, Arm, Generation, Prompt, Round, Run, Sample, Timing

EOS = 2


def chain(accepted: int, drafted: int = 4) -> Round:
    return Round(drafted=drafted, accepted=accepted, emitted=accepted + 1, depth=drafted, stop="length")


def test_a_prompt_needs_text_in_every_turn() -> None:
    with pytest.raises(ValueError, match="turns must hold text"):
        Prompt("q1", "qa", ("hello", "  "))


@pytest.mark.parametrize(
    ("drafted", "accepted", "emitted", "depth"),
    [
        pytest.param(2, 3, 4, 2, id="more accepted than drafted"),
        pytest.param(2, 1, 3, 2, id="more emitted than accepted plus one"),
        pytest.param(4, 3, 4, 2, id="accepted path longer than the tree is deep"),
        pytest.param(2, 1, 2, 3, id="deeper than it has nodes"),
        pytest.param(2, -1, 0, 2, id="negative"),
    ],
)
def test_a_round_refuses_impossible_counts(drafted: int, accepted: int, emitted: int, depth: int) -> None:
    with pytest.raises(ValueError, match=r"need 0 <=|at most accepted \+ 1"):
        Round(drafted, accepted, emitted, depth, "length")


def test_a_generation_is_the_prefill_token_plus_what_rounds_emit() -> None:
    with pytest.raises(ValueError, match="emitted 4 tokens, the output holds 3"):
        Generation((5, 6, 7), (chain(2),))


@pytest.mark.parametrize(
    ("ids", "budget", "kept_ids", "kept_emitted"),
    [
        pytest.param((5, 6, 7, 8, 9), 9, (5, 6, 7, 8, 9), [3, 1], id="nothing to cut"),
        pytest.param((5, 6, 7, 8, 9), 3, (5, 6, 7), [2], id="budget inside the first round"),
        pytest.param(
            (5, 6, 7, 8, 9), 4, (5, 6, 7, 8), [3], id="budget at a round's end drops the next round"
        ),
        pytest.param((5, 6, EOS, 8, 9), 9, (5, 6, EOS), [2], id="end token is kept, the rest is not"),
        pytest.param((EOS, 6, 7, 8, 9), 9, (EOS,), [], id="end token from the prefill"),
        pytest.param((5, 6, 7, 8, 9), 1, (5,), [], id="budget of one"),
    ],
)
def test_cut_ends_at_the_first_end_token_or_the_budget(
    ids: tuple[int, ...], budget: int, kept_ids: tuple[int, ...], kept_emitted: list[int]
) -> None:
    got = Generation(ids, (chain(2), chain(0))).cut(budget, frozenset({EOS}))
    assert got.ids == kept_ids
    assert [step.emitted for step in got.rounds] == kept_emitted


def test_a_cut_round_keeps_the_work_it_did() -> None:
    (cut,) = Generation((5, 6, 7, 8), (chain(2),)).cut(2, frozenset()).rounds
    assert (cut.drafted, cut.accepted, cut.emitted) == (4, 2, 1)


def test_host_time_is_what_no_phase_claims() -> None:
    assert Timing(0.1, 1.0, {"draft": 0.25, "verify": 0.5}, 1.0).host_s == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("error", "ids"),
    [
        pytest.param(None, (), id="neither an error nor a measurement"),
        pytest.param("out of memory", (1,), id="a failure with numbers"),
    ],
)
def test_a_sample_is_a_measurement_or_a_failure(error: str | None, ids: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must hold ids and timing|must be empty"):
        Sample("q1", "qa", 0, 0, Arm.METHOD, 0, ids=ids, error=error)


def test_prompt_turn_repeat_and_arm_make_a_sample_unique() -> None:
    sample = Sample("q1", "qa", 1, 2, Arm.METHOD, 0, error="out of memory")
    assert sample.key == ("q1", 1, 2, "method")


def test_a_run_knows_its_schema_version() -> None:
    assert Run("id", "kangaroo", "qa", "tiny", {}, {}).schema_version == SCHEMA_VERSION


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("my model", "my-model"),
        ("epoch=3-step=10", "epoch-3-step-10"),
        ("modèle", "modele"),
        ("模型", "model"),
    ],
)
def test_any_folder_gives_a_name(folder: str, name: str) -> None:
    assert plain_name(folder) == name
    assert run_id("kangaroo", "qa", plain_name(folder), {}).startswith(f"kangaroo-qa-{name}-")


def test_the_refusal_of_a_name_proposes_another() -> None:
    with pytest.raises(UserError, match="model name 'my model' cannot") as refused:
        run_id("kangaroo", "qa", "my model", {})
    assert "model.name=my-model" in refused.value.fix
