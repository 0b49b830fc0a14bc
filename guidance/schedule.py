"""Windows of a schedule, given in percent as everywhere in ComfyUI."""

from __future__ import annotations

import math
from typing import Any


def level_at(sampling: Any, percent: float) -> float:
    """The noise level of a place in the schedule, a fraction. Raises ValueError for NaN: ComfyUI lets it through in a
    prompt over the API, and its tables of noise levels would take it for a place far outside."""
    if math.isnan(percent):
        raise ValueError("start_percent or end_percent is NaN. Give a number between 0 and 1.")
    return sampling.percent_to_sigma(percent)


def inside(sampling: Any, sigma: float, start: float, end: float) -> bool:
    """Whether a noise level lies in a window of the schedule; start and end as fractions, 0 the first step.

    From 0 means from the very first level on: in float32 a flow model's may be a little above percent_to_sigma(0).
    """
    return (start <= 0 or sigma <= level_at(sampling, start)) and sigma > level_at(sampling, end)


def left_of_schedule(sampling: Any, sigma: float) -> float:
    """1 at the first, noisiest level, 0 at the last: t / 999 for models with 1000 timesteps. Inverts
    percent_to_sigma, as far as it tells places in single precision apart."""
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        if sampling.percent_to_sigma(middle) > sigma:
            low = middle
        else:
            high = middle
    return 1 - high


def timestep_share(sampling: Any, sigma: float) -> float:
    """t / number of timesteps, as papers on diffusion models count: 0.999 at the first of 1000, 0 at the last. For flow
    models, which have no timesteps, what is left of the schedule."""
    count = getattr(sampling, "num_timesteps", 0)
    left = left_of_schedule(sampling, sigma)
    return left * (count - 1) / count if count else left
