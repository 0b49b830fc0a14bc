"""Decoders with less memory: the insides of their blocks are not kept for the way back but computed again.

What a decoder keeps is many times what a step of the sampled network does: 11 GiB at 1024 pixels in half precision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

BLOCKS = ("ResnetBlock", "AttnBlock", "Upsample", "ResidualBlock", "AttentionBlock")  # the host's names


@contextlib.contextmanager
def checkpoint_blocks(network: nn.Module) -> Iterator[None]:
    """Inside, the outermost blocks keep their inputs alone. Networks without such blocks are left as they are."""
    blocks: list[nn.Module] = []
    _collect(network, blocks)
    try:
        for block in blocks:
            block.forward = _lean(block.forward)
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


def _lean(forward: Callable[..., Any]) -> Callable[..., Any]:
    def lean(x: Tensor, *rest: Any, **named: Any) -> Any:
        plain = all(value is None for value in (*rest, *named.values()))  # else blocks hand something on (video)
        if not plain or not torch.is_grad_enabled() or not x.requires_grad:
            return forward(x, *rest, **named)
        return _Again.apply(forward, x)

    return lean


class _Again(torch.autograd.Function):
    """A function whose inside is computed again on the way back, also when only one gradient is asked for, which
    torch's reentrant checkpoint does not allow. Its input is watched by autograd for being overwritten."""

    @staticmethod
    def forward(ctx: Any, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(x)
        return function(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (found,) = torch.autograd.grad(ctx.function(x), x, gradient)
        return None, found
