"""Layout loss on the starting noise: moved until the model's own attention finds every prompt in its region.

Backward guidance (arXiv 2304.03373) moves the latent in the first steps, down the gradient of (1 - share of a word's
attention inside its region)^2. Here all of it happens before the first step, on the noise: so it reaches every sampler,
and nothing was gained by moving later latents too (docs/techniques/regions.md).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...attention import hooks
from ...attention.conds import Conds, Row
from ...attention.run import AttentionCall
from ..gradients.autograd import (
    companions_to_normal_tensors,
    normal_copy,
    outside_inference_mode,
    saved_tensor_guard,
    with_gradient,
    with_normal_tensors,
)
from ..gradients.errors import NoGradient
from ..gradients.refusals import refuse_streaming, refuse_what_loses_gradient
from ..regions.attention_patch import shares_of
from ..regions.prompt_regions import MARK, PromptRegions
from ..starting_noise import MOVES, StartOfRun, spatial_mean
from .probe import NOTHING_READ, attention_to_regions, read

logger = logging.getLogger(__name__)
STEP = 0.125  # of the length of the noise, per iteration
CURE = "Set layout_iterations to 0."


@dataclass(frozen=True, eq=False)
class LayoutStart:
    """The noise of prompts whose control asks for it, moved `layout_iterations` times."""

    turn: int = MOVES

    def changed(self, noise: Tensor, run: StartOfRun) -> Tensor:
        """Raises NoGradient where the model gives none."""
        conds = run.guider.conds.get("positive") or ()
        iterations = max((cond[MARK].control.layout_iterations for cond in conds if MARK in cond), default=0)
        if not iterations:
            return noise
        try:
            return _moved(noise, run, conds, iterations)
        except NoGradient as why:
            raise NoGradient(f"Dense Diffusion: layout_iterations need gradients. {why} {CURE}") from None


LAYOUT = LayoutStart()


def _moved(noise: Tensor, run: StartOfRun, conds: Conds, iterations: int) -> Tensor:
    """The noise after so many iterations; itself where no layer of the model could be read."""
    with outside_inference_mode():
        _make_ready(run.guider, conds)
        run = StartOfRun(
            run.guider, normal_copy(run.sigmas), run.model_options, normal_copy(run.latent), normal_copy(run.mask)
        )
        asked = [cond for cond in conds if MARK in cond and cond[MARK].control.layout_iterations]
        normal_conds, moved = [_normal_cond(cond) for cond in asked], normal_copy(noise)
        for _ in range(iterations):
            gradient = _gradient(moved, run, normal_conds)
            if gradient is None:
                logger.warning(NOTHING_READ, "moved by the layout loss")
                return noise
            moved = moved - STEP * steps(gradient, run.inside(moved))
    return moved


def _make_ready(guider: Any, conds: Conds) -> None:
    """Refuse what gives no right gradient, before anything is touched; then make weights that autograd takes."""
    patcher = guider.model_patcher
    refuse_what_loses_gradient(patcher, conds)
    refuse_streaming(guider.inner_model)
    if patcher.is_dynamic():
        raise NoGradient("The model's weights are streamed (dynamic VRAM).")
    with_normal_tensors(patcher)
    companions_to_normal_tensors(patcher, conds)


def _normal_cond(cond: Mapping[str, Any]) -> dict[str, Any]:
    """A cond that ComfyUI has made ready for its model, with tensors that autograd takes."""
    ready = {}
    for name, wrapped in cond.get("model_conds", {}).items():
        ready[name] = copy.copy(wrapped)
        ready[name].cond = normal_copy(wrapped.cond)
    return {**normal_copy(dict(cond)), "model_conds": ready}


def _gradient(noise: Tensor, run: StartOfRun, conds: list[dict[str, Any]]) -> Tensor | None:
    """Of the loss at the noise, the sum over prompts, shaped like it; None where no layer could be read."""
    attention = with_gradient(run.model_options.get("transformer_options", {}).get(hooks.OVERRIDE))
    total: Tensor | None = None
    for cond in conds:  # each by itself: an evaluation is left when it has said what is needed
        with torch.enable_grad(), saved_tensor_guard(run.guider.model_patcher, [cond])():
            leaf = noise.detach().requires_grad_()
            losses = read(leaf, run, [cond], outside_share, {hooks.OVERRIDE: attention}).values
            if losses:
                (gradient,) = torch.autograd.grad(torch.stack([loss.sum() for loss in losses]).sum(), leaf)
                total = gradient if total is None else total + gradient
    return total


def outside_share(call: AttentionCall, row: Row, regions: PromptRegions) -> Tensor | None:
    """The loss of one layer and prompt: per picture the sum over regions, mean over their tokens, of (1 - the share of
    a token's attention that lies inside)^2 [batch] (2304.03373, equation 2)."""
    shares = shares_of(call, row, regions)
    if shares is None:
        return None
    losses = []
    for i, (own, strength) in enumerate(zip(attention_to_regions(call, row, regions), regions.strengths)):
        if own.shape[2]:
            inside = (own * shares[..., i : i + 1].to(own)).sum(dim=1) / own.sum(dim=1).clamp_min(1e-12)
            losses.append(min(strength, 1.0) * (1 - inside).square().mean(dim=1))
    return torch.stack(losses).sum(dim=0) if losses else None


def steps(gradient: Tensor, inside: Tensor) -> Tensor:
    """Each picture's gradient, as long as the noise is inside of the mask; 0 where it says nothing.

    Without its mean per channel: that is the picture's brightness and tint, which no region asks for, and which models
    whose schedule does not end in pure noise read off the noise.
    """
    sound = torch.isfinite(gradient).flatten(1).all(dim=1)
    gradient = gradient.nan_to_num() * inside
    gradient = gradient - inside * spatial_mean(gradient, inside)
    length, wanted = (t.flatten(1).norm(dim=1) for t in (gradient, inside))
    scale = torch.where(sound & (length > 0), wanted / length.clamp_min(1e-30), torch.zeros_like(length))
    return gradient * scale.reshape(-1, *[1] * (gradient.ndim - 1))
