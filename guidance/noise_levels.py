"""Noise levels that mean the same in every model: half the log of the signal-to-noise ratio, ln(alpha / sigma).

A noisy latent is x0 + sigma * noise (variance exploding: eps, v and EDM models as ComfyUI samples them) or
(1 - sigma) * x0 + sigma * noise (flow). Both are one path under different names: the flow's x is the other's divided by
1 + sigma. sampling: a model's model_sampling.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

DECIBEL = 20 / math.log(10)  # of a ratio of amplitudes, per unit of half-logSNR
LEVEL_TOLERANCE = 1e-4  # levels closer than this count as equal: schedules are float32


def half_log_snr(sigma: float, flow: bool) -> float:
    """ln(alpha / sigma); infinite where there is no noise, minus infinity where there is nothing else."""
    if sigma <= 0:
        return math.inf
    if not flow:
        return -math.log(sigma)
    return math.log((1 - sigma) / sigma) if sigma < 1 else -math.inf


def sigma_of(level: float, flow: bool) -> float:
    """The noise level of a half-logSNR, as a model of that kind counts."""
    if level == math.inf:
        return 0.0
    if level == -math.inf:
        return 1.0 if flow else math.inf
    return 1 / (1 + math.exp(level)) if flow else math.exp(-level)


def sigma_from(kind: str, value: float, sampling: Any, flow: bool) -> float:
    """A noise level given as "sigma", "timestep" (fraction, 1 the noisiest), "percent" (fraction of the schedule, 0 the
    start) or "SNR dB". Raises ValueError, naming what is wrong."""
    if kind == "sigma":
        if not value >= 0 or (flow and value > 1):
            raise ValueError(f"sigma {value:g} is not between 0 and {'1, as a flow model counts' if flow else 'more'}")
        return value
    if kind == "SNR dB" and math.isfinite(value):
        return sigma_of(value / DECIBEL, flow)
    if not 0 <= value <= 1:
        raise ValueError(f"{kind} {value:g} is not between 0 and 1")
    if kind not in ("percent", "timestep"):
        raise ValueError(f"{kind!r} is no way to give a noise level")
    if kind == "timestep" and flow:
        return value  # shifted already: how Wan and diffusers count
    percent = value if kind == "percent" else 1 - value
    if percent <= 0:
        return 1.0 if flow else math.inf  # the very start
    return float(sampling.percent_to_sigma(percent))


def convert_sigma(sigma: Tensor, flow: bool, wanted: bool, most: float) -> Tensor:
    """Noise levels as a model of the other kind counts them; flow, wanted, most: as in `convert_latent`."""
    if flow == wanted:
        return sigma
    return sigma / (1 + sigma) if wanted else (sigma / (1 - sigma).clamp(min=1e-9)).clamp(max=most)


def convert_latent(x: Tensor, sigma: Tensor, flow: bool, wanted: bool, most: float) -> tuple[Tensor, Tensor]:
    """A noisy latent and its levels [batch] for a model of the other kind.

    flow, wanted: whether it comes from, and goes to, a flow model. most: the highest level the other model knows; at a
    flow's level 1 the others' is infinite, and x is noise alone, which may have any.
    """
    if flow == wanted:
        return x, sigma
    other = convert_sigma(sigma, flow, wanted, most)
    # The factor is other / sigma; where there is no noise, both latents are x0.
    ratio = torch.where(sigma > 0, other / sigma.clamp(min=1e-9), torch.ones_like(sigma))
    return x * ratio.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype), other


def format_level(level: float, flow: bool) -> str:
    """A half-logSNR as people know it: sigma and dB."""
    if level == math.inf:
        return "0"
    return f"{sigma_of(level, flow):.4g} ({level * DECIBEL:+.1f} dB)"
