"""Gaussian blur of latents."""

from __future__ import annotations

import math

from kornia.filters import gaussian_blur2d
from torch import Tensor


def gaussian_blur(latent: Tensor, sigma: float, kernel_size: int | None = None) -> Tensor:
    """Blur the last two axes with a Gaussian of `sigma` latent pixels, mirrored at the borders.

    latent: [batch, channels, ..., height, width]; axes in between (frames) are kept apart. `kernel_size` fixes the kernel size
    (odd; a small one cuts the Gaussian off); by default it reaches three sigma. Either way it shrinks where the latent
    is smaller than the kernel. Sigma 0 returns the latent itself; a negative sigma raises ValueError.
    """
    if sigma < 0:
        raise ValueError(f"blur sigma must not be negative, got {sigma}")
    if sigma == 0:
        return latent
    radius = math.ceil(3 * sigma) if kernel_size is None else kernel_size // 2
    height, width = latent.shape[-2:]
    # Mirroring without the border pixel needs a radius below the size; one pixel alone is its own blur.
    kernel = tuple(2 * min(radius, size - 1) + 1 for size in (height, width))
    pictures = latent.movedim(1, -3).reshape(-1, latent.shape[1], height, width)
    blurred = gaussian_blur2d(pictures, kernel, (sigma, sigma), border_type="reflect", separable=True)
    frames = latent.movedim(1, -3).shape
    return blurred.reshape(frames).movedim(-3, 1)
