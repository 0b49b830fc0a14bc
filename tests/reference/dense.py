"""DenseDiffusion's and Paint-with-Words' attention as published, slow and with every matrix written out."""

from __future__ import annotations

import torch
from torch import Tensor


def dense_diffusion(
    q: Tensor, k: Tensor, v: Tensor, scale: float, pairs: Tensor, area: Tensor, amount: float
) -> Tensor:
    """q, k, v [heads, tokens, dim]; pairs R [queries, keys]; area S [queries]: what share of the picture is the
    query's segment's, 1 switches a row off; amount: lambda(t) * w. Returns [heads, queries, dim]."""
    out = torch.empty(q.shape[0], q.shape[1], v.shape[2], dtype=q.dtype)
    for head in range(q.shape[0]):
        for i in range(q.shape[1]):
            s = torch.stack([(q[head, i] * k[head, j]).sum() * scale for j in range(k.shape[1])])
            up, down = s.max() - s, s - s.min()
            s = s + amount * (1 - area[i]) * (pairs[i] * up - (1 - pairs[i]) * down)
            out[head, i] = (s.softmax(0)[:, None] * v[head]).sum(0)
    return out


def paint_with_words(
    q: Tensor, k: Tensor, v: Tensor, scale: float, pairs: Tensor, weight: float, sigma: float
) -> Tensor:
    """softmax((q k^T + w A) / sqrt(d)) v with w = w' log(1 + sigma) max(q k^T), the maximum over the whole call."""
    s = torch.einsum("hid,hjd->hij", q, k)
    bias = weight * torch.log(torch.tensor(1 + sigma, dtype=q.dtype)) * s.max().clamp_min(0) * pairs
    return ((s + bias) * scale).softmax(-1) @ v


def row_spread(q: Tensor, k: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """Standard deviation of each row's scores over the keys that it sees, one row at a time. q, k: [batch, heads,
    tokens, dim]; bias: [batch, heads, queries, keys], -inf hides. Returns [batch, heads, queries]."""
    spread = torch.zeros(q.shape[:3], dtype=q.dtype)
    for sample in range(q.shape[0]):
        for head in range(q.shape[1]):
            for row in range(q.shape[2]):
                scores = k[sample, head] @ q[sample, head, row] * scale
                if bias is not None:
                    scores = scores + bias[sample, head, row]
                scores = scores[scores > float("-inf")]
                if len(scores):
                    spread[sample, head, row] = ((scores - scores.mean()) ** 2).mean().sqrt()
    return spread


def dense_diffusion_by_spread(
    q: Tensor, k: Tensor, v: Tensor, scale: float, pairs: Tensor, area: Tensor, amount: float
) -> Tensor:
    """DenseDiffusion's (1 - a) s + a (max s - min s) R with a row's standard deviation in place of its range. Arguments
    as for `dense_diffusion`."""
    s = torch.einsum("hid,hjd->hij", q, k) * scale
    a = (amount * (1 - area))[None, :, None]
    return ((1 - a) * s + a * s.std(-1, correction=0, keepdim=True) * pairs).softmax(-1) @ v
