"""What regions do to attention scores: DenseDiffusion, Paint-with-Words and what lies between, as one family.

With M (queries x regions: how much of a query's token is a region's) and T (keys x regions: whose a key is):

    s'_ij = (1 - temperature * a_i) s_ij + a_i * measure_i * sum_r M_ir T_jr
    a_i = strength * sum_r M_ir * region strength_r * (1 - area * share of the picture that region r covers)

T is 1 for a region's own keys, 0 for others, and with `against` negative for the words of other regions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...attention.tensor_layout import precision
from .augmented_attention import LowRankScores, score_range

SCORE_UNITS = ("range", "row max", "max", "std", "hard")
OF_THE_CALL = ("max", "std")  # one number for all heads and rows of a call
HARD = 1e3  # in scores: what does not match has no weight left, and half precision holds it times a root of channels
MAX_TEMPERATURE = 0.95  # at 1 the plain scores would be gone, beyond it they would turn around


@dataclass(frozen=True)
class RegionBias:
    """One member of the family.

    measure: what the bias is counted in: each row's range of scores, each row's largest score, or as known ports have
    it the largest score or the standard deviation of the whole call (then results depend on batch neighbors); "hard"
    lets queries of a region see nothing but the keys of the region, if it has any.
    temperature: 1 pushes what does not match down as far as what matches up (DenseDiffusion), 0 leaves it.
    area: how much a region's size weakens it. background: pixels of no region are one of their own, without a phrase.
    against: how much of the bias pushes the words of other regions down, in pixels of no region those of all regions.
    sampled: the range is looked for among every n-th key only.
    """

    measure: str = "range"
    temperature: float = 1.0
    area: float = 1.0
    background: bool = True
    against: float = 0.0
    sampled: int = 1


def with_background(shares: Tensor) -> Tensor:
    """Append the column of what no region has: [..., regions] -> [..., regions + 1]."""
    return torch.cat([shares, 1 - shares.sum(dim=-1, keepdim=True).clamp(max=1)], dim=-1)


def words_of(keys: Tensor, against: float) -> Tensor:
    """T for words, with a column for pixels of no region: [words, regions] -> [words, regions + 1]."""
    others = (keys.sum(dim=-1, keepdim=True).clamp(max=1) - keys).clamp_min(0)
    return torch.cat([keys - against * others, -against * keys.amax(dim=-1, keepdim=True)], dim=-1)


def amounts(shares: Tensor, strengths: Tensor, covered: Tensor, strength: float, area: float) -> Tensor:
    """a_i of every query: [batch, queries]. shares [batch, queries, regions]; strengths [regions]; covered [batch,
    regions]: the part of the picture that each region has."""
    return strength * (shares * (strengths * (1 - area * covered))[:, None]).sum(dim=-1)


def pull(q: Tensor, k: Tensor, scale: float, queries: Tensor, keys: Tensor, amount: Tensor, op: RegionBias,
         bias: Tensor | None = None) -> LowRankScores:  # fmt: skip
    """The operator on one call. q, k: [batch, heads, tokens, dim]; queries: M [batch, queries, regions]; keys: T [batch
    or 1, keys, regions]; amount: a [batch, queries]; bias: the call's own mask as a bias.

    Hard pushes what does not match down instead of what matches up: within a softmax it is the same, but half precision
    keeps the scores that are left, and in joint attention text and image keep their shares.
    """
    amount = amount[:, None]
    keep = 1 - (op.temperature * amount).clamp(max=MAX_TEMPERATURE) if op.temperature else torch.ones_like(amount)
    largest = MAX_TEMPERATURE if op.temperature else 1.0 if op.measure == "hard" else float("inf")
    unit = amount.clamp(max=largest)
    if op.measure == "hard":
        keys = keys - (keys > 0).any(dim=-2, keepdim=True).to(keys.dtype)
    height = unit * measure(q, k, scale, op, bias)
    return LowRankScores(keep, height[..., None] * queries[:, None], keys)


def measure(q: Tensor, k: Tensor, scale: float, op: RegionBias, bias: Tensor | None = None) -> Tensor:
    """How high a full bias is, in scores: [batch, heads, queries] or a scalar, never negative."""
    if op.measure == "hard":
        return q.new_full((), HARD, dtype=torch.float32)
    if op.measure == "std":
        return scores_std(q, k, scale)
    found = score_range(q, k, scale, bias, op.sampled)
    if op.measure == "range":
        return found.largest - found.smallest
    largest = found.largest if op.measure == "row max" else found.largest.amax()
    return largest.clamp_min(0)


def scores_std(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """Standard deviation of all scores of a call, without the matrix: from centered moments of q and k.

    In float32, since some devices have no float64. With dq = q - mean q and dk = k - mean k, a head's scores are
    dq dk + mean_q dk + dq mean_k + mean_q mean_k, whose first three parts are uncorrelated.
    """
    q, k = q.to(precision(q)) * scale, k.to(precision(k))
    mean_q, mean_k = q.mean(dim=2, keepdim=True), k.mean(dim=2, keepdim=True)
    dq, dk = q - mean_q, k - mean_k
    means = (mean_q * mean_k).sum(dim=(-2, -1))
    pairs = (dq.mT @ dq / q.shape[2] * (dk.mT @ dk / k.shape[2])).sum(dim=(-2, -1))  # the mean of (dq_i dk_j)^2
    rows = (dq @ mean_k.mT).square().mean(dim=(-2, -1))
    columns = (mean_q @ dk.mT).square().mean(dim=(-2, -1))
    variance = (pairs + rows + columns).mean() + means.var(correction=0)
    count = means.numel() * q.shape[2] * k.shape[2]
    return (variance * count / max(count - 1, 1)).clamp_min(0).sqrt().float()
