"""Widths of attention heads that kernels take: steering makes heads wider (modulation.py).

ComfyUI's own functions take any width, except flash's and xformers'. Kernels that another node has put in their place
often do not: SageAttention takes 128 channels at most, others 64, 96 and 128 only.
"""

from __future__ import annotations

KERNEL_WIDTHS = (64, 96, 128)  # those that every kernel has which has any at all
MAX_QUANTIZED, MAX_FLASH = 128, 256  # the largest that SageAttention takes, the largest that flash and xformers take


def padded_width(width: int, for_kernels: bool) -> int:
    """The width to give heads of at least `width` channels: a multiple of 8; one that every kernel has if there is one
    and some kernel of another node may be asked (`for_kernels`)."""
    fitting = [kernel for kernel in KERNEL_WIDTHS if kernel >= width]
    return fitting[0] if for_kernels and fitting else -(-width // 8) * 8


def outgrown(given: int, width: int, limit: int) -> bool:
    """Whether heads of `given` channels fit into a kernel's limit and those widened to `width` no longer do."""
    return given <= limit < width
