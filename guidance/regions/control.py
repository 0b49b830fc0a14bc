"""How strongly regions act over a sampling run: the settings of the node that made a prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ...attention.sites import BlockId
from ..schedule import inside, level_at, timestep_share
from .score_bias import RegionBias

LAWS = ("power", "log", "constant")
SD_SIGMA_MAX = 14.6146  # Stable Diffusion's largest sigma; flow models start at infinity


class Strengths(NamedTuple):
    """Between image and text tokens, and among image tokens; 0 is off."""

    text: float
    image: float


@dataclass(frozen=True, eq=False)
class RegionControl:
    """How regions act over a sampling run.

    text, image: strength between picture and words, and among places of the picture. start, end: window in percent of
    the schedule as fractions. law: how strength depends on noise. "power": (t / 1000)^exponent, as in DenseDiffusion,
    where the exponent is 5; for flow models t / 1000 is what is left of the schedule. "log": log(1 + sigma), as in
    eDiff-I, with sigma the ratio of noise to signal, so flow models fit in. "constant": not at all. blocks: None for
    all. What happens to the starting noise (region_start/), 0: nothing. layout_iterations: how often it is moved by the
    layout loss. arranged_noises: of how many noises' blocks it is arranged.
    """

    bias: RegionBias
    text: float
    image: float
    start: float = 0.0
    end: float = 1.0
    law: str = "power"
    exponent: float = 5.0
    blocks: frozenset[BlockId] | None = None
    layout_iterations: int = 0
    arranged_noises: int = 0

    @property
    def neutral(self) -> bool:
        """Whether these settings leave every image as it is."""
        return self.steers_nothing and not self.starts

    @property
    def starts(self) -> bool:
        """Whether the starting noise is changed."""
        return bool(self.layout_iterations or self.arranged_noises)

    @property
    def steers_nothing(self) -> bool:
        """Whether attention is left as it is."""
        return (self.text == 0 and self.image == 0) or self.start >= self.end or self.blocks == frozenset()

    def strengths(self, sampling: Any, sigma: float) -> Strengths:
        """At a noise level; both 0 outside of the window. Of hard regions 0 or 1."""
        if not inside(sampling, sigma, self.start, self.end):
            return Strengths(0.0, 0.0)
        if self.bias.score_unit == "hard":
            return Strengths(float(self.text > 0), float(self.image > 0))
        factor = self.factor(sampling, sigma)
        return Strengths(self.text * factor, self.image * factor)

    def factor(self, sampling: Any, sigma: float) -> float:
        """The law at a noise level."""
        if self.law == "power":
            return timestep_share(sampling, sigma) ** self.exponent
        if self.law == "log":
            return math.log1p(noise_to_signal(sampling, sigma))
        return 1.0

    def is_over(self, sampling: Any, sigma: float) -> bool:
        """Whether the window lies before this noise level, so that a run that goes down from it never reaches it."""
        return sigma <= level_at(sampling, self.end)


def noise_to_signal(sampling: Any, sigma: float) -> float:
    """How much noise there is for one part of picture, at most Stable Diffusion's: sigma, and sigma / (1 - sigma) for
    flow models."""
    one, level = torch.ones(1), torch.tensor([sigma])
    noise = float(sampling.noise_scaling(level, one, torch.zeros(1)))
    signal = float(sampling.noise_scaling(level, torch.zeros(1), one))
    return min(noise / max(signal, 1e-6), SD_SIGMA_MAX)
