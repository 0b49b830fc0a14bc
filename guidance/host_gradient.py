"""Gradients through the host's own sampling path: what has to be different from a plain run, and is put back after it.

ComfyUI runs nodes in inference mode, whose tensors autograd refuses; streams weights, which may be overwritten before
the way back needs them; and may attend with kernels that have no backward. So a gradient run takes place outside of
inference mode, on a patcher whose weights stay, with PyTorch's attention, and one that cannot give right gradients is
refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from comfy.ldm.modules import attention as host_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.quant_ops import QuantizedTensor
from torch import Tensor, nn

from ..attention import hooks
from ..attention.compiled import uncompiled
from .reversible import Denoise, NoGradient, Schedule
from .saved_tensors import kept_apart

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

OVERRIDE = hooks.OVERRIDE
PLAIN_TENSORS = (Tensor, nn.Parameter, nn.Buffer)
STEP_CACHES = ("easycache", "lazycache")  # wrappers that skip evaluations by what they saw in steps before
GUIDANCE = "fovea_clip_guidance"  # the wrapper of host_clip_guidance
EXPERTS = "fovea_experts"  # those of host_experts


@contextlib.contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Where autograd works: no inference mode, nothing compiled, the host's kernels without a backward are off."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        # Gradients are switched on where they are wanted.
        with uncompiled(), torch.inference_mode(False), torch.no_grad():
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
        _in_working_precision(clone.model)
    else:
        clone = patcher.clone()
    make_ordinary(clone.model)
    return clone


def _in_working_precision(module: nn.Module) -> None:
    """Streamed weights are kept as in their file and cast when used; weights that stay must be cast once."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            wanted = getattr(part, f"{name}_comfy_model_dtype", None)
            if wanted is not None and type(parameter.data) is Tensor and parameter.is_floating_point():
                comfy.utils.set_attr_param(part, name, parameter.data.to(wanted))


def refuse_packed_weights(*modules: nn.Module) -> None:
    """Raise NoGradient for weights that may not survive being copied, before anything is touched.

    PyTorch's own tensors and ComfyUI's quantized ones do. Other subclasses keep weights packed (GGUF files and the
    like): a copy may lose what makes them weights, and the model would be broken until it is loaded anew.
    """
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            if type(tensor) not in PLAIN_TENSORS and not isinstance(tensor, QuantizedTensor):
                raise NoGradient(
                    f"The weights of {type(module).__name__} are packed ({type(tensor).__name__}), as those of GGUF "
                    "files are, so no gradient is taken through them. Load it from a safetensors file. Optimize Latent "
                    "can also go past a sampled model (through 0)."
                )


def make_ordinary(module: nn.Module) -> None:
    """Replace tensors made in inference mode, which autograd refuses, by copies. Their values and ties stay.

    Raises NoGradient for packed weights, which are left as they are.
    """
    refuse_packed_weights(module)
    copies: dict[int, nn.Parameter] = {}
    for name, parameter in list(module.named_parameters(remove_duplicate=False)):
        if parameter.is_inference():
            if id(parameter) not in copies:
                copies[id(parameter)] = nn.Parameter(parameter.data.clone(), requires_grad=False)
            comfy.utils.set_attr(module, name, copies[id(parameter)])
    for name, buffer in list(module.named_buffers(remove_duplicate=False)):
        if buffer.is_inference():
            comfy.utils.set_attr(module, name, buffer.clone())
    module.requires_grad_(False)


def companions(patcher: ModelPatcher, conds: Sequence[Mapping[str, Any]]) -> list[ModelPatcher]:
    """Patchers of the models that take part beside the sampled one: ControlNets and the like."""
    found = list(patcher.get_nested_additional_models())
    for cond in conds:
        if cond.get("control") is not None:
            found += cond["control"].get_models()
        if cond.get("gligen") is not None:
            found.append(cond["gligen"][1])
    return found


def make_companions_ordinary(patcher: ModelPatcher, conds: Sequence[Mapping[str, Any]]) -> None:
    """As `make_ordinary`, for all models that take part. Raises NoGradient for those whose weights are streamed."""
    for companion in companions(patcher, conds):
        if companion.is_dynamic():
            raise NoGradient(
                f"The weights of {type(companion.model).__name__}, which takes part in sampling, are streamed (dynamic "
                "VRAM), so gradients could be wrong. Start ComfyUI with --disable-dynamic-vram, or remove it."
            )
        make_ordinary(companion.model)


