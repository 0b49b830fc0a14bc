"""The guided model of a sampling run of ComfyUI, for evaluations in any order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ..gradients.autograd import (
    attributes_to_normal_tensors,
    outside_inference_mode,
    saved_tensor_guard,
)
from ..gradients.refusals import (
    refuse_streaming,
)
from ..hook_keyframes import keyframed, set_to_level
from ..starting_noise import StartOfRun, acting_starts, begun
from ..wrapper_keys import EXPERTS
from .reversible_ode import Schedule

OnModelCall = Callable[[int], None]  # told how many candidates were evaluated


def ignore_model_call(_count: int) -> None:
    """For callers that need no progress."""


class GuidedModel:
    """The guided model of a run, as samplers get it, for evaluations in any order and with gradients.

    With the mask of an inpainting, a state is a latent and, behind it in the batch, the noise that is laid over what
    is kept at every step: that follows from the starting noise, too, so gradients have to reach both. Without, a state
    is a latent.

    through_model: whether gradients are taken through the model. Raises NoGradient where its weights do not fit.
    """

    def __init__(
        self, model_wrap: Any, sigmas: Tensor, extra_args: Mapping[str, Any], noise: Tensor, latent: Tensor | None,
        mask: Tensor | None, through_model: bool = True, on_model_call: OnModelCall = ignore_model_call,
    ) -> None:  # fmt: skip
        if through_model:
            refuse_streaming(model_wrap.inner_model)
        with outside_inference_mode():
            attributes_to_normal_tensors(model_wrap.inner_model.latent_format)
        self.sampling = model_wrap.inner_model.model_sampling
        self.sigmas, self.extra_args, self.noise, self.latent, self.mask = sigmas, extra_args, noise, latent, mask
        self.on_model_call = on_model_call
        self.starts_at_full_noise = comfy.samplers.Sampler().max_denoise(model_wrap, sigmas)
        self.inner = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        self.inner.latent_image = latent
        levels = tuple(float(sigma) for sigma in sigmas)
        one = torch.ones(1, device=noise.device)
        self.schedule = Schedule(levels, tuple(float(self.sampling.calculate_input(one * at, one)) for at in levels))
        self.run = StartOfRun(model_wrap, sigmas, extra_args["model_options"], latent, mask)
        self.starts = acting_starts(noise, self.run)
        conds = [cond for listed in model_wrap.conds.values() for cond in listed or ()]
        self.patcher, self.keyframed = model_wrap.model_patcher, keyframed(conds)
        guard = saved_tensor_guard(model_wrap.model_patcher, conds) if through_model else contextlib.nullcontext
        self.saved_tensor_guard = guard

    def denoise(self, state: Tensor, sigma: float) -> Tensor:
        """The guided prediction x0 of a noisy latent; the noise in a state stays what it is."""
        self.on_model_call(1)
        comfy.model_management.throw_exception_if_processing_interrupted()
        x = self.latent_of(state)
        self.inner.noise = noise = state[len(x) :]
        level = torch.full((x.shape[0],), sigma, device=x.device, dtype=torch.float32)
        with self.saved_tensor_guard():
            x0 = self.inner(x, level, self.mask, **self.extra_args).to(x.dtype)
        return x0 if self.mask is None else torch.cat([x0, noise])

    def start_of(self, z: Tensor) -> Tensor:
        """The first state that unit noise gives, with what the model's nodes do to the noise."""
        noise = self.begun(self.settled(z))
        first = self.scaled(noise, self.latent)
        return first if self.mask is None else torch.cat([first, noise])

    def latent_of(self, state: Tensor) -> Tensor:
        """A state without the noise."""
        return state if self.mask is None else state[: len(state) // 2]

    def gradient_of_state(self, at_latent: Tensor) -> Tensor:
        """The gradient at a state, of something that only its latent matters to."""
        return at_latent if self.mask is None else torch.cat([at_latent, torch.zeros_like(at_latent)])

    def set_back(self) -> None:
        """To the first step, for one more trial in the same run."""
        set_to_level(self.keyframed, self.sigmas, self.sigmas[0], [self.patcher])

    def begun(self, noise: Tensor) -> Tensor:
        """Noise as the model's nodes want it; the same tensor where there are none."""
        experts = self.extra_args["model_options"].get("transformer_options", {}).get(EXPERTS)
        if self.starts and experts is not None:
            experts.load((0,))  # nodes may look at what the main model makes of it; the last trial ended with another
        self.set_back()
        return begun(noise, self.run, self.starts)

    def gradient_of_noise(self, at_first: Tensor) -> Tensor:
        """The gradient at unit noise that belongs to this one at the first state, which moves with it linearly.

        What nodes do to the noise counts as a shift that goes along.
        """
        at_latent = self.latent_of(at_first)
        one, zero = torch.ones_like(at_latent), torch.zeros_like(at_latent)
        gradient = (self.scaled(one, self.latent) - self.scaled(zero, self.latent)) * at_latent
        return gradient if self.mask is None else (gradient + at_first[len(at_latent) :]) * (self.mask > 0)

    def scaled(self, noise: Tensor, latent: Tensor | None) -> Tensor:
        """The first latent: noise at the first level, on what is drawn on."""
        return self.sampling.noise_scaling(self.sigmas[0], noise, latent, self.starts_at_full_noise)

    def settled(self, z: Tensor) -> Tensor:
        """Unit noise that differs from the run's own only where the mask of an inpainting lets it: not mixed where that
        is gray, since a mean of two noises has less deviation than each."""
        return z if self.mask is None else torch.where(self.mask > 0, z, self.noise.to(z))

    def finished(self, latent: Tensor) -> Tensor:
        """The last latent as samplers return it."""
        return self.sampling.inverse_noise_scaling(self.sigmas[-1], latent)
