"""Self-Attention Guidance written slowly and plainly from its formulas (arXiv 2210.00939), in float64.

Guidance is done here where the paper does it, on the predicted noise; the pack does it on x0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def attention_map(q: Tensor, k: Tensor) -> Tensor:
    """Full attention probabilities [heads, queries, keys] of one sample; q, k: [heads, tokens, dim]."""
    q, k = q.double(), k.double()
    return torch.softmax(torch.einsum("hid,hjd->hij", q, k) / math.sqrt(q.shape[-1]), dim=-1)


def saliency(q: Tensor, k: Tensor) -> Tensor:
    """Heads averaged, then summed over queries: one number per key."""
    return attention_map(q, k).mean(dim=0).sum(dim=0)


def pixel_mask(attended: Tensor, grid: tuple[int, int], size: tuple[int, int], threshold: float) -> Tensor:
    """1 where the token that covers a pixel is attended more than `threshold` times the average, pixel by pixel."""
    mean = attended.mean()
    mask = torch.zeros(size, dtype=torch.float64)
    for y in range(size[0]):
        for x in range(size[1]):
            token = (y * grid[0] // size[0]) * grid[1] + x * grid[1] // size[1]
            mask[y, x] = 1.0 if attended[token] > threshold * mean else 0.0
    return mask


def mirrored(index: int, size: int) -> int:
    """Index reflected at the borders without repeating the border pixel."""
    if size == 1:
        return 0
    index = index % (2 * size - 2)
    return index if index < size else 2 * size - 2 - index


def gaussian_blur(picture: Tensor, sigma: float, radius_y: int, radius_x: int) -> Tensor:
    """Blur [channels, height, width] with a two-dimensional Gaussian kernel of the given radii."""
    picture = picture.double()
    height, width = picture.shape[-2:]
    result, total = torch.zeros_like(picture), 0.0
    for dy in range(-radius_y, radius_y + 1):
        rows = [mirrored(y + dy, height) for y in range(height)]
        for dx in range(-radius_x, radius_x + 1):
            columns = [mirrored(x + dx, width) for x in range(width)]
            weight = math.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma))
            result += weight * picture[:, rows][:, :, columns]
            total += weight
    return result / total


def noise_of(x: Tensor, x0: Tensor, sigma: float, flow: bool) -> Tensor:
    """The noise a prediction x0 implies: x = x0 + sigma n, or (flow) x = (1 - sigma) x0 + sigma n."""
    return (x - (1 - sigma) * x0) / sigma if flow else (x - x0) / sigma


def mix(x0: Tensor, noise: Tensor, sigma: float, flow: bool) -> Tensor:
    return (1 - sigma) * x0 + sigma * noise if flow else x0 + sigma * noise


def denoised_of(x: Tensor, noise: Tensor, sigma: float, flow: bool) -> Tensor:
    return (x - sigma * noise) / (1 - sigma) if flow else x - sigma * noise


def guide(
    x: Tensor, x0_cfg: Tensor, x0_branch: Tensor, degraded: Tensor, denoise: Callable[[Tensor], Tensor], sigma: float,
    scale: float, flow: bool = False,
) -> Tensor:  # fmt: skip
    """Guided x0: noise_cfg + scale * (noise_branch - noise at the degraded input), turned back into x0."""
    x, x0_cfg, x0_branch, degraded = (t.double() for t in (x, x0_cfg, x0_branch, degraded))
    noise = noise_of(x, x0_branch, sigma, flow)
    noised = mix(degraded, noise, sigma, flow)
    noise_degraded = noise_of(noised, denoise(noised).double(), sigma, flow)
    guided = noise_of(x, x0_cfg, sigma, flow) + scale * (noise - noise_degraded)
    return denoised_of(x, guided, sigma, flow)
