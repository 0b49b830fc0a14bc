"""Layouts and precision of the tensors in an attention call."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def split_heads(tensor: Tensor, heads: int, heads_first: bool) -> Tensor:
    """View q, k or v as [batch, heads, tokens, dim]. SD3 leaves the heads of v apart: [batch, tokens, heads, dim]."""
    if heads_first:
        return tensor
    return tensor.reshape(*tensor.shape[:2], heads, -1).transpose(1, 2)


def head_width(tensor: Tensor, heads: int, heads_first: bool) -> int:
    """Channels of a head of q, k or v, in either layout of AttentionCall."""
    return tensor.shape[-1] if heads_first else math.prod(tensor.shape[2:]) // heads


def precision(q: Tensor) -> torch.dtype:
    """What scores are computed in: double for double, else single."""
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def as_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """An attention mask (bool: True keeps; else added) as a bias [batch or 1, heads or 1, queries or 1, keys]."""
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))
    while mask.ndim < 4:
        mask = mask.unsqueeze(0 if mask.ndim == 2 else 1)
    return mask.to(dtype)
