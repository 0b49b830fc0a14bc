"""Experts by noise level (eDiff-I, arXiv 2211.01324): who acts where, schedules with levels on the borders, the report.

The main model starts; each expert takes over below its border, down to the next one's. The border itself still belongs
to the noisier side, as in Wan 2.2 and diffusers. Borders are half-logSNR (noise_levels), so they mean the same in all
models. `boundaries`: where each model's part ends, from high noise to low; the last ends without noise, at infinity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..noise_levels import LEVEL_TOLERANCE, format_level, half_log_snr, sigma_of
from ..schedule import left_of_schedule


@dataclass(frozen=True)
class Preset:
    """kind, below: where an expert takes over, as noise_levels.sigma_from reads it. cfg: None is the sampler's."""

    kind: str
    below: float
    cfg: float | None = None


# Wan's borders and CFGs are those of its own configuration files, SDXL's that of its documentation. The others follow
# what people do: eDiff-I's two borders by the share of an EDM schedule's steps they leave (33, 47 and 19 %).
PRESETS = {
    "Wan 2.2 T2V, low noise": Preset("sigma", 0.875, 3.0),
    "Wan 2.2 I2V, low noise": Preset("sigma", 0.9, 3.5),
    "SDXL refiner": Preset("timestep", 0.2),
    "eDiff-I, middle": Preset("percent", 0.33),
    "eDiff-I, lowest noise": Preset("percent", 0.81),
    "speed LoRA, second stage": Preset("sigma", 0.955, 1.0),  # between the levels 1 and 0.9375 of four steps at shift 5
    "speed LoRA, third stage": Preset("sigma", 0.875, 1.0),
}


class BadExperts(ValueError):
    """Experts that cannot share a run; the message names the cure."""


def sort_experts(begins: Sequence[float]) -> list[int]:
    """Indices of experts from high noise to low. Raises BadExperts where a model would never act."""
    order = sorted(range(len(begins)), key=lambda i: begins[i])
    for i in order:
        if begins[i] == -math.inf:
            raise BadExperts(
                f"Expert {i + 1} takes over before the first step, so the main model would never act. Connect that "
                "expert's model as the main model, or set a lower noise level."
            )
        if begins[i] == math.inf:
            raise BadExperts(f"Expert {i + 1} takes over where no noise is left: it would never act. Raise its level.")
    for before, after in zip(order, order[1:]):
        if begins[after] - begins[before] < LEVEL_TOLERANCE:
            raise BadExperts(
                f"Experts {before + 1} and {after + 1} take over at the same noise level, so one would never act. Give "
                "each a level of its own."
            )
    return order


def active_expert(level: float, boundaries: Sequence[float]) -> int:
    """Who acts at a half-logSNR."""
    return next((at for at, end in enumerate(boundaries) if level <= end + LEVEL_TOLERANCE), len(boundaries) - 1)


def blend_weights(level: float, boundaries: Sequence[float], window: float) -> list[tuple[int, float]]:
    """Who acts with which weight; within a window around a border the two beside it share. Weights add up to 1."""
    for at, end in enumerate(boundaries[:-1]):
        if abs(level - end) < window / 2:
            low = (level - end) / window + 0.5
            return [(at, 1 - low), (at + 1, low)]
    return [(active_expert(level, boundaries), 1.0)]


def step_start(level: float, schedule: Sequence[float]) -> float:
    """The level at which the step began that an evaluation at `level` belongs to; schedule: half-logSNR, rising."""
    begun = [known for known in schedule if known <= level + LEVEL_TOLERANCE]
    return begun[-1] if begun else level


