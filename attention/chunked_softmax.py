"""Sums over attention maps that are never stored: how much a token is looked at (SAG, arXiv 2210.00939, section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from .tensor_layout import for_all_heads, precision

MIN_BYTES = 2**18  # smaller pieces cost time and save nothing worth having
MAX_CPU_BYTES = 3 * 2**20  # with it, a call needs little more memory than plain attention
MAX_GPU_BYTES = 2**28  # a GPU waits for kernels to be launched where pieces are small


class Chunk(NamedTuple):
    """A piece of all attention scores: some heads and some query rows of one sample, with all keys."""

    sample: int
    heads: slice
    rows: slice


def chunk_bytes_for(device_type: str, map_bytes: int, free_bytes: int) -> int:
    """How large a piece of scores may be. map_bytes: of one sample's whole map. free_bytes: of the device's memory.

    On a CPU one percent of the map, within bounds; elsewhere a quarter of what is free, at most MAX_GPU_BYTES: 8 pieces
    for a layer of Flux at 1024 pixels, 24 for one of Qwen-Image at 1328.
    """
    if device_type == "cpu":
        return min(max(map_bytes // 100, MIN_BYTES), MAX_CPU_BYTES)
    return max(min(free_bytes // 4, MAX_GPU_BYTES), MIN_BYTES)


def plan_chunks(batch: int, heads: int, queries: int, row_bytes: int, chunk_bytes: int) -> list[Chunk]:
    """All pieces, in order; each of at most `chunk_bytes`, but at least one row of scores (`row_bytes`)."""
    together = max(1, chunk_bytes // (row_bytes * queries))  # heads whose whole score matrix fits
    rows = max(1, min(queries, chunk_bytes // row_bytes))
    return [
        Chunk(sample, slice(head, min(head + together, heads)), slice(start, min(start + rows, queries)))
        for sample in range(batch)
        for head in range(0, heads, together)
        for start in range(0, queries, rows)
    ]


def head_chunks(device_type: str, heads: int, head_bytes: int) -> list[slice]:
    """Heads in groups for which copies of tokens are made: a sixth of them at a time, or more where that is little.

    head_bytes: of the copies for a head.
    """
    few = MAX_CPU_BYTES if device_type == "cpu" else MAX_GPU_BYTES // 4
    together = max(1, heads // 6, few // max(head_bytes, 1))
    return [slice(start, min(start + together, heads)) for start in range(0, heads, together)]


def score_chunks(
    q: Tensor, k: Tensor, scale: float, bias: Tensor | None = None, chunk_bytes: int | None = None
) -> Iterator[tuple[Chunk, Tensor]]:
    """q k^T * scale + bias piece by piece: where it belongs, and the scores [heads, rows, keys], the caller's own.

    q: [batch, heads, queries, dim]; k: [batch, heads, keys, dim]; bias: [batch or 1, heads or 1, queries or 1, keys].
    In float32 (float64 for float64 input). chunk_bytes: the largest piece, by default what suits the device.
    """
    batch, heads, queries, _ = q.shape
    dtype = precision(q)
    row_bytes = k.shape[2] * torch.finfo(dtype).bits // 8
    if chunk_bytes is None:
        chunk_bytes = chunk_bytes_for(q.device.type, heads * queries * row_bytes, _free_bytes(q.device))
    if bias is not None:
        bias = bias.expand(batch, heads, queries, k.shape[2])
    plan = plan_chunks(batch, heads, queries, row_bytes, chunk_bytes)
    for (sample, together), chunks in groupby(plan, key=lambda chunk: (chunk.sample, chunk.heads)):
        keys = k[sample, together].to(dtype).transpose(1, 2)  # once for all rows: a copy where k is in half precision
        for chunk in chunks:
            scores = torch.bmm(q[chunk].to(dtype) * scale, keys)
            if bias is not None:
                scores += bias[chunk]
            yield chunk, scores


def _free_bytes(device: torch.device) -> int:
    """Free memory of a GPU; of other devices, whose drivers do not tell, a guess that is safe."""
    if device.type != "cuda":
        return 2**30
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by PyTorch, for whoever asks
    return torch.cuda.mem_get_info(device)[0] + held


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
    """The whole attention map piece by piece. k may have fewer heads (grouped queries)."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    k = for_all_heads(k, q.shape[1])
    for chunk, scores in score_chunks(q, k, scale, bias, chunk_bytes):
        scores -= scores.amax(dim=-1, keepdim=True)
        scores.exp_()
        yield _Part(chunk.sample, chunk.rows, scores, scores.sum(dim=-1, keepdim=True).reciprocal_())
