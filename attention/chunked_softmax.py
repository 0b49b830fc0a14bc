"""Sums over attention maps that are never stored: how much a token is looked at (SAG, arXiv 2210.00939, section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .tensor_layout import precision

CHUNK_BYTES = 3 * 2**20  # largest size of the one buffer of attention scores that is alive at a time


MIN_BYTES = 2**18  # smaller ones cost time and save nothing worth having


@torch.no_grad()
def column_sums(
    q: Tensor,
    k: Tensor,
    scale: float | None = None,
    bias: Tensor | None = None,
    columns: slice = slice(None),
    chunk_bytes: int | None = None,
) -> Tensor:
    """Head-mean column sums of softmax(q k^T * scale + bias): a_j = sum_i mean_h A[h, i, j].

    q: [batch, heads, queries, dim]; k: [batch, heads or fewer (grouped queries), keys, dim]; bias broadcasts to
    [batch, heads, queries, keys]. scale defaults to dim^-0.5. Returns [batch, keys in `columns`]; over all keys its
    mean is queries / keys. The softmax is over all keys always. Computed in float32 (float64 for float64 input).
    """
    sums = q.new_zeros(q.shape[0], len(range(k.shape[2])[columns]), dtype=precision(q))
    for part in _softmax(q, k, scale, bias, chunk_bytes):
        sums[part.sample] += torch.bmm(part.inverse.transpose(1, 2), part.exponentials[..., columns]).sum(dim=(0, 1))
    return sums / q.shape[1]


@torch.no_grad()
def row_shares(
    q: Tensor,
    k: Tensor,
    columns: Tensor,
    scale: float | None = None,
    bias: Tensor | None = None,
    chunk_bytes: int | None = None,
) -> Tensor:
    """How much of its attention every query gives to some keys: r_i = sum_{j in columns} mean_h A[h, i, j].

    Arguments as for `column_sums`; columns: indices of keys. Returns [batch, queries], 0..1.
    """
    shares = q.new_zeros(q.shape[:1] + q.shape[2:3], dtype=precision(q))
    for part in _softmax(q, k, scale, bias, chunk_bytes):
        given = part.exponentials[..., columns].sum(dim=-1, keepdim=True) * part.inverse
        shares[part.sample, part.rows] += given.sum(dim=(0, 2))
    return shares / q.shape[1]


class _Part(NamedTuple):
    """Some heads' and some rows' softmax of one sample: exponentials [heads, rows, keys], inverse of their row sums."""

    sample: int
    rows: slice
    exponentials: Tensor
    inverse: Tensor


def _softmax(
    q: Tensor, k: Tensor, scale: float | None, bias: Tensor | None, chunk_bytes: int | None
) -> Iterator[_Part]:
    """The whole attention map piece by piece: a few heads or query rows at a time.

    So memory is bounded by `chunk_bytes` (never less than one row of scores), whatever the number of tokens. None: one
    percent of a sample's map, within bounds.
    """
    batch, heads, queries, dim = q.shape
    keys, dtype = k.shape[2], precision(q)
    scale = dim**-0.5 if scale is None else scale
    row_bytes = keys * torch.finfo(dtype).bits // 8
    if chunk_bytes is None:
        chunk_bytes = min(max(heads * queries * row_bytes // 100, MIN_BYTES), CHUNK_BYTES)
    rows = max(1, min(queries, chunk_bytes // row_bytes))
    together = max(1, chunk_bytes // (row_bytes * queries))  # heads whose whole score matrix fits
    if k.shape[1] != heads:
        k = k.repeat_interleave(heads // k.shape[1], dim=1)
    if bias is not None:
        bias = bias.expand(batch, heads, queries, keys)
    for b in range(batch):
        for head in range(0, heads, together):
            k_part = k[b, head : head + together].to(dtype).transpose(1, 2)
            for start in range(0, queries, rows):
                chosen = slice(start, start + rows)
                scores = torch.bmm(q[b, head : head + together, chosen].to(dtype) * scale, k_part)
                if bias is not None:
                    scores += bias[b, head : head + together, chosen]
                scores -= scores.amax(dim=-1, keepdim=True)
                scores.exp_()
                yield _Part(b, chosen, scores, scores.sum(dim=-1, keepdim=True).reciprocal_())
