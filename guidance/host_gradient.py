"""Gradients through the host's own sampling path: what has to be different from a plain run, and is put back after it.

ComfyUI runs nodes in inference mode, whose tensors autograd refuses; streams weights, which may be overwritten before
the way back needs them; and may attend with kernels that have no backward. So a gradient run takes place outside of
inference mode, on a patcher whose weights stay, with PyTorch's attention, and one that cannot give right gradients is
refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from comfy.ldm.modules import attention as host_attention
from torch import Tensor, nn

from ..attention import hooks
from .reversible import Denoise, Schedule

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

OVERRIDE = hooks.OVERRIDE
STEP_CACHES = ("easycache", "lazycache")  # wrappers that skip evaluations by what they saw in steps before


class NoGradient(RuntimeError):
    """Gradients through this model would be wrong or impossible; the text names what and the cure."""


@contextlib.contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Where autograd works: no inference mode, and the host's kernels without a backward are off."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        with torch.inference_mode(False), torch.no_grad():  # gradients are switched on where they are wanted
            yield
    finally:
        comfy.model_management.in_training = before


def resident(patcher: ModelPatcher) -> ModelPatcher:
    """A clone whose weights are ordinary tensors that stay where they are while gradients are taken.

    Call it `outside_inference_mode`. Raises NoGradient.
    """
    if patcher.is_dynamic():
        try:
            clone = patcher.clone(disable_dynamic=True)
        except RuntimeError as why:
            raise NoGradient(
                "The model's weights are streamed (dynamic VRAM) and its loader cannot load it another way, so "
                "gradients could be wrong. Load it with ComfyUI's own loader, or start ComfyUI with "
                "--disable-dynamic-vram."
            ) from why
    else:
        clone = patcher.clone()
    make_ordinary(clone.model)
    return clone


def make_ordinary(module: nn.Module) -> None:
    """Replace tensors made in inference mode, which autograd refuses, by copies. Their values stay."""
    for name, parameter in list(module.named_parameters()):
        if parameter.is_inference():
            comfy.utils.set_attr_param(module, name, parameter.data)
    for name, buffer in list(module.named_buffers()):
        if buffer.is_inference():
            comfy.utils.set_attr(module, name, buffer.clone())
    module.requires_grad_(False)


def ordinary(value: Any) -> Any:
    """A conditioning, latent or the like with copies of the tensors that were made in inference mode."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if type(value) is dict:
        return {key: ordinary(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(ordinary(inner) for inner in value)
    return value


def refuse_what_loses_gradient(patcher: ModelPatcher) -> None:
    """Raise NoGradient for a model whose steps depend on each other or run where gradients are lost."""
    options = patcher.model_options
    if patcher.get_additional_models_with_key("multigpu"):
        raise NoGradient("The model runs on several GPUs, where no gradients are taken. Remove the multi-GPU node.")
    if options.get("context_handler") is not None:
        raise NoGradient("The model has context windows, through which no gradient is taken. Remove that node.")
    names = {str(key).lower() for kinds in patcher.wrappers.values() for key in kinds}
    for cache in STEP_CACHES:
        if cache in names:
            raise NoGradient(f"The model has {cache}: what it skips has no gradient. Remove that node.")
    for technique in options.get("transformer_options", {}).get(hooks.TECHNIQUES, ()):
        if getattr(technique, "every", 1) > 1:
            raise NoGradient(
                "Self-Attention Guidance reuses its guidance in the steps between (every > 1), which has no gradient. "
                "Set every to 1."
            )
        if getattr(technique, "mask_mode", "") == "soft":
            raise NoGradient(
                "Self-Attention Guidance's soft mask depends on the attention in a way that is not followed back. Use "
                "mask_mode threshold or global."
            )


def with_backward(patcher: ModelPatcher) -> None:
    """Let a clone attend with PyTorch's own function where the host's choice may have no backward."""
    options = patcher.model_options.setdefault("transformer_options", {})
    previous = options.get(OVERRIDE)

    def override(func: Callable, *args: Any, **kwargs: Any) -> Tensor:
        func = host_attention.attention_pytorch
        return func(*args, **kwargs) if previous is None else previous(func, *args, **kwargs)

    options[OVERRIDE] = override


class GradientSampler(comfy.samplers.Sampler):
    """A sampler of the host that, instead of sampling, lets `work` use the guided model.

    work: (denoise, schedule, start_of) -> latent; start_of makes the first latent from noise, linearly.
    """

    def __init__(self, work: Callable[[Denoise, Schedule, Callable[[Tensor], Tensor]], Tensor]) -> None:
        self.work = work

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Tensor | None = None, denoise_mask: Tensor | None = None, disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        sampling = model_wrap.inner_model.model_sampling
        inner = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        inner.latent_image, inner.noise = latent_image, noise
        most = self.max_denoise(model_wrap, sigmas)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            level = torch.full((x.shape[0],), sigma, device=x.device, dtype=torch.float32)
            return inner(x, level, denoise_mask, **extra_args).to(x.dtype)

        def start_of(z: Tensor) -> Tensor:
            return sampling.noise_scaling(sigmas[0], z, latent_image, most)

        levels = tuple(float(sigma) for sigma in sigmas)
        one = torch.ones(1, device=noise.device)
        scales = tuple(float(sampling.calculate_input(one * level, one)) for level in levels)
        return sampling.inverse_noise_scaling(sigmas[-1], self.work(denoise, Schedule(levels, scales), start_of))
