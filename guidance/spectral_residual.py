"""Spectral residual saliency (Hou and Zhang, CVPR 2007): what stands out of a picture's spectrum; no weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .blur import gaussian_blur

SIDE, AVERAGE, BLUR = 64, 3, 2.5  # the width at which it looks, of the mean filter, of the blur (in its pixels)


def spectral_residual(pictures: Tensor) -> Tensor:
    """Pictures [n, 3, height, width] in 0..1 -> maps [n, height, width], each from 0 to 1; zero where all is flat, or
    anything not finite."""
    height, width = pictures.shape[-2:]
    broken = ~torch.isfinite(pictures).flatten(1).all(dim=1)
    pictures = torch.where(
        broken[:, None, None, None], torch.zeros_like(pictures), pictures
    )  # flat, so nothing is seen
    scale = SIDE / max(height, width)
    size = (max(4, round(height * scale)), max(4, round(width * scale)))
    gray = F.interpolate(pictures.float().mean(1, keepdim=True), size=size, mode="bilinear", antialias=True)
    spectrum = torch.fft.fft2(gray)
    log = spectrum.abs().clamp_min(1e-8).log()
    pad = AVERAGE // 2
    mean = F.avg_pool2d(F.pad(log, [pad] * 4, mode="circular"), AVERAGE, 1)
    saliency = torch.fft.ifft2(torch.polar((log - mean).exp(), spectrum.angle())).abs() ** 2
    saliency = gaussian_blur(saliency, BLUR)
    low, high = saliency.amin((-2, -1), keepdim=True), saliency.amax((-2, -1), keepdim=True)
    flat = gray.amax((-2, -1), keepdim=True) - gray.amin((-2, -1), keepdim=True) < 1e-4
    saliency = torch.where(flat, torch.zeros_like(saliency), (saliency - low) / (high - low).clamp_min(1e-12))
    return F.interpolate(saliency, size=(height, width), mode="bilinear")[:, 0]
