"""Self-Attention Guidance (arXiv 2210.00939) and blur guidance, on plain tensors.

Where the model looks more than average, its current estimate x0 is blurred; the model sees the blurred estimate at the
same noise level, with the same noise; the result is pushed away from what it then predicts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

NoiseScaling = Callable[[Tensor, Tensor, Tensor], Tensor]  # (sigma, noise, x0) -> noisy latent, as the model mixes them

MASK_MODES = ("threshold", "soft", "global")


def guidance_mask(saliency: Tensor, threshold: float, mode: str) -> Tensor:
    """What to blur, 0..1, shaped like the saliency (relative to its mean).

    threshold: 1 where the saliency exceeds `threshold` (the paper; its psi is 1). soft: s^2 / (s^2 + threshold^2), one
    half at the threshold. global: 1 everywhere, the paper's blur guidance baseline.
    """
    if mode == "threshold":
        return (saliency > threshold).to(saliency.dtype)
    if mode == "soft":
        square = saliency.square()
        return square / (square + threshold**2).clamp_min(torch.finfo(saliency.dtype).tiny)
    if mode == "global":
        return torch.ones_like(saliency)
    raise ValueError(f"mask mode must be one of {', '.join(MASK_MODES)}, got {mode!r}")


def degrade(x0: Tensor, blurred: Tensor, mask: Tensor) -> Tensor:
    """The estimate, blurred where the mask says so: mask * blurred + (1 - mask) * x0."""
    return blurred * mask + x0 * (1 - mask)


def renoise(x: Tensor, x0: Tensor, degraded: Tensor, sigma: Tensor, noise_scaling: NoiseScaling) -> Tensor:
    """The noisy latent x with x0 inside it exchanged for `degraded`, the predicted noise kept.

    The latent is linear in x0 for every parameterisation, so adding the noise-free mix of the difference is exact: it
    adds (degraded - x0) for noise- and v-prediction and (1 - sigma) times that for flow models.
    """
    difference = degraded - x0
    return x + noise_scaling(sigma, torch.zeros_like(difference), difference)


def guidance_term(degraded: Tensor, predicted: Tensor) -> Tensor:
    """degraded - predicted, both x0: what the model does to repair the blur, negated.

    Equals the paper's noise difference (eq. 16) times sigma, so adding s times it to an x0 is eps + s (eps - eps_hat).
    """
    return degraded - predicted


def rescale(guided: Tensor, reference: Tensor, amount: float) -> Tensor:
    """Bring each sample's standard deviation `amount` (0..1) of the way to the reference's (arXiv 2305.08891, 3.4)."""
    if amount == 0:
        return guided
    axes = tuple(range(1, guided.ndim))
    ratio = reference.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True).clamp_min(1e-12)
    return guided * (amount * ratio + (1 - amount))


def drop_nonfinite_samples(term: Tensor) -> tuple[Tensor, int]:
    """Zero the samples of a guidance term that hold NaN or infinity; returns the term and how many were dropped."""
    whole = torch.isfinite(term).flatten(1).all(dim=1)
    broken = int((~whole).sum())
    if broken == 0:
        return term, 0
    return torch.where(whole.reshape(-1, *[1] * (term.ndim - 1)), term, torch.zeros_like(term)), broken


def fit_mask(mask: Tensor, batch: int, size: tuple[int, int]) -> Tensor:
    """A picture mask [height, width] or [n, height, width] as [batch, 1, *size], 0..1; n masks repeat in a batch."""
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).float().clamp(0, 1)
    shrinking = mask.shape[-2] >= size[0] and mask.shape[-1] >= size[1]
    mode = "area" if shrinking else "bilinear"
    mask = F.interpolate(mask, size=size, mode=mode)
    return mask[torch.arange(batch, device=mask.device) % mask.shape[0]]


def spread_frames(masks: Tensor, frames: int) -> Tensor:
    """Masks [height, width] or [n, height, width] of a video, one for each of its latent's frames: evenly picked."""
    masks = masks.reshape(-1, *masks.shape[-2:])
    return masks[(torch.arange(frames) * len(masks) / frames).long()]
