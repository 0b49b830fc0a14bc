"""Regions inside ComfyUI: the technique that DenseDiffusion and Paint-with-Words share."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...attention import hooks
from ...attention.run import AttentionWrapper, Run
from ...attention.sites import BlockId
from ..schedule import inside, left_of_schedule
from .attention_patch import RegionAttention
from .score_bias import RegionBias

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

logger = logging.getLogger(__name__)
LAWS = ("power", "log", "constant")
SD_SIGMA_MAX = 14.6146  # Stable Diffusion's largest sigma; flow models start at infinity


@dataclass(frozen=True, eq=False)
class RegionControl:
    """How regions act over a sampling run.

    text, image: strength between picture and words, and among places of the picture. start, end: window in percent of
    the schedule as fractions. law: how strength depends on noise. "power": (what is left of the schedule)^exponent, as
    in DenseDiffusion, where it is (t / 1000)^5. "log": log(1 + sigma), as in eDiff-I, with sigma the ratio of noise to
    signal, so flow models fit in. "constant": not at all. blocks: None for all.
    """

    operator: RegionBias
    text: float
    image: float
    start: float = 0.0
    end: float = 1.0
    law: str = "power"
    exponent: float = 5.0
    blocks: frozenset[BlockId] | None = None

    @property
    def neutral(self) -> bool:
        """Whether these settings leave every image as it is."""
        return (self.text == 0 and self.image == 0) or self.start >= self.end or self.blocks == frozenset()

    def install(self, patcher: ModelPatcher) -> None:
        """Put the control into a freshly cloned patcher."""
        hooks.install(patcher, self)

    def begin(self, run: Run) -> Sequence[AttentionWrapper]:
        """The strengths of this step. Outside of the window they are 0, which hides what is appended to a prompt."""
        sampling = run.model.model_sampling
        factor = self.factor(sampling, run.sigma) if inside(sampling, run.sigma, self.start, self.end) else 0.0
        kept = run.state(self, dict[Any, Any])
        return (RegionAttention(self.blocks, self.operator, self.text * factor, self.image * factor, kept),)

    def factor(self, sampling: Any, sigma: float) -> float:
        """The law at a noise level."""
        if self.law == "power":
            return left_of_schedule(sampling, sigma) ** self.exponent
        if self.law == "log":
            return math.log1p(noise_to_signal(sampling, sigma))
        return 1.0


class Unattended(list):
    """Of further models that a prompt brings along: none. ComfyUI collects them when sampling begins, which tells
    whether the model that is sampled knows the prompt's regions. Others may look into it too (caches do)."""

    def __iter__(self) -> Iterator[Any]:
        run, sampling = hooks.current_run(), sys._getframe(1).f_code.co_name == "get_models_from_cond"
        if sampling and (run is None or not any(isinstance(t, RegionControl) for t in run.techniques)):
            logger.warning(
                "A prompt with regions is sampled with a model that does not come from the same node, so its regions "
                "do nothing. Connect the model output of Dense Diffusion or Paint with Words to the sampler."
            )
        return super().__iter__()


def watched(conditioning: list) -> list:
    """The conditioning, which says so once per run if it is sampled without a model that knows regions."""
    if not conditioning:
        return conditioning
    (tensor, options), *others = conditioning
    return [[tensor, {**options, "additional_models": Unattended(options.get("additional_models", ()))}], *others]


def noise_to_signal(sampling: Any, sigma: float) -> float:
    """How much noise there is for one part of picture, at most Stable Diffusion's: sigma, and sigma / (1 - sigma) for
    flow models."""
    one, level = torch.ones(1), torch.tensor([sigma])
    noise = float(sampling.noise_scaling(level, one, torch.zeros(1)))
    signal = float(sampling.noise_scaling(level, torch.zeros(1), one))
    return min(noise / max(signal, 1e-6), SD_SIGMA_MAX)
