"""CLIP guidance, the papers' baseline, as a patch of a model: every step is pushed to where a scorer likes the picture.

At a step the model predicts the picture x0 from x. The latent sqrt(b) x0 + (1 - sqrt(b)) x, with b = 1 - alpha, is
decoded and scored; the gradient of the loss at x, through decoder and model, is added to eps, times sqrt(b) and a
scale. As DOODL (arXiv 2303.13703) compares with; the formulas are those of diffusers' community pipeline.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...attention.run import Shared
from ..additional_models import all_with_additional_models, patchers_of
from ..gradients.autograd import (
    NoGradient,
    companions_to_normal_tensors,
    fully_loaded,
    loaded_to_normal_tensors,
    normal_copy,
    outside_inference_mode,
    saved_tensor_guard,
    with_backward,
    with_normal_tensors,
)
from ..gradients.refusals import refuse_packed_weights, refuse_streaming, refuse_what_loses_gradient
from ..schedule import inside
from ..wrapper_keys import CLIP_GUIDANCE
from .decoding import Decoder, is_video
from .losses import SalientLoss, Scorer
from .trial import LOSS_SCALE
from .update_rules import each

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

logger = logging.getLogger(__name__)
KEY = CLIP_GUIDANCE


@dataclass(frozen=True, eq=False)
class ClipGuidance:
    """scale: 0 is off. cutouts: 0 scores the whole picture; n random squares, of which the best counts. start, end:
    window in percent of the schedule as fractions."""

    scorer: Scorer
    vae: Any
    prompt: str
    scale: float
    cutouts: int = 0
    start: float = 0.0
    end: float = 1.0

    def patched(self, model: ModelPatcher) -> ModelPatcher:
        """A clone that is guided, with any sampler; the model itself where settings are neutral. Raises NoGradient."""
        if self.scale == 0 or self.start >= self.end:
            return model
        if not self.scorer.differentiable:
            raise NoGradient(
                f"CLIP Guidance follows a scorer's gradient, and {self.scorer.name} gives none: use Best of N with it, "
                "or a CLIP here."
            )
        refuse_what_loses_gradient(model)
        refuse_packed_weights(*(patcher.model for patcher in (self.vae.patcher, *patchers_of(self.scorer))))
        with outside_inference_mode():
            clone = fully_loaded(model)
            guide = _Guide(self, fully_loaded(self.vae.patcher), self.scorer.target(self.prompt))
        with_backward(clone)
        clone.set_model_sampler_post_cfg_function(guide)
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, guide.run)
        return clone


def roots(sampling: Any, level: float) -> tuple[float, float, float]:
    """What a network's input is multiplied with at a noise level, and the roots of alpha and of 1 - alpha there.

    Some models (EDM) bring their latents to unit deviation, too, which the input's scale shows where there is no noise.
    """
    one = torch.ones(1)
    scale, clean = (float(sampling.calculate_input(one * at, one)) for at in (level, 0.0))
    noise = float(sampling.noise_scaling(one * level, one, torch.zeros_like(one)))
    return scale, scale / clean, noise * scale


@dataclass(frozen=True, eq=False)
class _Guide(Shared):
    """What acts inside a run."""

    settings: ClipGuidance
    vae: ModelPatcher
    wanted: Any

    def run(self, executor: Any, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *rest: Any,
            **named: Any) -> Tensor:  # fmt: skip
        """A run of ComfyUI outside of inference mode, with decoder and scorer loaded along."""
        guider = executor.class_obj
        if latent_image.ndim not in (4, 5):
            raise NoGradient("CLIP Guidance cannot look at latents without pictures (sound, video with sound, 3D).")
        if is_video(latent_image):
            raise NoGradient("CLIP Guidance takes no gradient through videos: use Best of N, or a single frame.")
        more = [self.vae, *patchers_of(self.settings.scorer)]
        with outside_inference_mode():
            with_normal_tensors(guider.model_patcher)
            every = [cond for listed in guider.conds.values() for cond in listed or ()]
            refuse_what_loses_gradient(guider.model_patcher, every)
            companions_to_normal_tensors(guider.model_patcher, every)
            conds = {name: normal_copy(conds) for name, conds in guider.conds.items()}
            guider.conds = all_with_additional_models(conds, more)
            rest, named = normal_copy(tuple(rest)), normal_copy(dict(named))
            return executor(normal_copy(noise), normal_copy(latent_image), sampler, normal_copy(sigmas), *rest, **named)

    def __call__(self, args: Mapping[str, Any]) -> Tensor:
        """x0 moved by the guidance."""
        model, x, sigma, conds = args["model"], args["input"], args["sigma"], args["cond"]
        sampling, level = model.model_sampling, float(sigma.flatten()[0])
        if not inside(sampling, level, self.settings.start, self.settings.end) or level <= 0 or not conds:
            return args["denoised"]
        refuse_streaming(model)
        loaded_to_normal_tensors([self.vae, *patchers_of(self.settings.scorer)])
        scale, signal, noise = roots(sampling, level)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            with saved_tensor_guard(model.current_patcher, conds)():
                (x0,) = comfy.samplers.calc_cond_batch(model, [conds], leaf, sigma, args["model_options"])
            pictures = Decoder(self.settings.vae, self.vae.model, model.process_latent_out)(
                noise * x0 + (1 - noise) * signal * leaf
            )
            losses = SalientLoss(weight=0.0, cutouts=self.settings.cutouts)(
                self.settings.scorer, self.wanted, pictures, None,
                [torch.Generator().manual_seed(round(1e4 * level) + i) for i in range(len(pictures))],
            )  # fmt: skip
            (gradient,) = torch.autograd.grad(LOSS_SCALE * losses.sum(), leaf)  # see Trial: half precision
            gradient = gradient / LOSS_SCALE
        # eps moves by noise * scale * gradient at the network's input; x0 = x - sigma * eps.
        push = self.settings.scale * level * noise * gradient / scale
        sound = each(torch.isfinite(push.flatten(1)).all(dim=1), push)
        if not sound.all():
            # The same words at every step: the node shows them once.
            logger.warning("CLIP guidance: the gradient of a step is not finite; that step is not guided.")
        return args["denoised"] - torch.where(sound, push, torch.zeros_like(push))
