"""Self-attention saliency: how much every token is looked at (SAG, arXiv 2210.00939, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .chunked_softmax import column_sums
from .conds import Row
from .run import Attention, AttentionCall, Record, Run
from .sites import BlockId
from .tensor_layout import as_bias, split_heads


@dataclass(frozen=True)
class SaliencyRecorder:
    """Wrapper that keeps the saliency of every prompt row in the chosen blocks and leaves the result untouched."""

    blocks: frozenset[BlockId]
    kinds: frozenset[str] = frozenset({"self", "joint"})
    reads: bool = True

    def wants(self, run: Run, rows: tuple[Row, ...], degraded: str | None) -> bool:
        return degraded is None and any(not run.has_record(block, row.key) for block in self.blocks for row in rows)

    def attend(self, call: AttentionCall, attention: Attention) -> Tensor:
        """Run the call unchanged, then keep the column sums of each row that has none yet in this step."""
        result = attention(call.q, call.k, call.v)
        for row in call.rows:
            if not call.run.has_record(call.site.block, row.key):
                call.run.keep(call.site.block, row.key, _record(call, row))
        return result


def _record(call: AttentionCall, row: Row) -> Record:
    """How much the image's tokens look at each other in a row of the batch, whatever else is among the tokens."""
    q, k, bias = row_tensors(call, row)
    values = column_sums(q, k, call.scale, bias, call.site.image)
    return Record(values, call.site.grid, call.site.extent, call.latent_size)


def row_tensors(call: AttentionCall, row: Row) -> tuple[Tensor, Tensor, Tensor | None]:
    """The image's queries, all keys and the bias of a row: [batch, heads (k: maybe fewer), tokens, dim]."""
    q = split_heads(call.q[row.start : row.stop], call.heads, call.heads_first)[:, :, call.site.image]
    k = call.k[row.start : row.stop]
    k = split_heads(k, k.shape[-1] // q.shape[-1], call.heads_first)  # grouped queries: fewer key heads
    if call.mask is None:
        return q, k, None
    bias = as_bias(call.mask, torch.float32)
    bias = bias[row.start : row.stop] if bias.shape[0] > 1 else bias
    return q, k, bias[:, :, call.site.image] if bias.shape[2] > 1 else bias
