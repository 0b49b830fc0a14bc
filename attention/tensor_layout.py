"""Layouts and precision of the tensors in an attention call."""

from __future__ import annotations

import math

import torch
from torch import Tensor

HIDDEN_BELOW = -3e4  # a bias that no score outweighs; half precision ends at -65504


def split_heads(tensor: Tensor, heads: int, heads_first: bool) -> Tensor:
    """View q, k or v as [batch, heads, tokens, dim]. SD3 leaves the heads of v apart: [batch, tokens, heads, dim]."""
    if heads_first:
        return tensor
    return tensor.reshape(*tensor.shape[:2], heads, -1).transpose(1, 2)


def split_key_heads(tensor: Tensor, heads: int, dim: int, heads_first: bool) -> Tensor:
    """View k or v as [batch, heads, tokens, dim], with one for every head of the queries."""
    return for_all_heads(split_heads(tensor, math.prod(tensor.shape[2:]) // dim, heads_first), heads)


def for_all_heads(tensor: Tensor, heads: int) -> Tensor:
    """k or v, [batch, heads or fewer, tokens, dim]: of grouped queries' fewer heads, each is repeated for its group."""
    return tensor if tensor.shape[1] == heads else tensor.repeat_interleave(heads // tensor.shape[1], dim=1)


def head_width(tensor: Tensor, heads: int, heads_first: bool) -> int:
    """Channels of a head of q, k or v, in either layout of AttentionCall."""
    return tensor.shape[-1] if heads_first else math.prod(tensor.shape[2:]) // heads


def precision(q: Tensor) -> torch.dtype:
    """What scores are computed in: double for double, else single."""
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def as_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """An attention mask (bool: True keeps; else added) as a bias [batch or 1, heads or 1, queries or 1, keys].

    What a mask hides is -inf in it, also where it says so with its type's largest number, as Qwen-Image's does: such a
    number counts as no score.
    """
    hidden = ~mask if mask.dtype == torch.bool else mask <= HIDDEN_BELOW
    kept = torch.zeros(mask.shape, device=mask.device) if mask.dtype == torch.bool else mask
    mask = kept.to(dtype).masked_fill(hidden, float("-inf"))
    while mask.ndim < 4:
        mask = mask.unsqueeze(0 if mask.ndim == 2 else 1)
    return mask