def piecewise(
    samplings: Sequence[Any], flows: Sequence[bool], boundaries: Sequence[float], steps: Sequence[int]
) -> Tensor:
    """Noise levels [sum of steps + 1], as the first model counts, one of them a hair below every border: a step
    belongs to whoever has the level that it begins at, and a border is the noisier model's.

    Within its part each expert's steps are evenly spaced in percent of its own schedule: its shift makes its part,
    nobody else's. samplings, flows, boundaries, steps: of the experts from high noise to low.
    """
    if len(steps) != len(boundaries) or any(count < 1 for count in steps):
        raise BadExperts(
            f"{len(boundaries)} experts take part, so {len(boundaries)} numbers of steps are needed, each 1 or more."
        )
    levels = [sigma_of(half_log_snr(float(samplings[0].sigma_max), flows[0]), flows[0])]
    begin = half_log_snr(levels[0], flows[0])
    for sampling, flow, end, count in zip(samplings, flows, boundaries, steps):
        high = min(sigma_of(begin, flow), float(sampling.sigma_max))
        low = sigma_of(end, flow) if end != math.inf or flow else float(sampling.sigma_min)
        if not low < high:
            raise BadExperts(
                f"A part of the schedule would go from sigma {high:.4g} to {low:.4g}: that border lies outside of what "
                "the model samples."
            )
        # A model without a level 0 of its own ends at its lowest; 0 is the step after that.
        stops = count if end == math.inf and not flow else count + 1
        places = [min(1 - left_of_schedule(sampling, sigma), 1 - 1e-7) for sigma in (high, low)]  # 1 is no noise
        percents = torch.linspace(*places, stops, dtype=torch.float64)
        inner = [float(sampling.percent_to_sigma(percent)) for percent in percents[1:].tolist()]
        if end != math.inf:
            inner[-1] = sigma_of(end + 2 * LEVEL_TOLERANCE, flow)
        else:
            inner = [*inner[: count - 1], 0.0]
        levels += [sigma_of(half_log_snr(sigma, flow), flows[0]) for sigma in inner]
        begin = end
    return torch.tensor(levels)


@dataclass(frozen=True)
class Step:
    """A line of the report. level: half-logSNR where the step begins; who: the models that act, by number, 0 the main
    one; cfg: of the expert, None the sampler's."""

    level: float
    who: tuple[int, ...]
    cfg: float | None


def swaps(steps: Sequence[Step]) -> int:
    """How often another model takes over."""
    return sum(step.who[-1] != before.who[-1] for before, step in zip(steps, steps[1:]))


def plan_steps(
    schedule: Sequence[float], boundaries: Sequence[float], cfgs: Sequence[float | None], window: float
) -> list[Step]:
    """Who will act at each step; schedule: half-logSNR of the noise levels, the last one without noise."""
    steps = []
    for level in schedule[:-1]:
        who = tuple(at for at, _ in blend_weights(level, boundaries, window))
        steps.append(Step(level, who, cfgs[who[0]]))
    return steps


def format_ranges(names: Sequence[str], boundaries: Sequence[float], cfgs: Sequence[float | None], flow: bool) -> str:
    """Who acts where, as text."""
    lines, begin = [], "the start"
    for name, end, cfg in zip(names, boundaries, cfgs):
        lines.append(f"{name}: sigma from {begin} to {format_level(end, flow)}, {_cfg(cfg)}")
        begin = format_level(end, flow)
    return "\n".join(lines)


def format_table(steps: Sequence[Step], names: Sequence[str], flow: bool) -> str:
    """Step by step: sigma, who acts, CFG; and the number of swaps."""
    lines = [
        f"step {at}: sigma {sigma_of(step.level, flow):.4g}, {' and '.join(names[who] for who in step.who)}, "
        f"{_cfg(step.cfg)}"
        for at, step in enumerate(steps, 1)
    ]  # fmt: skip
    return "\n".join([*lines, f"{swaps(steps)} swap{'' if swaps(steps) == 1 else 's'} of models"])


def _cfg(cfg: float | None) -> str:
    return "the sampler's CFG" if cfg is None else f"CFG {cfg:g}" + (" (no negative prompt)" if cfg == 1 else "")
