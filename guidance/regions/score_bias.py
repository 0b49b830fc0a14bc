"""What regions do to attention scores: DenseDiffusion, Paint-with-Words and what lies between, as one family.

With M (queries x regions: how much of a query's token is a region's) and T (keys x regions: whose a key is):

    s'_ij = (1 - temperature * a_i) s_ij + unit_i * sum_r W_ir T_jr,    a_i = sum_r W_ir
    W_ir = strength * (1 - area_weight * S_i) * M_ir * region strength_r,    S_i = sum_r M_ir * covered_r

covered_r is the share of the picture that region r covers; with S_i as DenseDiffusion's code has it for soft masks.

T is 1 for a region's own keys, 0 for others, and with `outside_weight` negative for the words of other regions. Text
tokens of no region are lifted so that they keep `free_weight` of what they lose to the others (`free_lift`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...attention.chunked_softmax import head_chunks, score_chunks
from ...attention.tensor_layout import precision
from .augmented_attention import LowRankScores, score_range

SCORE_UNITS = ("range", "row max", "row std", "max", "std", "hard")
HARD = 1e3  # in scores: what does not match has no weight left, and half precision holds it times a root of channels
MAX_TEMPERATURE = 0.95  # at 1 the plain scores would be gone, beyond it they would turn around
# So many of its standard deviations are the range of a row's scores in the demo model where regions steer it: 6 tuning
# layouts, 20 steps, to the middle of the schedule. By layer 4.0 to 5.2 in self-attention, 4.5 to 5.6 between picture
# and words. Of normally distributed scores there are 4.8 for 77 keys, 5.7 for 256, 7.2 for 4096.
SELF_RANGE, TEXT_RANGE = 4.6, 5.0
MIN_VARIANCE = 1e-12  # a root has no gradient at 0
LIFT_BYTES = 2**21  # scores of picture and words at a time on a CPU, where smaller pieces take more time than they save


@dataclass(frozen=True)
class RegionBias:
    """One member of the family.

    score_unit: what the bias is counted in: each row's range of scores, each row's largest score, each row's standard
    deviation (which needs no pass over the scores), or as known ports have it the largest score or the standard
    deviation of the whole call (then results depend on batch neighbors); "hard" lets queries of a region see nothing
    but the keys of the region, if it has any, however strong it is: its tokens are `whole_tokens`.
    temperature: 1 pushes what does not match down as far as what matches up (DenseDiffusion), 0 leaves it.
    area_weight: how much a region's size weakens it. background: pixels of no region are one of their own, without
    words. outside_weight: how much of the bias pushes the words of other regions down, in pixels of no region those of
    all regions. free_weight: how much text tokens of no region keep of their share of attention where regions fill the
    picture, and less in proportion where they leave room: 0 lets the regions' words drown them. key_stride: the range
    is looked for among every n-th key only.
    """

    score_unit: str = "range"
    temperature: float = 1.0
    area_weight: float = 1.0
    background: bool = True
    outside_weight: float = 0.0
    free_weight: float = 0.0
    key_stride: int = 1


def with_background(shares: Tensor) -> Tensor:
    """Append the column of what no region has: [..., regions] -> [..., regions + 1]."""
    return torch.cat([shares, 1 - shares.sum(dim=-1, keepdim=True).clamp(max=1)], dim=-1)


def whole_tokens(shares: Tensor, peaks: Tensor) -> Tensor:
    """M of hard regions, 0 or 1: a token is wholly of the region that has most of it, of equal ones the last, if that
    is at least half of the most that the region has anywhere. With parts of tokens, a query would see only the keys
    with the largest share.

    shares: M [n, tokens, regions]; peaks: the largest value of every region's mask [n, regions].
    """
    count = shares.shape[-1]
    owner = count - 1 - shares.flip(-1).argmax(dim=-1)  # the first of equal ones is found
    enough = (shares >= 0.5 * peaks[:, None]) & (shares > 0)
    return torch.nn.functional.one_hot(owner, count).to(shares.dtype) * enough


def word_factors(keys: Tensor, outside_weight: float, strengths: Tensor | None = None) -> Tensor:
    """T for words, with a column for pixels of no region: [words, regions] -> [words, regions + 1]. strengths: of the
    regions [regions], None for 1: words of a weak one are pushed down as weakly outside as they are lifted inside."""
    owned = (keys if strengths is None else keys * strengths.clamp(max=1)).amax(dim=-1, keepdim=True)
    others = (owned - keys).clamp_min(0)
    return torch.cat([keys - outside_weight * others, -outside_weight * owned], dim=-1)


def weigh(shares: Tensor, strengths: Tensor, covered: Tensor, strength: float, area_weight: float) -> Tensor:
    """W, what every query gets of every region's bias: [batch, queries, regions]. shares: M, of that shape; strengths
    [regions]; covered [batch, regions]: the part of the picture that each region has."""
    area = (shares * covered[:, None]).sum(dim=-1, keepdim=True)
    return strength * (1 - area_weight * area) * shares * strengths


def bias_scores(q: Tensor, k: Tensor, scale: float, weights: Tensor, keys: Tensor, amount: Tensor, op: RegionBias,
                bias: Tensor | None = None) -> LowRankScores:  # fmt: skip
    """The bias on one call. q, k: [batch, heads, tokens, dim]; weights: W [batch, queries, regions]; keys: T [batch or
    1, keys, regions]; amount: a [batch, queries]; bias: the call's own mask as a bias.

    Hard pushes what does not match down instead of what matches up: within a softmax it is the same, but half precision
    keeps the scores that are left, and in joint attention text and image keep their shares.
    """
    amount, height = amount[:, None], unit_height(q, k, scale, op, bias)
    keep = 1 - (op.temperature * amount).clamp(max=MAX_TEMPERATURE) if op.temperature else None
    if op.temperature or op.score_unit == "hard":
        largest = MAX_TEMPERATURE if op.temperature else 1.0
        height = (largest / amount.clamp_min(1e-12)).clamp(max=1) * height  # of what is asked for
    if op.score_unit == "hard":
        keys = keys - (keys > 0).any(dim=-2, keepdim=True).to(keys.dtype)
    return LowRankScores(keep, height[..., None] * weights[:, None], keys)


class FreeKeys(NamedTuple):
    """Which text keys are tokens of no region. chosen: [keys], 1 for them. order: [keys], their places last, after
    those of the `others`."""

    chosen: Tensor
    order: Tensor
    others: int


def free_keys(chosen: Tensor) -> FreeKeys:
    """chosen: [keys], 1 for tokens of no region, else 0."""
    return FreeKeys(chosen, chosen.argsort(stable=True), int((chosen == 0).sum()))


def free_lift(
    q: Tensor, k: Tensor, scale: float, changed: LowRankScores, free: FreeKeys, keep: Tensor, bias: Tensor | None = None
) -> Tensor:
    """What has to be added to the scores of tokens of no region so that they keep a part of their share of attention:
    [batch, heads, queries], never negative.

    With p the share that they had and o' the odds that `changed` leaves them, log(keep p / (1 - keep p)) - log o'.
    keep: [batch, queries], 0..1. Other arguments as for `bias_scores`; `changed` adds nothing to these tokens.
    """
    k, bias = k[:, :, free.order], None if bias is None else bias[..., free.order]
    others = slice(0, free.others)
    factor = changed.key_factor[:, free.order[others]].expand(len(q), -1, -1).mT
    query_factor = changed.query_factor.expand(*q.shape[:3], -1)
    lift = torch.empty(q.shape[:3], device=q.device, dtype=precision(q))
    chunk_bytes = LIFT_BYTES if q.device.type == "cpu" else None
    for at, scores in score_chunks(q, k, scale, bias, chunk_bytes):
        added = query_factor[at].to(lift) @ factor[at.sample].to(lift)
        free_before, others_before = scores[..., free.others :].logsumexp(-1), scores[..., others].logsumexp(-1)
        free_after = free_before
        if changed.scale is not None:
            scores = scores * changed.scale.expand(q.shape[:3])[at][..., None]
            free_after = scores[..., free.others :].logsumexp(-1)
        others_after = (scores[..., others] + added).logsumexp(-1)
        had = (free_before - others_before).sigmoid() * keep[at.sample, at.rows]
        lift[at] = had.logit(eps=1e-7) - (free_after - others_after)
    return lift.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp_min(0)


def unit_height(q: Tensor, k: Tensor, scale: float, op: RegionBias, bias: Tensor | None = None) -> Tensor:
    """How high a full bias is, in scores: [batch, heads, queries] or a scalar, never negative."""
    if op.score_unit == "hard":
        return q.new_full((), HARD, dtype=torch.float32)
    if op.score_unit == "std":
        return scores_std(q, k, scale, bias)
    if op.score_unit == "row std":
        return row_std(q, k, scale, bias)
    scores = score_range(q, k, scale, bias, op.key_stride)
    if op.score_unit == "range":
        height = scores.largest - scores.smallest
    else:
        height = (scores.largest if op.score_unit == "row max" else scores.largest.amax()).clamp_min(0)
    return height.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)  # where a mask hides all keys there is nothing to lift


def row_std(q: Tensor, k: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """Standard deviation of every query's scores over the keys that it sees, without the scores: [batch, heads,
    queries], from sqrt(q^T Cov(k) q) * scale. Hidden keys do not count; no key at all is nearly 0.

    bias: added to the scores, [batch or 1, heads or 1, queries or 1, keys]; only one that differs from query to query
    needs a pass over the scores.
    """
    if bias is not None and bias.shape[2] > 1:
        return _row_std_of_scores(q, k, scale, bias)
    head_bytes = 3 * q.shape[0] * max(q.shape[2], k.shape[2]) * q.shape[3] * torch.finfo(precision(q)).bits // 8
    parts = [
        _row_std(q[:, heads], k[:, heads], scale, bias if bias is None or bias.shape[1] == 1 else bias[:, heads])
        for heads in head_chunks(q.device.type, q.shape[1], head_bytes)
    ]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def _row_std(q: Tensor, k: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    """The same of some heads. A bias per key is one more channel of k, which all queries see alike."""
    q, k = q.to(precision(q)), k.to(precision(k))
    if bias is None:
        k = k - k.mean(dim=2, keepdim=True)
        covariance = k.mT @ k / k.shape[2]
    else:
        bias = bias.to(k)[:, :, 0, :, None].expand(*k.shape[:3], 1)
        seen = (bias != float("-inf")).to(k)
        weight = seen / seen.sum(dim=2, keepdim=True).clamp_min(1)
        k = torch.cat([k, bias.masked_fill(seen == 0, 0.0)], dim=-1)
        q = torch.cat([q, q.new_full((1,), 1 / scale).expand(*q.shape[:3], 1)], dim=-1)
        k = k - (weight * k).sum(dim=2, keepdim=True)
        covariance = k.mT @ (weight * k)
    return ((q @ covariance) * q).sum(dim=-1).clamp_min(MIN_VARIANCE / scale**2).sqrt() * scale


def _row_std_of_scores(q: Tensor, k: Tensor, scale: float, bias: Tensor) -> Tensor:
    """The same where every query has its own bias."""
    variance = q.new_empty(q.shape[:3], dtype=precision(q))
    for at, scores in score_chunks(q, k, scale, bias):
        seen = scores != float("-inf")
        count = seen.sum(dim=-1, keepdim=True).clamp_min(1)
        scores = scores.masked_fill(~seen, 0.0)
        apart = (scores - scores.sum(dim=-1, keepdim=True) / count).masked_fill(~seen, 0.0)
        variance[at] = (apart.square() / count).sum(dim=-1)
    return variance.clamp_min(MIN_VARIANCE).sqrt()


def scores_std(q: Tensor, k: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """Standard deviation of all scores of a call, without the matrix: from centered moments of q and k.

    In float32, since some devices have no float64. With dq = q - mean q and dk = k - mean k, a head's scores are
    dq dk + mean_q dk + dq mean_k + mean_q mean_k, whose first three parts are uncorrelated. bias: as in `row_std`; with
    one, the scores are passed over, in pieces.
    """
    if bias is not None:
        return _std_of_seen_scores(q, k, scale, bias)
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


def _std_of_seen_scores(q: Tensor, k: Tensor, scale: float, bias: Tensor) -> Tensor:
    """The same where a bias is added; hidden keys do not count. The mean first, then what differs from it."""
    total, squares, count = (q.new_zeros((), dtype=precision(q)) for _ in range(3))
    for _, scores in score_chunks(q, k, scale, bias):
        seen = scores != float("-inf")
        total, count = total + scores.masked_fill(~seen, 0.0).sum(), count + seen.sum()
    mean = total / count.clamp_min(1)
    for _, scores in score_chunks(q, k, scale, bias):
        squares = squares + (scores - mean).masked_fill(scores == float("-inf"), 0.0).square().sum()
    return (squares / (count - 1).clamp_min(1)).clamp_min(MIN_VARIANCE).sqrt().float()
