"""Windows of a schedule, given in percent as everywhere in ComfyUI."""

from __future__ import annotations

from typing import Any


def inside(sampling: Any, sigma: float, start: float, end: float) -> bool:
    """Whether a noise level lies in a window of the schedule; start and end as fractions, 0 the first step.

    From 0 means from the very first level on: in float32 a flow model's may be a little above percent_to_sigma(0).
    """
    return (start <= 0 or sigma <= sampling.percent_to_sigma(start)) and sigma > sampling.percent_to_sigma(end)


def left_of_schedule(sampling: Any, sigma: float) -> float:
    """1 at the first, noisiest level, 0 at the last: t / 1000 for models with timesteps. Inverts percent_to_sigma."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if sampling.percent_to_sigma(middle) > sigma:
            low = middle
        else:
            high = middle
    return 1 - high
