"""Experts for the generator, as eDiff-I's tree grows them: each starts from the model before it was split and is
trained on its own share of the noise only.

The control sees all noise for the time of both experts together: whether experts help is measured against it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..host import ROOT
from .data import Dataset
from .export import training_state
from .stages import Run
from .train_unet import STEPS, fit

DEMO = ROOT / "demo"
SPLIT = 660  # half of the generator's training draws lie above
RATE = 0.3  # of the generator's learning rate
# Timesteps that each sees, and its share of the stage's minutes.
EXPERTS = {"expert_high": (SPLIT, STEPS, 0.25), "expert_low": (0, SPLIT, 0.25), "expert_control": (0, STEPS, 0.5)}


def levels(low: int, high: int, count: int) -> Tensor:
    """Timesteps [count] of the generator's own distribution, cut to [low, high): one draw per stratum."""
    first, last = (low / STEPS) ** (1 / 0.6), (high / STEPS) ** (1 / 0.6)
    u = first + (last - first) * (torch.arange(count) + torch.rand(count)) / count
    return (u**0.6 * STEPS).long().clamp(low, high - 1)


def base() -> dict[str, Tensor]:
    """The shipped generator's weights, fp32."""
    return {key.removeprefix("unet."): value for key, value in training_state(DEMO, "unet").items()}


def train(run: Run, data: Dataset) -> None:
    """All experts and the control, one after the other."""
    from fovea.models import shapesworld

    for name, (low, high, share) in EXPERTS.items():
        torch.manual_seed(run.seed + 7)
        model = shapesworld.unet().requires_grad_(True)
        model.load_state_dict(base())
        part = replace(run, name=name, minutes=run.minutes * share, shipped=None, rate=RATE, started=time.monotonic())
        fit(part, data, model, partial(levels, low, high), ema=0.99)
