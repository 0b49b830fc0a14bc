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
