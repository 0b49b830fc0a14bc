"""Attention scores changed by regions, without a matrix of scores: s' = keep * s + bias * (M T^t).

DenseDiffusion (arXiv 2308.12964) pushes matching pairs to their row's largest score and all others to its smallest.
Up to a constant per row, which the softmax drops, that is a temperature per query and a bias on matching pairs:

    s'_ij = (1 - a_i) s_ij + a_i (max_i - min_i) R_ij,    R = M T^t

with a column per region in M (queries) and T (keys). So it is plain attention on longer vectors, q' = [keep q, bias M]
and k' = [k, T]: exact on any backend, and no N x N tensor exists.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from ...attention.chunked_softmax import head_chunks, score_chunks
from ...attention.head_widths import padded_width
from ...attention.run import Attention
from ...attention.tensor_layout import head_width, precision, split_heads, split_key_heads


class LowRankScores(NamedTuple):
    """What to do to the scores of one call: s'_ij = scale_i s_ij + sum_c query_factor_ic key_factor_jc.

    scale: [batch, heads or 1, queries]; None: 1. query_factor: [batch, heads or 1, queries, columns]; key_factor:
    [batch or 1, keys, columns].
    """

    scale: Tensor | None
    query_factor: Tensor
    key_factor: Tensor

    def of_heads(self, heads: slice) -> LowRankScores:
        """What is done to the scores of some heads."""
        scale, query_factor = (t if t is None or t.shape[1] == 1 else t[:, heads] for t in self[:2])
        return LowRankScores(scale, query_factor, self.key_factor)


class Range(NamedTuple):
    """Largest and smallest score of every query row: [batch, heads, queries]."""

    largest: Tensor
    smallest: Tensor


def score_range(
    q: Tensor, k: Tensor, scale: float, bias: Tensor | None = None, every: int = 1, chunk_bytes: int | None = None
) -> Range:
    """Range of q k^T * scale over the keys of each row, in chunks of rows. q, k: [batch, heads, tokens, dim].

    bias: added to the scores, [batch, heads or 1, queries or 1, keys]; keys at -inf do not count. every: look at every
    n-th key only, which underestimates the range a little (16 % at 8 for normally distributed scores). Differentiable:
    where gradients are on, they go to the two keys that have each row's largest and smallest score.
    """
    k = k[:, :, ::every]
    bias = None if bias is None else bias[..., ::every]
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad):
        return Range(*(_scores_at(q, k, scale, bias, keys) for keys in _extreme_keys(q, k, scale, bias, chunk_bytes)))
    dtype = precision(q)
    largest, smallest = (q.new_empty(q.shape[:3], dtype=dtype) for _ in range(2))
    with torch.no_grad():
        for at, scores in score_chunks(q, k, scale, bias, chunk_bytes):
            if bias is None:
                smallest[at], largest[at] = torch.aminmax(scores, dim=-1)
            else:
                largest[at] = scores.amax(dim=-1)
                smallest[at] = scores.masked_fill(scores == float("-inf"), float("inf")).amin(dim=-1)
    return Range(largest, smallest)


@torch.no_grad()
def _extreme_keys(
    q: Tensor, k: Tensor, scale: float, bias: Tensor | None, chunk_bytes: int | None
) -> tuple[Tensor, Tensor]:
    """Index of the key with each row's largest and smallest score."""
    largest, smallest = (q.new_empty(q.shape[:3], dtype=torch.long) for _ in range(2))
    for at, scores in score_chunks(q, k, scale, bias, chunk_bytes):
        largest[at] = scores.argmax(dim=-1)
        smallest[at] = scores.masked_fill(scores == float("-inf"), float("inf")).argmin(dim=-1)
    return largest, smallest


def _scores_at(q: Tensor, k: Tensor, scale: float, bias: Tensor | None, keys: Tensor) -> Tensor:
    """The score of every query with one key. keys: [batch, heads, queries]."""
    dtype = precision(q)
    chosen = k.gather(2, keys[..., None].expand(-1, -1, -1, k.shape[-1]))
    scores = (q.to(dtype) * chosen.to(dtype)).sum(dim=-1) * scale
    if bias is None:
        return scores
    return scores + bias.expand(*q.shape[:3], -1).gather(3, keys[..., None])[..., 0]


