"""What a search for starting noise is told, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from . import reversible_ode
from .candidate_legs import FIRST_CUT, cuts, steps_taken
from .halving import plan_legs
from .losses import Saliency, SalientLoss, Scorer
from .particles import STRENGTH
from .refine import Phase
from .region_goal import RegionGoal
from .search import Best, Limits
from .update_rules import Rule

SEARCHES = ("halving", "particles")
MODES = ("checkpoint", "invertible")
GRADIENT_PATHS = ("past_model", "last_steps", "all_steps")


def gradient_steps(path: str, steps: int) -> int | None:
    """`OptimizationConfig.backprop_steps` of a gradient path; steps: for "last_steps"."""
    return {"past_model": 0, "last_steps": steps, "all_steps": None}[path]


@dataclass(frozen=True)
class CandidateSearch:
    """How candidates are tried. rounds: how often the worse half is dropped before the end; 0 takes all to their end.
    first_cut: after what part of the steps for the first time. batch: how many are sampled at once. sampler: as
    KSampler has it. method: one of SEARCHES; with particles, rounds is how often they are weighed, strength how much.
    share: of the seconds, where there are iterations, too."""

    rounds: int = 0
    first_cut: float = FIRST_CUT
    batch: int = 1
    sampler: str = "euler"
    method: str = "halving"
    strength: float = STRENGTH
    share: float = 0.5

    def steps(self, candidates: int, steps: int) -> int:
        """How many steps all candidates take together, if none is sampled again."""
        if self.method == "particles":
            return candidates * steps
        return steps_taken(plan_legs(candidates, cuts(steps, self.rounds, self.first_cut)))


@dataclass(frozen=True)
class OptimizationConfig:
    """What to look for. prompt: one for all latents. saliency: None (the whole picture only), a fixed map [1 or n,
    height, width], or a function of pictures, asked anew every `saliency_interval` iterations.

    candidates: starting noises tried first, of which the best is moved. backprop_steps: None takes exact gradients; n
    goes back through the model in the last n steps only, 0 not at all, which works with any model.
    search: how candidates are tried. regions: prompts for parts of the picture, as a part of the loss.
    """

    scorer: Scorer
    prompt: str
    loss: SalientLoss
    rule: Rule
    limits: Limits
    saliency: Tensor | Saliency | None = None
    saliency_interval: int = 1
    mode: str = "checkpoint"
    mix: float = reversible_ode.MIX
    candidates: int = 1
    backprop_steps: int | None = None
    search: CandidateSearch = CandidateSearch()
    regions: RegionGoal | None = None


class OptimizationResult(NamedTuple):
    """best: its `start` is unit noise, its `sampled` a latent as ComfyUI's samplers return it. started: what the
    sampler began with, as ComfyUI has latents; samplers that add no noise go on from it (diffusion models, not flow
    models). empty_saliency: per picture, how often nothing of it was salient, so that the whole picture counted alone.
    seeds: per picture, of the noise that samplers draw on the way. phases: what was done, one after the other.
    region_scores: [n][regions], of the pictures; NaN where a region is empty.
    """

    best: Best
    started: Tensor
    empty_saliency: list[int]
    seeds: list[int]
    phases: list[Phase]
    region_scores: list[list[float]]


def evaluations(
    mode: str, steps: int, iterations: int, candidates: int = 1, backprop_steps: int | None = None,
    search: CandidateSearch | None = None,
) -> int:  # fmt: skip
    """How often the model is evaluated: for every candidate, there and back for every iteration, there at the end."""
    back = steps if backprop_steps is None else min(backprop_steps, steps)
    alone = candidates * steps if mode == "invertible" or search is None else search.steps(candidates, steps)
    latents = 2 if mode == "invertible" else 1
    return latents * ((alone if candidates > 1 else 0) + steps * (iterations + 1) + back * iterations)
