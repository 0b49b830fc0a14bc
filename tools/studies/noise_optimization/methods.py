"""The ways of finding a better starting latent that the evaluation compares, each with the same prompt, seed and time.

A method tries or moves starting noise and keeps what CLIP A likes best; none of them sees the judges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..demo_setup import DemoSetup

STEPS, CFG, ITERATIONS = 8, 4.0, 12


@dataclass(frozen=True)
class Method:
    """candidates: fresh noises tried, iterations: changes of the best of them by gradient; -1: as many as there is time
    for.

    source: of saliency. rate: None is the rule's own. guidance: scale of CLIP guidance on top, 0 is none.
    backprop_steps: None is exact. search, rounds, batch, sampler: how candidates are tried, as CandidateSearch has it.
    """

    candidates: int = 1
    iterations: int = 0
    rule: str = "doodl"
    rate: float | None = None
    weight: float = 0.0
    views: str = "crops"
    source: str = "spectral"
    mode: str = "checkpoint"
    backprop_steps: int | None = None
    guidance: float = 0.0
    search: str = "halving"
    rounds: int = 0
    batch: int = 1
    sampler: str = "euler"

    @property
    def timed(self) -> bool:
        """Whether the time says how much it may try."""
        return -1 in (self.candidates, self.iterations)

    def filled(self, trials: int) -> Method:
        return replace(self, candidates=trials) if self.candidates == -1 else replace(self, iterations=trials)


def uniform(pictures: Tensor) -> Tensor:
    """The control: everything is as salient as everything else."""
    return torch.ones(len(pictures), *pictures.shape[-2:])


def center(pictures: Tensor) -> Tensor:
    """Where people look without knowing the picture: a Gaussian at its center, a quarter of the side wide."""
    height, width = pictures.shape[-2:]
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    return torch.exp(-(x**2 + y**2) / (2 * 0.5**2)).expand(len(pictures), -1, -1)


def saliency_source(name: str) -> Callable[[Tensor], Tensor]:
    from fovea.guidance.spectral_residual import spectral_residual

    return {"spectral": spectral_residual, "uniform": uniform, "center": center}[name]


def run(
    method: Method, demo: DemoSetup, text: str, seed: int, look: Callable[..., Any] | None = None,
    watch: Callable[[int, Any], None] = lambda _number, _best: None,
) -> Any:  # fmt: skip
    """The best that a method finds. look: what to do with the evaluation in place of the search (as its first
    arguments). watch: told after every trial, as on_evaluation."""
    import comfy.sample
    import comfy.samplers

    from fovea.guidance.noise_optimization import update_rules
    from fovea.guidance.noise_optimization.clip_guidance import ClipGuidance
    from fovea.guidance.noise_optimization.config import CandidateSearch, OptimizationConfig
    from fovea.guidance.noise_optimization.losses import SalientLoss
    from fovea.guidance.noise_optimization.noise_sampler import (
        NoiseOptimizer,
        SamplingInputs,
        best_of_n,
        optimize_noise,
    )
    from fovea.guidance.noise_optimization.search import Limits

    latent, model = torch.zeros(1, 4, 32, 32), demo.model
    if method.guidance:
        model = ClipGuidance(demo.scorer, demo.vae, text, method.guidance).patched(model)
    encode = lambda words: demo.clip.encode_from_tokens_scheduled(demo.clip.tokenize(words))  # noqa: E731
    sampling = model.get_model_object("model_sampling")
    inputs = SamplingInputs(
        model, demo.vae, encode(text), encode(""), CFG, comfy.sample.prepare_noise(latent, seed), latent,
        comfy.samplers.calculate_sigmas(sampling, "normal", STEPS), seed,
    )  # fmt: skip
    rule = update_rules.RULES[method.rule]
    config = OptimizationConfig(
        demo.scorer, text, SalientLoss(method.weight, 0, method.views), rule(rate=method.rate or rule().rate),
        Limits(method.iterations), saliency_source(method.source) if method.weight else None, mode=method.mode,
        candidates=method.candidates, backprop_steps=method.backprop_steps,
        search=CandidateSearch(method.rounds, batch=method.batch, sampler=method.sampler, method=method.search),
    )  # fmt: skip
    if method.iterations == 0:
        return best_of_n(inputs, config, watch).best
    if look is None:
        return optimize_noise(inputs, config, watch).best
    in_place_of_search = look

    class Looking(NoiseOptimizer):
        def search(self, trial: Any, noise: Tensor) -> Any:
            return in_place_of_search(noise, trial.evaluate)

    return optimize_noise(inputs, config, optimizer=Looking).best


REFERENCE = "SGOOL, crops"  # takes ITERATIONS iterations; what they take is everybody's time
SGOOL = Method(iterations=ITERATIONS, rate=3.0, weight=0.5)
STRAIGHT = Method(candidates=12, iterations=-1, rule="spherical", rate=0.03, backprop_steps=0)  # past the model
METHODS = {
    "none": Method(),
    "CLIP guidance": Method(guidance=20.0),
    "CLIP guidance, best of n": Method(candidates=-1, guidance=20.0),
    "best of n": Method(candidates=-1),
    "DOODL": replace(SGOOL, iterations=-1, weight=0.0),
    REFERENCE: SGOOL,
    "SGOOL, cutouts": replace(SGOOL, iterations=-1, views="cutouts"),
    "past the model, whole": STRAIGHT,
    "past the model, cutouts": replace(STRAIGHT, weight=0.5, views="cutouts"),
    "past the model, cutouts anywhere": replace(STRAIGHT, weight=0.5, views="cutouts", source="uniform"),
}
