"""A made-up machine that decodes an arena, or the old design of one run per method, with faults on request.

Log seconds per token of an arm are: minus its log speed, minus the question's effect on it (none on the
baselines), plus its share of the machine's drift and of the session's offset, plus noise. The true speed of
an arm is its speed at the mean state of the machine.

Shapes: A arms, Q questions, S sessions, R repeats.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from bench.compose.cells import order_of
from bench.metrics.controls import Order
from bench.metrics.intervals import Costs, Floats
from tests.metrics.old_design import Totals

BASELINES = ("baseline", "control")


@dataclass(frozen=True)
class Machine:
    """What is simulated.

    Args:
        speeds: True speed of each method relative to the baselines.
        question_spread: Standard deviation over questions of a method's log speed, independent for each..
        tail: Shape of that: "normal", "t3" (heavy on both sides) or "skewed" (log-normal).
        length_spread: Standard deviation over questions of the log of an answer's length in tokens.
        noise: Standard deviation of a decode's log time.
        drift: Range of the drift of a session in log time, peak to peak.
        session_spread: Standard deviation of a session's mean log time.
        slow_second: Extra log time of every second decode of a baseline, in the order of time; or one for
            each session.
        slow_follower: Extra log time of whatever follows the first method.
    """

    speeds: tuple[float, ...] = (1.5, 1.5)
    questions: int = 20
    sessions: int = 1
    repeats: int = 2
    question_spread: float = 0.15
    tail: str = "normal"
    length_spread: float = 0.5
    noise: float = 0.03
    drift: float = 0.28
    session_spread: float = 0.0
    slow_second: float | tuple[float, ...] = 0.0
    slow_follower: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        return BASELINES + tuple(f"method{i}" for i in range(len(self.speeds)))


def arena(machine: Machine, seed: int) -> tuple[Costs, Order]:
    """One run of the new design: all arms in each cell, in the order of the Latin square."""
    rng = np.random.default_rng(seed)
    arms, questions, sessions, repeats = _sizes(machine)
    place, before = _orders(seed % 8, arms, questions, sessions, repeats)
    cell = np.arange(questions * repeats).reshape(questions, 1, repeats)
    when = np.broadcast_to(
        (cell + place / arms) / cell.size, place.shape
    )  # share of the session that has gone
    share = _shares(rng, len(machine.speeds))[:, None, None, None]  # [A, 1, 1, 1]
    offset = machine.session_spread * rng.standard_normal(sessions)[:, None]  # [S, 1]
    state = np.stack([_drift(rng, machine, when[:, :, session]) for session in range(sessions)], axis=2)
    logs = _question_effects(rng, machine)[:, :, None, None] + share * (state + offset)
    logs = logs + machine.noise * rng.standard_normal(place.shape)
    is_later = place[:2] > place[1::-1]
    logs[:2] += np.reshape(machine.slow_second, (-1, 1)) * is_later
    logs += machine.slow_follower * (before == 2)
    tokens = np.broadcast_to(_tokens(rng, machine)[:, None, None], place.shape)
    started_s = (when + 10 * np.arange(sessions)[:, None]) * 3600
    return Costs(machine.names, np.exp(logs) * tokens, tokens), Order(place, before, started_s)


def apart(machine: Machine, seed: int) -> list[tuple[Totals, Totals]]:
    """The old design: for each method, baseline and method of a run of its own, in the order A B, B A.

    The runs follow one another through one session, whose drift each sees only a part of.
    """
    rng = np.random.default_rng(seed)
    questions, methods = machine.questions, len(machine.speeds)
    effects, shares = _question_effects(rng, machine), _shares(rng, methods)
    tokens = np.broadcast_to(_tokens(rng, machine)[:, None], (questions, 2))
    turn = np.arange(questions)[:, None] + np.array([[0, 0.75], [0.25, 0.5]])[:, None]  # [2, Q, R]
    when = (np.arange(methods)[:, None, None, None] + turn / questions) / methods  # [N, 2, Q, R]
    state = _drift(rng, machine, when)
    noise = machine.noise * rng.standard_normal(state.shape)
    noise[:, 0, :, 1] += machine.slow_second
    runs = []
    for index in range(methods):
        logs = state[index] * shares[[0, 2 + index], None, None] + noise[index]
        logs = logs + effects[[0, 2 + index]][:, :, None]
        seconds = np.exp(logs) * tokens
        runs.append((Totals(seconds[0], tokens), Totals(seconds[1], tokens)))
    return runs


def _sizes(machine: Machine) -> tuple[int, int, int, int]:
    return len(machine.names), machine.questions, machine.sessions, machine.repeats


def _shares(rng: np.random.Generator, methods: int) -> Floats:
    """How much of the machine's drift each arm feels [A]: all for the baselines, 0.6 to 0.8 for methods."""
    return np.concatenate([[1.0, 1.0], rng.uniform(0.6, 0.8, methods)])


def _question_effects(rng: np.random.Generator, machine: Machine) -> Floats:
    """Log seconds per token of each arm on each question at the mean state of the machine [A, Q]."""
    shape = len(machine.speeds), machine.questions
    draws = {
        "normal": lambda: rng.standard_normal(shape),
        "t3": lambda: rng.standard_t(3, shape) / np.sqrt(3),
        "skewed": lambda: (np.exp(0.6 * rng.standard_normal(shape)) - np.exp(0.18)) / 0.788,
    }[machine.tail]()
    methods = -np.log(machine.speeds)[:, None] - machine.question_spread * draws
    return np.concatenate([np.zeros((2, machine.questions)), methods])


def _tokens(rng: np.random.Generator, machine: Machine) -> Floats:
    """Tokens of each answer: most of middle length, a few long [Q]."""
    return np.ceil(60 * np.exp(machine.length_spread * rng.standard_normal(machine.questions)))


def _drift(rng: np.random.Generator, machine: Machine, when: Floats) -> Floats:
    """Slow drift at each moment of one session (0 to 1): a random part of a wave, of mean 0 over it."""
    moments = np.linspace(0, 1, 201)
    periods, phase = rng.uniform(0.5, 1.0), rng.uniform(0, 2 * np.pi)
    wave = np.sin(2 * np.pi * periods * moments + phase)
    return machine.drift * (np.interp(when, moments, wave) - wave.mean()) / np.ptp(wave)


@cache
def _orders(
    seed: int, arms: int, questions: int, sessions: int, repeats: int
) -> tuple[np.ndarray, np.ndarray]:
    """Place and arm before of each arm in each cell, [A, Q, S, R] each; cells go question by question."""
    place = np.zeros((arms, questions, sessions, repeats), dtype=np.int64)
    before = np.full_like(place, -1)
    for session in range(sessions):
        last = -1
        for cell in range(questions * repeats):
            for position, arm in enumerate(order_of(seed + 100 * session, cell, arms)):
                where = arm, cell // repeats, session, cell % repeats
                place[where], before[where], last = position, last, arm
    return place, before