def augment(
    q: Tensor, k: Tensor, v: Tensor, scores: LowRankScores, scale: float | None, for_kernels: bool = False,
    heads_first: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """q, k, v [batch, heads, tokens, dim] with the regions' columns, padded to a multiple of 8 channels.

    scale: what the backend will multiply scores with; None: one over the root of the channels that it is given.
    for_kernels: pad to a width that kernels of other nodes take, too (head_widths.py). heads_first: how the results lie
    in memory; else tokens come before heads, for backends that want them so. The columns are balanced, equal in size on
    both sides and repeated in the padding, so that backends which quantize q and k lose little. The result's first
    `dim` channels are the attention's.
    """
    dim, columns = q.shape[-1], scores.query_factor.shape[-1]
    width = padded_width(dim + columns, for_kernels)
    plain = dim**-0.5 if scale is None else scale
    backend = width**-0.5 if scale is None else scale
    dtype = precision(q)
    copies = (width - dim) // columns
    left = scores.query_factor.to(dtype) / (backend * copies)
    # The size of a column on both sides. It cancels out, so gradients need not know how it was found.
    side = torch.linalg.vector_norm(left.detach(), float("inf"), dim=-2, keepdim=True).sqrt_().clamp_min_(1e-12)
    left, right = left / side, side * scores.key_factor.to(dtype)[:, None]
    kept = plain / backend if scores.scale is None else scores.scale.to(dtype)[..., None] * (plain / backend)

    def extend(tensor: Tensor, extra: Tensor | None = None) -> Tensor:
        """The columns behind the channels of a tensor, as often as they fit, and zeros up to the width."""
        shape = tensor.shape[:-1]
        parts = [tensor] if extra is None else [tensor, *[extra.to(tensor.dtype).expand(*shape, columns)] * copies]
        if rest := width - sum(part.shape[-1] for part in parts):
            parts.append(tensor.new_zeros(1).expand(*shape, rest))
        if heads_first:
            return torch.cat(parts, dim=-1)
        return torch.cat([part.transpose(1, 2) for part in parts], dim=-1).transpose(1, 2)

    return extend((q.to(dtype) * kept).to(q.dtype), left), extend(k, right), extend(v)


def attend(
    q: Tensor, k: Tensor, v: Tensor, heads_first: bool, heads: int, scale: float | None, attention: Attention,
    scores: LowRankScores, whole: bool = False, for_kernels: bool = False,
) -> Tensor:  # fmt: skip
    """Modulated attention through the user's backend, a few heads at a time: the longer copies stay small.

    q, k, v as the network gave them: [batch, tokens, heads * dim], or [batch, heads, tokens, dim] if heads_first.
    whole: all heads in one call, for backends that others have wrapped. for_kernels: as in `augment`. Returns [batch,
    tokens, heads * dim].
    """
    dim = head_width(q, heads, heads_first)
    width = padded_width(dim + scores.query_factor.shape[-1], for_kernels)
    q = split_heads(q, heads, heads_first)
    k, v = (split_key_heads(t, heads, dim, heads_first) for t in (k, v))

    def part(chosen: slice) -> Tensor:
        """Some heads' result: [batch, tokens, heads, dim]."""
        long_q, long_k, long_v = augment(
            q[:, chosen], k[:, chosen], v[:, chosen], scores.of_heads(chosen), scale, for_kernels, heads_first
        )
        count = long_q.shape[1]
        if not heads_first:
            long_q, long_k, long_v = (rearrange(t, "b h n d -> b n (h d)") for t in (long_q, long_k, long_v))
        return attention(long_q, long_k, long_v, count).unflatten(-1, (count, width))[..., :dim]

    # Of a head's longer q and result, and of its longer k and v.
    head_bytes = 2 * q.shape[0] * (q.shape[2] + k.shape[2]) * width * q.element_size()
    chunks = [slice(0, heads)] if whole else head_chunks(q.device.type, heads, head_bytes)
    if len(chunks) == 1:
        return part(chunks[0]).flatten(2)
    result = q.new_empty(q.shape[0], q.shape[2], heads, dim)
    for chosen in chunks:
        result[:, :, chosen] = part(chosen)
    return result.flatten(2)
