"""The search for sub-layers to skip: which set is tried next, which set is kept, when the search ends.

The search knows neither models nor decoding; its caller scores the sets. Most tries are random, every
`bayes_interval`-th is suggested by Bayesian optimisation over all scores so far (SWIFT, arXiv 2410.06916,
section 4.1). That needs the package scikit-learn, installed by the extra ``search``.

Shapes: n candidate sub-layers, m of them skipped.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.runtime.decoder import Skip
from methods.skipping.sublayer_skip import skip_of

if TYPE_CHECKING:
    from sklearn.gaussian_process import GaussianProcessRegressor

_DRAWS, _STARTS = 10_000, 10
"""Random points whose bound is looked at for a suggestion, and how many of the best are climbed from."""
_STEP = 1e-7
"""Distance of the neighbours that a slope is made of."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Sub-layers that may be skipped: the attention of layers ``first .. stop - 1``, then their MLPs."""

    first: int
    stop: int

    @classmethod
    def of(cls, depth: int, *, keep_first_last: bool) -> Candidates:
        """The candidates of a model with `depth` layers; the first and the last layer can be left out."""
        return cls(1, max(1, depth - 1)) if keep_first_last else cls(0, depth)

    @property
    def count(self) -> int:
        """Number of candidates (n)."""
        return 2 * (self.stop - self.first)

    def number(self, ratio: float) -> int:
        """Number of sub-layers to skip at a ratio (m), rounded down."""
        return int(self.count * ratio)

    def skip(self, chosen: Iterable[int]) -> Skip:
        """The set that skips the candidates with these indices."""
        width = self.stop - self.first
        indices = list(chosen)
        return skip_of(
            (self.first + index for index in indices if index < width),
            (self.first + index - width for index in indices if index >= width),
        )

    def indicator(self, skip: Skip) -> NDArray[np.float64]:
        """1 where a set skips a candidate, else 0, shape [n]."""
        layers = range(self.first, self.stop)
        flags = [layer in skip.attention for layer in layers] + [layer in skip.mlp for layer in layers]
        return np.array(flags, dtype=np.float64)

    def odd_layers(self) -> Skip:
        """Both sub-layers of every odd layer among the candidates: SWIFT's first set."""
        odd = [layer for layer in range(self.first, self.stop) if layer % 2]
        return skip_of(odd, odd)