def ordinary(value: Any) -> Any:
    """A conditioning, latent or the like with copies of the tensors that were made in inference mode."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if type(value) is dict:
        return {key: ordinary(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(ordinary(inner) for inner in value)
    return value


def refuse_what_loses_gradient(patcher: ModelPatcher, conds: Sequence[Mapping[str, Any]] = ()) -> None:
    """Raise NoGradient for a model of whose prediction no gradient can be taken."""
    refuse_packed_weights(patcher.model)
    if any(cond.get("hooks") is not None for cond in conds):
        raise NoGradient(
            "A prompt has hooks that change the model's weights while it is sampled. Load their LoRA for the whole run."
        )
    options = patcher.model_options
    if patcher.get_additional_models_with_key("multigpu"):
        raise NoGradient("The model runs on several GPUs, where no gradients are taken. Remove the multi-GPU node.")
    if options.get("context_handler") is not None:
        raise NoGradient("The model has context windows, through which no gradient is taken. Remove that node.")
    refuse_step_caches(patcher)
    if EXPERTS in _wrappers(patcher):
        raise NoGradient(
            "The model has an Expert Switch, whose models give no gradient. Connect one model, or go past it (Optimize "
            "Latent with through 0)."
        )


def refuse_what_guidance_hides(patcher: ModelPatcher) -> None:
    """Raise NoGradient where the guided result depends on the model's attention in ways that are not followed back."""
    options = patcher.model_options
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


def refuse_step_caches(patcher: ModelPatcher) -> None:
    """Raise NoGradient for wrappers that remember earlier steps: they would remember those of an earlier trial."""
    for cache in STEP_CACHES:
        if cache in _wrappers(patcher):
            raise NoGradient(f"The model has {cache}, which skips steps by what it saw before. Remove that node.")


def refuse_clip_guidance(patcher: ModelPatcher) -> None:
    """Raise NoGradient for CLIP guidance, whose push is a gradient itself and is not followed back."""
    if GUIDANCE in _wrappers(patcher):
        raise NoGradient("The model has CLIP Guidance, whose push has no gradient. Remove it, or set through to 0.")


def _wrappers(patcher: ModelPatcher) -> set[str]:
    return {str(key).lower() for kinds in patcher.wrappers.values() for key in kinds}


def with_backward(patcher: ModelPatcher) -> None:
    """Let a clone attend with PyTorch's own function where the host's choice may have no backward."""
    options = patcher.model_options.setdefault("transformer_options", {})
    previous = options.get(OVERRIDE)

    def override(func: Callable, *args: Any, **kwargs: Any) -> Tensor:
        func = host_attention.attention_pytorch
        found = func(*args, **kwargs) if previous is None else previous(func, *args, **kwargs)
        if not found.requires_grad and any(isinstance(t, Tensor) and t.requires_grad for t in args):
            raise NoGradient("An attention node in the model has no gradient (Sage and the like). Remove it.")
        return found

    options[OVERRIDE] = override


def make_ordinary_values(owner: Any) -> None:
    """As `make_ordinary`, for tensors that are plain attributes."""
    for name, value in vars(owner).items():
        if isinstance(value, Tensor) and value.is_inference():
            setattr(owner, name, value.clone())


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
            make_ordinary_values(model_wrap.inner_model.latent_format)
        inner = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        inner.latent_image, inner.noise = latent_image, noise
        most = self.max_denoise(model_wrap, sigmas)
        every = [cond for found in model_wrap.conds.values() for cond in found or ()]
        apart = safe(model_wrap.model_patcher, every) if self.through_model else contextlib.nullcontext

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


def safe(patcher: ModelPatcher, conds: Sequence[Mapping[str, Any]]) -> Callable[[], contextlib.AbstractContextManager]:
    """The host's networks overwrite what autograd has kept, all but plain UNets do somewhere: a context for each
    evaluation."""
    network = patcher.model.diffusion_model
    if isinstance(network, UNetModel) and not any(cond.get("control") is not None for cond in conds):
        return contextlib.nullcontext
    return kept_apart([network, *(companion.model for companion in companions(patcher, conds))])


def refuse_streaming(model: Any) -> None:
    """Raise NoGradient for a model whose weights come and go while it is evaluated."""
    if getattr(model, "model_lowvram", False):
        raise NoGradient(
            "The model does not fit into the GPU's memory as a whole, which gradients need. Use a smaller model, or "
            "one in half precision or fp8, or go past it (Optimize Latent with through 0)."
        )
