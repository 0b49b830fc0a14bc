"""Distances between sets of pictures on feature vectors [n, d], and bootstrap intervals; numpy, float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray


def frechet(a: Array, b: Array) -> float:
    """Squared 2-Wasserstein distance of the Gaussians fitted to two sets (Heusel et al., arXiv 1706.08500, eq. 6).

    Biased upwards for few samples: compare only sets of the same size, and beside `kid`.
    """
    mean = a.mean(0) - b.mean(0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = _root(cov_a)
    cross = np.linalg.eigvalsh(root @ cov_b @ root).clip(0)
    return float(mean @ mean + np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(cross).sum())


def _root(matrix: Array) -> Array:
    """Symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def kid(a: Array, b: Array) -> float:
    """Unbiased squared maximum mean discrepancy, kernel (x y / d + 1)^3 (Binkowski et al., arXiv 1801.01401)."""
    inside_a, inside_b, across = (_kernel(x, y) for x, y in ((a, a), (b, b), (a, b)))
    n, m = len(a), len(b)
    same = (inside_a.sum() - np.trace(inside_a)) / (n * (n - 1)) + (inside_b.sum() - np.trace(inside_b)) / (m * (m - 1))
    return float(same - 2 * across.mean())


def _kernel(a: Array, b: Array) -> Array:
    return (a @ b.T / a.shape[1] + 1) ** 3


def precision_recall(made: Array, real: Array, neighbors: int = 3) -> tuple[float, float]:
    """Share of made pictures inside the real manifold, and the reverse (Kynkaanniemi et al., arXiv 1904.06991).

    A manifold is the union of balls around its points that reach to their k-th neighbor.
    """
    return _inside(made, real, neighbors), _inside(real, made, neighbors)


def _inside(points: Array, manifold: Array, neighbors: int) -> float:
    radii = np.partition(_distances(manifold, manifold), neighbors, axis=1)[:, neighbors]  # 0 is the point itself
    return float((_distances(points, manifold) <= radii).any(axis=1).mean())


def _distances(a: Array, b: Array) -> Array:
    square = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.sqrt(square.clip(0))


def bootstrap(statistic: Callable[[Array], float], count: int, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of statistic(indices) over resampled indices; the same seed draws the same, so cells stay paired.

    The draws' spread around the value itself: distances between sets grow when members repeat, so the draws lie beside
    the value, and only how far they lie apart tells something.
    """
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(count, size=count)) for _ in range(draws)]
    low, high = statistic(np.arange(count)) + np.quantile(values, (0.025, 0.975)) - np.mean(values)
    return float(low), float(high)


def with_interval(statistic: Callable[[Array], float], count: int, draws: int = 2000, digits: int = 4) -> list[float]:
    """statistic of all indices and its 95 % interval, rounded."""
    return rounded((statistic(np.arange(count)), *bootstrap(statistic, count, draws)), digits)


def mean(values: Sequence[float] | Array, digits: int = 4) -> list[float]:
    """Mean of independent samples [n] and its 95 % interval, rounded. Of samples that are all 0 or 1 it is the score
    interval of their share: where all are alike, drawing among them says that nothing else can happen."""
    known = np.asarray(values, dtype=float)
    if np.isin(known, (0.0, 1.0)).all():
        return rounded(wilson(int(known.sum()), len(known)), digits)
    return difference(known, digits)


def difference(values: Sequence[float] | Array, digits: int = 4) -> list[float]:
    """The same of paired differences [n], by bootstrap."""
    known = np.asarray(values, dtype=float)
    return with_interval(lambda i: float(known[i].mean()), len(known), digits=digits)


def wilson(wins: int, count: int, z: float = 1.96) -> tuple[float, float, float]:
    """A share of `count` (at least 1) with its score interval (Wilson, 1927)."""
    share, spread = wins / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return share, max(0.0, middle - half), min(1.0, middle + half)


def rounded(values: Sequence[float] | Array, digits: int = 4) -> list[float]:
    return [round(float(v), digits) for v in values]
