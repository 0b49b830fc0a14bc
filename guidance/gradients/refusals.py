"""Models of which no right gradient can be taken, refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from comfy.ldm.cosmos.predict2 import MiniTrainDIT
from comfy.ldm.joyimage.model import JoyImageTransformer3DModel
from comfy.ldm.minimax.model import MiniMaxH3Model
from comfy.quant_ops import QuantizedTensor
from torch import Tensor, nn

from ...attention import hooks
from ..wrapper_keys import CLIP_GUIDANCE, EXPERTS
from .errors import NoGradient

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


PLAIN_TENSORS = (Tensor, nn.Parameter, nn.Buffer)


# Networks that run norms and rotations in one kernel without a way back, also in training.
FUSED = (MiniTrainDIT, JoyImageTransformer3DModel, MiniMaxH3Model)
PAST_MODEL = "Optimize Latent can also go past a sampled model (preset default, or gradient_path past_model)."
STEP_CACHES = ("easycache", "lazycache")  # wrappers that skip evaluations by what they saw in steps before


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
                    f"files are, so no gradient is taken through them. Load it from a safetensors file. {PAST_MODEL}"
                )


def refuse_what_loses_gradient(patcher: ModelPatcher, conds: Sequence[Mapping[str, Any]] = ()) -> None:
    """Raise NoGradient for a model of whose prediction no gradient can be taken."""
    refuse_packed_weights(patcher.model)
    if isinstance(patcher.model.diffusion_model, FUSED):
        raise NoGradient(
            f"ComfyUI runs a part of {type(patcher.model).__name__}'s attention in one kernel that has no gradient. "
            f"{PAST_MODEL}"
        )
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
            "Latent with preset default, or gradient_path past_model)."
        )


def refuse_what_guidance_hides(patcher: ModelPatcher) -> None:
    """Raise NoGradient where the guided result depends on the model's attention in ways that are not followed back."""
    options = patcher.model_options
    for technique in options.get("transformer_options", {}).get(hooks.TECHNIQUES, ()):
        if getattr(technique, "every_n_steps", 1) > 1:
            raise NoGradient(
                "Self-Attention Guidance reuses its guidance in the steps between, which has no gradient. Set "
                "every_n_steps to 1."
            )
        if getattr(technique, "mask_mode", "") == "soft":
            raise NoGradient(
                "Self-Attention Guidance's soft mask depends on the attention in a way that is not followed back. Use "
                "mask_mode threshold or global."
            )


def refuse_step_caches(patcher: ModelPatcher) -> None:
    """Raise NoGradient for wrappers that remember earlier steps: they would remember those of an earlier trial. Those
    of experts count, too."""
    experts = patcher.get_attachment(EXPERTS) or ()
    for at, model in enumerate((patcher, *experts)):
        for cache in STEP_CACHES:
            if cache in _wrappers(model):
                who = f"Expert {at}" if at else "The model"
                raise NoGradient(f"{who} has {cache}, which skips steps by what it saw before. Remove that node.")


def refuse_clip_guidance(patcher: ModelPatcher) -> None:
    """Raise NoGradient for CLIP guidance, whose push is a gradient itself and is not followed back."""
    if CLIP_GUIDANCE in _wrappers(patcher):
        raise NoGradient(
            "The model has CLIP Guidance, whose push has no gradient. Remove it, or use gradient_path past_model "
            "(as in preset default)."
        )


def _wrappers(patcher: ModelPatcher) -> set[str]:
    return {str(key).lower() for kinds in patcher.wrappers.values() for key in kinds}


def refuse_streaming(model: Any) -> None:
    """Raise NoGradient for a model whose weights come and go while it is evaluated."""
    if getattr(model, "model_lowvram", False):
        raise NoGradient(
            "The model does not fit into the GPU's memory as a whole, which gradients need. Use a smaller model, or "
            "one in half precision or fp8, or go past it (Optimize Latent with preset default, or "
            "gradient_path past_model)."
        )
