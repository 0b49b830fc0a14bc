"""Gradients through ComfyUI's own sampling path: what has to be different from a plain run, and is put back after it.

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
from torch import Tensor, nn

from ...attention import hooks
from ...attention.compiled import uncompiled
from .errors import NoGradient
from .refusals import refuse_packed_weights
from .saved_tensors import clone_saved_tensors

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

OVERRIDE = hooks.OVERRIDE


@contextlib.contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Where autograd works: no inference mode, nothing compiled, ComfyUI's kernels without a backward are off."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        # Gradients are switched on where they are wanted.
        with uncompiled(), torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        comfy.model_management.in_training = before


def fully_loaded(patcher: ModelPatcher) -> ModelPatcher:
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
    with_normal_tensors(clone)
    return clone


def _in_working_precision(module: nn.Module) -> None:
    """Streamed weights are kept as in their file and cast when used; weights that stay must be cast once."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            wanted = getattr(part, f"{name}_comfy_model_dtype", None)
            if wanted is not None and type(parameter.data) is Tensor and parameter.is_floating_point():
                comfy.utils.set_attr_param(part, name, parameter.data.to(wanted))


def to_normal_tensors(module: nn.Module) -> None:
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


def with_normal_tensors(patcher: ModelPatcher) -> None:
    """As `to_normal_tensors`, for a patcher's model. ComfyUI knows weights that it has locked in memory by their
    address, so those are released before they are replaced."""
    if not patcher.is_dynamic():
        patcher.unpin_all_weights()
    to_normal_tensors(patcher.model)


def companions(patcher: ModelPatcher, conds: Sequence[Mapping[str, Any]]) -> list[ModelPatcher]:
    """Patchers of the models that take part beside the sampled one: ControlNets and the like."""
    models = list(patcher.get_nested_additional_models())
    for cond in conds:
        if cond.get("control") is not None:
            models += cond["control"].get_models()
        if cond.get("gligen") is not None:
            models.append(cond["gligen"][1])
    return models


def companions_to_normal_tensors(patcher: ModelPatcher, conds: Sequence[Mapping[str, Any]]) -> None:
    """As `to_normal_tensors`, for all models that take part. Raises NoGradient for those whose weights are streamed."""
    for companion in companions(patcher, conds):
        if companion.is_dynamic():
            raise NoGradient(
                f"The weights of {type(companion.model).__name__}, which takes part in sampling, are streamed (dynamic "
                "VRAM), so gradients could be wrong. Start ComfyUI with --disable-dynamic-vram, or remove it."
            )
        with_normal_tensors(companion)


def normal_copy(value: Any) -> Any:
    """A conditioning, latent or the like with copies of the tensors that were made in inference mode."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if type(value) is dict:
        return {key: normal_copy(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(normal_copy(inner) for inner in value)
    return value


def with_backward(patcher: ModelPatcher) -> None:
    """Let a clone attend with PyTorch's own function where ComfyUI's choice may have no backward."""
    options = patcher.model_options.setdefault("transformer_options", {})
    options[OVERRIDE] = with_gradient(options.get(OVERRIDE))


def with_gradient(previous: Callable | None) -> Callable:
    """An attention override with PyTorch's own function. previous: another node's, which is asked as ever."""

    def override(func: Callable, *args: Any, **kwargs: Any) -> Tensor:
        func = host_attention.attention_pytorch
        attended = func(*args, **kwargs) if previous is None else previous(func, *args, **kwargs)
        if not attended.requires_grad and any(isinstance(t, Tensor) and t.requires_grad for t in args):
            raise NoGradient("An attention node in the model has no gradient (Sage and the like). Remove it.")
        return attended

    setattr(override, hooks.BEYOND, override if previous is None else with_gradient(None))
    return override


def attributes_to_normal_tensors(owner: Any) -> None:
    """As `to_normal_tensors`, for tensors that are plain attributes."""
    for name, value in vars(owner).items():
        if isinstance(value, Tensor) and value.is_inference():
            setattr(owner, name, value.clone())


def saved_tensor_guard(
    patcher: ModelPatcher, conds: Sequence[Mapping[str, Any]]
) -> Callable[[], contextlib.AbstractContextManager]:
    """ComfyUI's networks overwrite what autograd has kept, all but plain UNets do somewhere: a context for each
    evaluation."""
    network = patcher.model.diffusion_model
    if isinstance(network, UNetModel) and not any(cond.get("control") is not None for cond in conds):
        return contextlib.nullcontext
    return clone_saved_tensors([network, *(companion.model for companion in companions(patcher, conds))])


def loaded_to_normal_tensors(patchers: list) -> None:
    """Models that gradients go through, after ComfyUI has loaded them: moving them to a GPU in inference mode makes
    tensors that autograd refuses. Raises NoGradient for what is loaded in part only, whose weights come and go."""
    with outside_inference_mode():
        for patcher in patchers:
            if getattr(patcher.model, "model_lowvram", False):
                raise NoGradient(
                    f"{type(patcher.model).__name__} does not fit into the GPU's memory as a whole, which gradients "
                    "need: take a tiny autoencoder as vae, a smaller scorer, or a smaller picture."
                )
            with_normal_tensors(patcher)