@dataclass(frozen=True, slots=True)
class SearchRules:
    """How a search tries sets and when it ends.

    Args:
        bayes_interval: Every `bayes_interval`-th try is suggested by the optimiser; 0 makes all tries random.
        max_iter: The search ends after more tries than this.
        max_tol: It ends after more tries in a row than this without a better set.
        max_score: It ends as soon as the kept set scores above this.
        kappa: Weight of uncertainty in the optimiser's upper confidence bound.
        noise: Variance of a score about its expectation, for the optimiser.
        score_start: Score the start set first. False counts it as 0, so the first try replaces it.
        carry_best: Keep the score of the kept set. False scores it anew after `next_prompt`, so that sets are
            compared on the same prompt.
        seed: Seed of tries and suggestions.
    """

    bayes_interval: int = 25
    max_iter: int = 1000
    max_tol: int = 300
    max_score: float = 0.95
    kappa: float = 2.5
    noise: float = 1e-2
    score_start: bool = True
    carry_best: bool = False
    seed: int = 2024

    def __post_init__(self) -> None:
        for name, least in (("bayes_interval", 0), ("max_iter", 0), ("max_tol", 0), ("kappa", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.noise <= 0:
            raise ValueError(f"noise must be above 0, got {self.noise}")


class SkipSearch:
    """A search, one step at a time.

    Args:
        candidates: What may be skipped.
        start: The first set, of any size.
        number: Sub-layers that every try skips (m).
        rules: How to try and when to end.

    Attributes:
        best: The best set so far.
        score: Its score; None if it must be scored first.
        tries: Number of sets tried, not counting the start set.
        is_on: Whether the search goes on.

    Raises:
        UserError: If the rules use the optimiser and scikit-learn is not installed.
        ValueError: If there is only one set of this size.
    """

    def __init__(self, candidates: Candidates, start: Skip, number: int, rules: SearchRules) -> None:
        if not 0 < number < candidates.count:
            raise ValueError(f"a search skips 1..{candidates.count - 1} sub-layers, got {number}")
        self._candidates, self._number, self._rules = candidates, number, rules
        self._random = np.random.default_rng(rules.seed)
        self._bayes = _Bayes(candidates.count, rules) if rules.bayes_interval else None
        self._fruitless = 0
        self.best = start
        self.score: float | None = None if rules.score_start else 0.0
        self.tries = 0
        self.is_on = True

    def next_prompt(self) -> None:
        """From now on scores are measured on the tokens of another prompt."""
        if not self._rules.carry_best and (self.tries or self._rules.score_start):
            self.score = None

    def step(self, rate: Callable[[Skip], float]) -> None:
        """Score one set with `rate` and keep it if it is better; the kept set itself if it has no score yet.

        Raises:
            RuntimeError: If the search has ended.
        """
        if not self.is_on:
            raise RuntimeError(f"the search ended after {self.tries} tries")
        if self.score is None:
            self.score = rate(self.best)
            self._note(self._candidates.indicator(self.best), self.score)
        else:
            self._try(rate, self.score)
        if self.score > self._rules.max_score and (self.tries or self._rules.score_start):
            self.is_on = False

    def _try(self, rate: Callable[[Skip], float], score_to_beat: float) -> None:
        point = self._propose()
        skip = self._candidates.skip(_largest(point, self._number))
        score = rate(skip)
        self._note(point, score)
        self.tries += 1
        if score > score_to_beat:
            self.best, self.score, self._fruitless = skip, score, 0
        else:
            self._fruitless += 1
        if self._fruitless > self._rules.max_tol or self.tries > self._rules.max_iter:
            self.is_on = False

    def _propose(self) -> NDArray[np.float64]:
        """The next point of ``[0, 1] ** n``; the candidates with its m largest coordinates are skipped."""
        if self._bayes is not None and (self.tries + 1) % self._rules.bayes_interval == 0:
            return self._bayes.suggest()
        chosen = self._random.choice(self._candidates.count, self._number, replace=False)
        return self._candidates.indicator(self._candidates.skip(chosen.tolist()))

    def _note(self, point: NDArray[np.float64], score: float) -> None:
        if self._bayes is not None:
            self._bayes.register(point, score)


def _largest(point: NDArray[np.float64], number: int) -> list[int]:
    """Indices of the largest coordinates; the lowest index on ties."""
    chosen: list[int] = np.argsort(-point, kind="stable")[:number].tolist()
    return chosen


class _Bayes:
    """Upper-confidence-bound suggestions from a Gaussian process over ``[0, 1] ** n``.

    The process and the way its bound is maximised, from the best of many random points uphill, are those of
    the package bayesian-optimization, which SWIFT's authors use. The package asks for the bound of one point
    at a time, which takes seconds of CPU per suggestion; here the points that a slope is made of are asked
    for at once.
    """

    def __init__(self, count: int, rules: SearchRules) -> None:
        self._process = _process(rules)
        self._count, self._kappa = count, rules.kappa
        self._random = np.random.default_rng(rules.seed)
        self._points: list[NDArray[np.float64]] = []
        self._scores: list[float] = []

    def register(self, point: NDArray[np.float64], score: float) -> None:
        """Add a score; a point may have several."""
        self._points.append(point)
        self._scores.append(score)

    def suggest(self) -> NDArray[np.float64]:
        """The point to score next, shape [n]; refits the Gaussian process to everything registered."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a length scale at its limit: few scores say little
            self._process.fit(np.array(self._points), np.array(self._scores))
        draws = self._random.random((_DRAWS, self._count))
        starts = draws[np.argsort(-self._bounds(draws), kind="stable")[:_STARTS]]
        ends = np.array([self._uphill(start) for start in starts])
        best: NDArray[np.float64] = ends[self._bounds(ends).argmax()]
        return best

    def _bounds(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Upper confidence bounds [points] of points [points, n]."""
        mean, deviation = self._process.predict(points, return_std=True)
        bounds: NDArray[np.float64] = mean + self._kappa * deviation
        return bounds

    def _uphill(self, start: NDArray[np.float64]) -> NDArray[np.float64]:
        """The point where climbing from `start` ends."""
        from scipy.optimize import minimize

        limits = [(0.0, 1.0)] * self._count
        end: NDArray[np.float64] = minimize(
            self._depth_and_slope, start, jac=True, bounds=limits, method="L-BFGS-B"
        ).x
        return end

    def _depth_and_slope(self, point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """The negative bound of a point and its slope, from one prediction of the point and n neighbours."""
        here, *there = -self._bounds(np.vstack([point, point + _STEP * np.eye(self._count)]))
        return float(here), (np.array(there) - here) / _STEP


def _process(rules: SearchRules) -> GaussianProcessRegressor:
    """A Gaussian process with the settings of bayesian-optimization.

    Raises:
        UserError: If scikit-learn is not installed.
    """
    try:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import Matern
    except ImportError as error:
        raise UserError(
            "the search for skipped sub-layers needs the package scikit-learn",
            "pip install 'self-speculative-bench[search]'; or set method.bayes_interval=0 to draw at random",
        ) from error
    return GaussianProcessRegressor(
        kernel=Matern(nu=2.5),
        alpha=rules.noise,
        normalize_y=True,
        n_restarts_optimizer=5,
        random_state=rules.seed,
    )
