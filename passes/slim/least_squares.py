"""Linear maps by ridge least squares, from moments that are gathered in float64 as data streams by."""

from __future__ import annotations

import dataclasses

import numpy as np

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Penalties that `fit` chooses from, each a share of the mean square of the regressors."""

_ROWS = 1024
"""Rows of one product in float32; the sums over products are float64."""


@dataclasses.dataclass
class Moments:
    """Sums over rows of regressors x and targets y.

    Attributes:
        count: rows.
        x: (n,) sum of x.
        y: (m,) sum of y.
        xx: (n, n) sum of x xᵀ.
        xy: (n, m) sum of x yᵀ.
        yy: sum of the squares of y.
    """

    count: int
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: float

    @classmethod
    def empty(cls, regressors: int, targets: int) -> Moments:
        """Moments of no rows."""
        return cls(
            0,
            np.zeros(regressors),
            np.zeros(targets),
            np.zeros((regressors, regressors)),
            np.zeros((regressors, targets)),
            0.0,
        )

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Count rows in: x (rows, n), y (rows, m), both of floats."""
        x, y = x.astype(np.float32, copy=False), y.astype(np.float32, copy=False)
        self.count += len(x)
        self.x += x.sum(0, dtype=np.float64)
        self.y += y.sum(0, dtype=np.float64)
        self.yy += float(np.square(y, dtype=np.float64).sum())
        for start in range(0, len(x), _ROWS):
            part = x[start : start + _ROWS]
            self.xx += part.T @ part
            self.xy += part.T @ y[start : start + _ROWS]

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            *(getattr(self, field.name) + getattr(other, field.name) for field in dataclasses.fields(self))
        )

    def centred(self) -> Moments:
        """The same rows with the mean of x and of y taken off."""
        count = max(self.count, 1)
        return Moments(
            self.count,
            np.zeros_like(self.x),
            np.zeros_like(self.y),
            self.xx - np.outer(self.x, self.x) / count,
            self.xy - np.outer(self.x, self.y) / count,
            self.yy - float(self.y @ self.y) / count,
        )

    def of(self, regressors: np.ndarray) -> Moments:
        """The moments with only these regressors, indices into x."""
        return dataclasses.replace(
            self,
            x=self.x[regressors],
            xx=self.xx[np.ix_(regressors, regressors)],
            xy=self.xy[regressors],
        )

    def error(self, weight: np.ndarray) -> float:
        """The sum of squares of y - weightᵀ x, for weight (n, m)."""
        return self.yy - 2.0 * float((weight * self.xy).sum()) + float((weight * (self.xx @ weight)).sum())


class Gathering:
    """Rows on their way into moments, some hundred at a time: a product of few rows is slow.

    Args:
        moments: they know all rows once `finish` was called.
    """

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._rows = 0

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Count rows in, as `Moments.add` does; the arrays may be changed afterwards."""
        self._waiting.append((np.array(x, np.float32), np.array(y, np.float32)))
        self._rows += len(x)
        if self._rows >= _ROWS:
            self.finish()

    def finish(self) -> Moments:
        """Count in what waits; the moments of all rows."""
        if self._waiting:
            self.moments.add(*(np.concatenate(arrays) for arrays in zip(*self._waiting, strict=True)))
        self._waiting, self._rows = [], 0
        return self.moments


@dataclasses.dataclass(frozen=True)
class Fit:
    """A linear map y = weightᵀ x + bias.

    Attributes:
        weight: (n, m) float64.
        bias: (m,) float64; zeros where none was to be fitted.
        error: mean square of what it leaves of y, over rows and entries, on the rows that it was fitted to.
        ridge: the penalty, of `RIDGES`.
    """

    weight: np.ndarray
    bias: np.ndarray
    error: float
    ridge: float


def ridge_map(moments: Moments, prior: np.ndarray, ridge: float, *, intercept: bool = True) -> Fit:
    """The map of the least squares error plus a penalty on how far it goes from a prior map.

    minimise  sum |y - Wᵀx - b|² + ridge · mean square of x · rows · |W - prior|²

    Without rows, and where ridge is without bound, it is the prior.

    Args:
        moments: of the rows.
        prior: (n, m), where the weight stays as far as the rows do not say otherwise.
        ridge: the penalty, a share of the mean square of the regressors.
        intercept: whether there is a bias to fit.
    """
    central = moments.centred() if intercept else moments
    size = len(prior)
    scale = float(np.trace(central.xx)) / max(size, 1)
    if scale <= 0.0:
        weight = prior.astype(np.float64)
    else:
        damped = central.xx + ridge * scale * np.eye(size)
        weight = prior + np.linalg.solve(damped, central.xy - central.xx @ prior)
    bias = (moments.y - moments.x @ weight) / max(moments.count, 1) if intercept else np.zeros(len(moments.y))
    numbers = max(moments.count * len(moments.y), 1)
    return Fit(weight, bias, max(central.error(weight), 0.0) / numbers, ridge)


def fit(parts: tuple[Moments, Moments], prior: np.ndarray, *, intercept: bool = True) -> Fit:
    """`ridge_map` of all rows, with the ridge of `RIDGES` that does best from either part to the other.

    Args:
        parts: rows of different samples, so that what a ridge does on new samples is seen.
        prior: (n, m), as for `ridge_map`.
        intercept: whether there is a bias to fit.
    """
    one, other = parts
    losses = []
    for ridge in RIDGES:
        losses.append(
            _unseen(other, ridge_map(one, prior, ridge, intercept=intercept))
            + _unseen(one, ridge_map(other, prior, ridge, intercept=intercept))
        )
    best = RIDGES[int(np.argmin(losses))]
    return ridge_map(one + other, prior, best, intercept=intercept)


def _unseen(moments: Moments, found: Fit) -> float:
    """The sum of squares that a map leaves on rows it was not fitted to."""
    left = moments.y - found.weight.T @ moments.x
    return (
        moments.error(found.weight)
        - 2.0 * float(found.bias @ left)
        + moments.count * float(found.bias @ found.bias)
    )
