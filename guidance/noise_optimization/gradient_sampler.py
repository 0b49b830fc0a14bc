"""A sampler of ComfyUI in which the guided model is used for gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ..gradients.autograd import attributes_to_normal_tensors, outside_inference_mode, saved_tensor_guard
from ..gradients.refusals import refuse_streaming
from ..noise_optimization.reversible_ode import Denoise, Schedule

if TYPE_CHECKING:
    pass


class GradientSampler(comfy.samplers.Sampler):
    """A sampler of the host that, instead of sampling, lets `work` use the guided model.

    work: (denoise, schedule, start_of) -> latent; start_of makes the first latent from noise, linearly and element by
    element. through_model: whether gradients are taken through the model, not only through what comes after it.
    """

    def __init__(
        self, work: Callable[[Denoise, Schedule, Callable[[Tensor], Tensor]], Tensor], through_model: bool = True
    ) -> None:
        self.work, self.through_model = work, through_model
        self.mask: Tensor | None = None

    def settled(self, z: Tensor, noise: Tensor) -> Tensor:
        """Starting noise that differs from the run's own only where the mask of an inpainting lets it."""
        return z if self.mask is None else z * self.mask + noise.to(z) * (1 - self.mask)

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Tensor | None = None, denoise_mask: Tensor | None = None, disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        """Called by the host in its run, as for every sampler. Raises NoGradient where the weights do not fit."""
        if self.through_model:
            refuse_streaming(model_wrap.inner_model)
        sampling = model_wrap.inner_model.model_sampling
        self.mask = denoise_mask
        with outside_inference_mode():
            attributes_to_normal_tensors(model_wrap.inner_model.latent_format)
        inner = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        inner.latent_image, inner.noise = latent_image, noise
        most = self.max_denoise(model_wrap, sigmas)
        every = [cond for found in model_wrap.conds.values() for cond in found or ()]
        apart = saved_tensor_guard(model_wrap.model_patcher, every) if self.through_model else contextlib.nullcontext

        def denoise(x: Tensor, sigma: float) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            level = torch.full((x.shape[0],), sigma, device=x.device, dtype=torch.float32)
            with apart():
                return inner(x, level, denoise_mask, **extra_args).to(x.dtype)

        def start_of(z: Tensor) -> Tensor:
            return sampling.noise_scaling(sigmas[0], self.settled(z, noise), latent_image, most)

        levels = tuple(float(sigma) for sigma in sigmas)
        one = torch.ones(1, device=noise.device)
        scales = tuple(float(sampling.calculate_input(one * level, one)) for level in levels)
        found = self.work(denoise, Schedule(levels, scales), start_of)
        return sampling.inverse_noise_scaling(sigmas[-1], found)
