"""Decoders with less memory: the insides of their blocks are not kept for the way back but computed again.

What a decoder keeps is many times what a step of the sampled network does: 11 GiB at 1024 pixels in half precision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

BLOCKS = ("ResnetBlock", "AttnBlock", "Upsample", "ResidualBlock", "AttentionBlock")  # ComfyUI's names


@contextlib.contextmanager
def checkpoint_blocks(network: nn.Module) -> Iterator[None]:
    """While active, the outermost residual and attention blocks use activation checkpointing: autograd saves only their
    inputs. Networks without such blocks are left as they are."""
    blocks: list[nn.Module] = []
    _collect(network, blocks)
    try:
        for block in blocks:
            block.forward = _checkpointed(block.forward)
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own shows again


def _collect(module: nn.Module, blocks: list[nn.Module]) -> None:
    for child in module.children():
        if type(child).__name__ in BLOCKS and "forward" not in vars(child):
            blocks.append(child)
        else:
            _collect(child, blocks)


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def forward_again(x: Tensor, *rest: Any, **named: Any) -> Any:
        plain = all(value is None for value in (*rest, *named.values()))  # else blocks hand something on (video)
        if not plain or not torch.is_grad_enabled() or not x.requires_grad:
            return forward(x, *rest, **named)
        return checkpoint(forward, x, use_reentrant=False)

    return forward_again
