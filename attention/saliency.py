"""Self-attention saliency: how much every token is looked at (SAG, arXiv 2210.00939, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .run import Attention, AttentionCall, BlockId, Record, Row, Run, as_bias, split_heads

CHUNK_BYTES = 3 * 2**20  # size of the one buffer of attention scores that is alive at a time


@torch.no_grad()
def column_sums(
    q: Tensor, k: Tensor, scale: float | None = None, bias: Tensor | None = None, chunk_bytes: int = CHUNK_BYTES
) -> Tensor:
    """Head-mean column sums of softmax(q k^T * scale + bias): a_j = sum_i mean_h A[h, i, j].

    q: [batch, heads, queries, dim]; k: [batch, heads or fewer (grouped queries), keys, dim]; bias broadcasts to
    [batch, heads, queries, keys]. scale defaults to dim^-0.5. Returns [batch, keys], whose mean is
    queries / keys. Computed in float32 (float64 for float64 input), a few heads or query rows at a time, so memory
    is bounded by `chunk_bytes` (never less than one row of scores), whatever the number of tokens.
    """
    batch, heads, queries, dim = q.shape
    keys = k.shape[2]
    scale = dim**-0.5 if scale is None else scale
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    row_bytes = keys * torch.finfo(dtype).bits // 8
    rows = max(1, min(queries, chunk_bytes // row_bytes))
    together = max(1, chunk_bytes // (row_bytes * queries))  # heads whose whole score matrix fits
    if k.shape[1] != heads:
        k = k.repeat_interleave(heads // k.shape[1], dim=1)
    if bias is not None:
        bias = bias.expand(batch, heads, queries, keys)
    sums = torch.zeros(batch, keys, dtype=dtype, device=q.device)
    for b in range(batch):
        for head in range(0, heads, together):
            k_part = k[b, head : head + together].to(dtype).transpose(1, 2)
            for start in range(0, queries, rows):
                scores = torch.bmm(q[b, head : head + together, start : start + rows].to(dtype) * scale, k_part)
                if bias is not None:
                    scores += bias[b, head : head + together, start : start + rows]
                scores -= scores.amax(dim=-1, keepdim=True)
                scores.exp_()
                weights = scores.sum(dim=-1, keepdim=True).reciprocal_().transpose(1, 2)
                sums[b] += torch.bmm(weights, scores).sum(dim=(0, 1))
    return sums / heads


@dataclass(frozen=True)
class SaliencyRecorder:
    """Tap that keeps the saliency of every prompt row in the chosen blocks and leaves the result untouched."""

    blocks: frozenset[BlockId]
    kinds: frozenset[str] = frozenset({"self"})

    def wants(self, run: Run, rows: tuple[Row, ...], degraded: str | None) -> bool:
        return degraded is None and any(
            not run.has_record(block, row.key) for block in self.blocks for row in rows
        )

    def attend(self, call: AttentionCall, attention: Attention) -> Tensor:
        """Run the call unchanged, then keep the column sums of each row that has none yet in this step."""
        result = attention(call.q, call.k, call.v)
        for row in call.rows:
            if call.run.has_record(call.site.block, row.key):
                continue
            q = split_heads(call.q[row.start : row.stop], call.heads, call.heads_first)
            k = call.k[row.start : row.stop]
            k = split_heads(k, k.shape[-1] // q.shape[-1], call.heads_first)  # grouped queries: fewer key heads
            bias = None
            if call.mask is not None:
                bias = as_bias(call.mask, torch.float32)
                bias = bias[row.start : row.stop] if bias.shape[0] > 1 else bias
            values = column_sums(q, k, call.scale, bias)
            call.run.keep(call.site.block, row.key, Record(values, call.site.grid, call.latent_size))
        return result
