"""What networks are compared by. Direction, unit and wording belong to the metric, not to the code that uses one.

Regressions are measured by sums over a split, of every target: of n answers y^ to y,

    n,   sum (y^ - y)^2,   sum |y^ - y|,   sum (y - m),   sum (y - m)^2

with any m near the mean of y, which no metric depends on, such as that of the training targets. Answers are examples,
or all valid steps of all sequences where there is one for every step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from s5c.errors import UserError, unknown

Sums = np.ndarray
"""(5, k), float64: the sums above, of each of k targets."""
COUNT, SQUARED, ABSOLUTE, CENTRED, SQUARE = range(5)


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: in columns and keys, as in `test_rmse`.
        words: in sentences and titles.
        higher: higher is better.
        share: a number that is 1 at best: told in percent, and differences in points. Otherwise in units of the
            targets, and differences in percent of what the network that is reduced has.
        of: the metric by sums (5, k); None where answers are classes.
        of_spread: it is relative to how much the targets vary, and says nothing where they do not.
    """

    name: str
    words: str
    higher: bool
    share: bool
    of: Callable[[Sums], float] | None = None
    of_spread: bool = False

    @property
    def factor(self) -> float:
        """From the stored number to the one that is told."""
        return 100 if self.share else 1

    @property
    def unit(self) -> str:
        """What stands behind the number."""
        return " %" if self.share else ""

    @property
    def points(self) -> str:
        """The unit of differences."""
        return "points" if self.share else "%"

    @property
    def direction(self) -> str:
        """Which way is better, in words."""
        return "higher is better" if self.higher else "lower is better"

    @property
    def heading(self) -> str:
        """The metric on the test split, with its unit, for a title."""
        return f"test {self.words}{', %' if self.share else ''}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that say how well a network answers, of which a stored one keeps a copy."""
        return f"val_{self.name}", "val_loss", f"test_{self.name}", "test_loss"

    def score(self, value: float) -> float:
        """Returns the number by which the best epoch is chosen: larger is better."""
        return value if self.higher else -value

    def change(self, full: float, now: float) -> float:
        """Returns how a network differs from the one it was made of, in `points`: above 0 where it is better."""
        if self.share:
            return 100 * (now - full)
        if full == 0:
            return 0.0 if now == 0 else -math.inf
        return 100 * (full - now) / full

    def lost(self, full: float, now: float) -> float:
        """Returns how much worse a network is than the one it was made of, in `points`."""
        return 100 * (full - now) if self.share else -self.change(full, now)

    def told(self, value: float) -> str:
        """Returns the metric of a network for a sentence."""
        return f"{self.words} {value:.2%}" if self.share else f"{self.words} {value:.4g}"

    def number(self, value: float) -> str:
        """Returns the number for a table, without its unit."""
        return f"{100 * value:.1f}" if self.share else f"{value:.4g}"


def _rmse(sums: Sums) -> float:
    return math.sqrt(float(sums[SQUARED].sum() / sums[COUNT].sum()))


def _mae(sums: Sums) -> float:
    return float(sums[ABSOLUTE].sum() / sums[COUNT].sum())


def _unexplained(sums: Sums) -> np.ndarray:
    """Returns sum (y^ - y)^2 / sum (y - mean)^2 of every target; NaN of one that does not vary."""
    spread = sums[SQUARE] - sums[CENTRED] ** 2 / sums[COUNT]
    varies = spread > 1e-12 * sums[SQUARE]
    return np.where(varies, sums[SQUARED], np.nan) / np.where(varies, spread, 1.0)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _r2(sums: Sums) -> float:
    return _mean(1 - _unexplained(sums))


def _fit(sums: Sums) -> float:
    return _mean(1 - np.sqrt(_unexplained(sums)))


ACCURACY = Metric("accuracy", "accuracy", higher=True, share=True)
REGRESSION = {
    metric.name: metric
    for metric in (
        # root mean square over all targets
        Metric("rmse", "RMSE", higher=False, share=False, of=_rmse),
        # mean over all targets
        Metric("mae", "MAE", higher=False, share=False, of=_mae),
        # 1 - sum (y^ - y)^2 / sum (y - mean)^2, mean over the targets
        Metric("r2", "R²", higher=True, share=True, of=_r2, of_spread=True),
        # 1 - |y^ - y| / |y - mean|, mean over the targets: the fit index of system identification (Ljung 1999, 16.4)
        Metric("fit", "fit", higher=True, share=True, of=_fit, of_spread=True),
    )
}
METRICS = {ACCURACY.name: ACCURACY, **REGRESSION}


def named(name: str, *, targets: bool) -> Metric:
    """Returns a metric by its name.

    Args:
        name: of the metric.
        targets: answers are real numbers; otherwise classes.

    Raises:
        UserError: there is none of that name, or it is one of other answers.
    """
    if name not in METRICS:
        raise unknown("metric", name, METRICS)
    if (name in REGRESSION) != targets:
        allowed = ", ".join(REGRESSION) if targets else ACCURACY.name
        raise UserError(
            f"task.metric={name} measures {'classes' if targets else 'targets'}, and this data has "
            f"{'targets' if targets else 'classes'}: give {allowed}, or leave it at auto."
        )
    return METRICS[name]


def sums_of(answers: Any, targets: Any, shift: Any, weights: Any, module: Any = np) -> Any:
    """Returns the sums of some answers.

    Args:
        answers: y^, (..., k).
        targets: y, (..., k).
        shift: m, (k,).
        weights: (...), 1 for an answer, 0 for what counts for nothing.
        module: NumPy, or JAX's of the same functions.

    Returns:
        Shape (..., 5, k): of every answer.
    """
    error, centred, counted = answers - targets, targets - shift, weights[..., None]
    parts = [module.ones_like(error), error**2, abs(error), centred, centred**2]
    return module.stack([module.where(counted > 0, part, 0) for part in parts], axis=-2)


def changed(metric: Metric, full: np.ndarray, now: np.ndarray) -> tuple[float, float]:
    """Returns how a network differs from another, in `points`, and the paired standard error of that.

    Args:
        metric: of regressions.
        full: sums of every example of the one, (n, 5, k).
        now: of the other, on the same examples.

    Returns:
        Change and its standard error over draws of the examples, by the jackknife: with theta_i the change without
        example i, ((n - 1) / n sum_i (theta_i - mean theta)^2)^(1/2) (Efron, Tibshirani 1993, (11.5)).
    """
    assert metric.of is not None
    whole = full.sum(0), now.sum(0)
    change = metric.change(metric.of(whole[0]), metric.of(whole[1]))
    n = len(full)
    if n < 2:
        return change, math.nan
    left = [metric.change(metric.of(whole[0] - a), metric.of(whole[1] - b)) for a, b in zip(full, now, strict=True)]
    return change, math.sqrt((n - 1) / n) * float(np.linalg.norm(np.array(left) - np.mean(left)))
