"""The ways of finding a better starting latent that the evaluation compares, each with the same prompt, seed and time.

A method draws or moves starting noise and keeps what CLIP A likes best; nobody of them sees the judges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

STEPS, CFG, UPDATES = 8, 4.0, 12
REFERENCE = "SGOOL, crops"  # what takes the time that all others get


@dataclass(frozen=True)
class Method:
    """kind: "draw" (the best of `trials` draws) or "move" (`trials` - 1 updates by gradient).

    trials: 0 as many as fit into the reference's time. source: of saliency. rate: in the rule's own unit. guidance:
    scale of CLIP guidance on top, 0 is none. steps: of the sampler.
    """

    kind: str
    trials: int = 0
    rule: str = "doodl"
    rate: float = 30.0
    weight: float = 0.0
    parts: str = "crops"
    source: str = "spectral"
    cutouts: int = 0
    mode: str = "checkpoint"
    guidance: float = 0.0
    steps: int = STEPS


def uniform(pictures: Tensor) -> Tensor:
    """The control: everything is as salient as everything else."""
    return torch.ones(len(pictures), *pictures.shape[-2:])


def centre(pictures: Tensor) -> Tensor:
    """What people do without knowing the picture: they look at its centre. A Gaussian of a quarter of the side."""
    height, width = pictures.shape[-2:]
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    return torch.exp(-(x**2 + y**2) / (2 * 0.5**2)).expand(len(pictures), -1, -1)


def saliency_source(name: str) -> Callable[[Tensor], Tensor]:
    from fovea.guidance.spectral import spectral_residual

    return {"spectral": spectral_residual, "uniform": uniform, "centre": centre}[name]


def run(method: Method, tools: Any, text: str, seed: int, watch: Callable[..., None] = lambda *_: None) -> Any:
    """What the method finds for a prompt: an Outcome of guidance.host_latents. tools: model, clip, vae, scorer."""
    import comfy.sample
    import comfy.samplers

    from fovea.guidance import latent_rules
    from fovea.guidance.clip_loss import SalientLoss
    from fovea.guidance.host_clip_guidance import ClipGuidance
    from fovea.guidance.host_latents import Setting, Task, best_of, optimise
    from fovea.guidance.latent_search import Limits

    latent = torch.zeros(1, 4, 32, 32)
    model = tools.model
    if method.guidance:
        model = ClipGuidance(tools.scorer, tools.vae, text, method.guidance, method.cutouts).patched(model)
    encode = lambda words: tools.clip.encode_from_tokens_scheduled(tools.clip.tokenize(words))  # noqa: E731
    sampling = model.get_model_object("model_sampling")
    setting = Setting(
        model, tools.vae, encode(text), encode(""), CFG, comfy.sample.prepare_noise(latent, seed), latent,
        comfy.samplers.calculate_sigmas(sampling, "normal", method.steps), seed,
    )  # fmt: skip
    task = Task(
        tools.scorer, text, SalientLoss(method.weight, method.cutouts if not method.guidance else 0, method.parts),
        latent_rules.RULES[method.rule](rate=method.rate), Limits(method.trials - 1),
        saliency_source(method.source) if method.weight else None, mode=method.mode,
    )  # fmt: skip
    if method.kind == "draw":
        return best_of(setting, task, method.trials, watch)
    return optimise(setting, task, watch)


SGOOL = Method("move", UPDATES + 1, weight=0.5)
METHODS = {
    "none": Method("draw", 1),
    "CLIP guidance": Method("draw", 1, guidance=20.0),
    "best of n": Method("draw"),
    "CLIP guidance, best of n": Method("draw", guidance=20.0),
    "DOODL": Method("move"),
    "DOODL, 16 cutouts": Method("move", cutouts=16),
    "ReNO": Method("move", rule="reno", rate=5.0),
    REFERENCE: SGOOL,
    "SGOOL, cutouts": replace(SGOOL, trials=0, parts="cutouts"),
}
