"""Recorders of attention for the eye: where a phrase is attended from, what a point of the picture attends to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...attention.chunked_softmax import row_shares
from ...attention.conds import Row
from ...attention.recorders import row_tensors
from ...attention.run import Attention, AttentionCall, Record, Run
from ...attention.sites import BlockId
from ...attention.tensor_layout import for_all_heads


@dataclass(frozen=True, eq=False)
class Viewer(ABC):
    """Keeps a record per block and positive prompt (its place in the list) in `records`; leaves the attention as it is.

    The first of a step stays: later passes of the step are other techniques' perturbed ones.
    """

    blocks: frozenset[BlockId] | None
    kinds: frozenset[str] = frozenset()
    reads: bool = True
    records: dict[tuple[BlockId, int], Record] = field(default_factory=dict, repr=False)

    def wants(self, run: Run, rows: tuple[Row, ...], degraded: str | None) -> bool:
        return degraded is None

    def attend(self, call: AttentionCall, attention: Attention) -> Tensor:
        for row in call.rows:
            key = (call.site.block, row.key.position)
            if row.index == 0 and key not in self.records:
                values = self.values(call, row)
                if values is not None:
                    self.records[key] = Record(values, call.site.grid, call.site.extent, call.latent_size)
        return attention(call.q, call.k, call.v)

    @abstractmethod
    def values(self, call: AttentionCall, row: Row) -> Tensor | None:
        """What to show of a call: [batch, image tokens]; None: nothing of this one."""


@dataclass(frozen=True, eq=False)
class PhraseViewer(Viewer):
    """The share of its attention that every place of the picture gives to some text tokens (their indices)."""

    kinds: frozenset[str] = frozenset({"cross", "joint"})
    tokens: tuple[int, ...] = ()

    def values(self, call: AttentionCall, row: Row) -> Tensor | None:
        first, _ = call.site.text.of(call.site.text_tokens, row.length)
        if first + max(self.tokens) >= call.site.text_tokens:
            return None
        q, k, bias = row_tensors(call, row)
        tokens = call.site.text_start + first + torch.tensor(self.tokens, device=k.device)
        return row_shares(q, k, tokens, call.scale, bias)


@dataclass(frozen=True, eq=False)
class PointViewer(Viewer):
    """What the token at a point (fractions of width and height; in video of the middle frame) attends to."""

    kinds: frozenset[str] = frozenset({"self", "joint"})
    point: tuple[float, float] = (0.5, 0.5)

    def values(self, call: AttentionCall, row: Row) -> Tensor | None:
        """Softmax of the point's scores, the mean over heads: [batch, image tokens]."""
        q, k, bias = row_tensors(call, row)
        token = _token_at(self.point, call)
        k = for_all_heads(k, q.shape[1])
        scores = torch.matmul(q[:, :, token : token + 1].float(), k.float().transpose(-1, -2))
        scores *= q.shape[-1] ** -0.5 if call.scale is None else call.scale
        if bias is not None:
            scores = scores + (bias[:, :, token : token + 1] if bias.shape[2] > 1 else bias)
        return scores.softmax(dim=-1)[:, :, 0, call.site.image].mean(dim=1)


def _token_at(point: tuple[float, float], call: AttentionCall) -> int:
    """Index of the image token that covers a point (x, y)."""
    *frames, rows, columns = call.site.grid
    *_, height, width = call.latent_size
    *_, tall, wide = call.site.extent
    row = min(int(point[1] * height * rows / tall), rows - 1)
    column = min(int(point[0] * width * columns / wide), columns - 1)
    return ((frames[0] // 2 if frames else 0) * rows + row) * columns + column
