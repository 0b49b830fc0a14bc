"""Small randomly initialized models of ComfyUI's own classes, with peaked attention, and ways to sample from them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.cldm.cldm
import comfy.context_windows
import comfy.controlnet
import comfy.k_diffusion.sampling
import comfy.model_base
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.supported_models
import torch
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from torch import Tensor

CPU = torch.device("cpu")
CONTEXT = 32  # width of the text features
MIDDLE = "middle_block.1.transformer_blocks.0"

# Four levels, so the middle block sees 1/8 of the latent, as in SD1.5; attention where it is cheap.
SD15 = {
    "num_res_blocks": [1, 1, 1, 1],
    "channel_mult": [1, 1, 1, 1],
    "transformer_depth": [0, 0, 1, 0],
    "transformer_depth_output": [0, 0, 0, 0, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": False,
}
# Three levels, several layers per block, class vector: the shape of SDXL.
SDXL = {
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 1, 1],
    "transformer_depth": [0, 1, 2],
    "transformer_depth_output": [0, 0, 1, 1, 2, 2],
    "transformer_depth_middle": 3,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
# ShapesWorld's: shallow, for 32x32 latents.
SHALLOW = {
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 1, 1],
    "transformer_depth": [0, 1, 1],
    "transformer_depth_output": [0, 0, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": True,
}
KINDS = {"sd15": SD15, "sd2": {**SD15, "use_linear_in_transformer": True}, "sdxl": SDXL, "shallow": SHALLOW}


def initialize(network: torch.nn.Module, seed: int, peak: float) -> None:
    """Give every value that a checkpoint brings one (ComfyUI's layers have none); q and k make attention peaked."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2:
            parameter.data.normal_(0, 0.05, generator=generator)
            if name.endswith("weight"):  # a norm
                parameter.data.add_(1.0)
            continue
        parameter.data.normal_(0, 1 / math.sqrt(parameter[0].numel()), generator=generator)
        if ".to_q." in name or ".to_k." in name:
            parameter.data.mul_(peak)
    generator = torch.Generator().manual_seed(seed)
    saved = network.state_dict()
    for name, buffer in network.named_buffers():  # tables of positions and frequencies
        if name in saved and buffer.is_floating_point():
            buffer.data.normal_(generator=generator)


def left_to_chance(build: Callable[[], comfy.model_patcher.ModelPatcher]) -> list[str]:
    """Values of the model that it would read from memory as it happens to be: none is what is right."""
    torch.use_deterministic_algorithms(True)  # memory that nobody filled is NaN then
    try:
        made = build()
    finally:
        torch.use_deterministic_algorithms(False)
    return [name for name, value in made.model.diffusion_model.state_dict().items() if not value.isfinite().all()]


def unet(
    kind: str = "sd15", prediction: comfy.model_base.ModelType = comfy.model_base.ModelType.EPS, seed: int = 0,
    peak: float = 1.5, **changes: Any,
) -> comfy.model_patcher.ModelPatcher:  # fmt: skip
    """A UNet of the given shape in a ModelPatcher on the CPU, float32; `changes` go into its configuration."""
    config = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "context_dim": CONTEXT,
        "use_spatial_transformer": True, "legacy": False, "dtype": torch.float32, **KINDS[kind], **changes,
    }  # fmt: skip
    family = comfy.supported_models.SDXL if kind == "sdxl" else comfy.supported_models.SD15
    settings = family(config)
    settings.unet_config.update(num_heads=4, num_head_channels=-1)
    make = comfy.model_base.SDXL if kind == "sdxl" else comfy.model_base.BaseModel
    model = make(settings, prediction, device=CPU)
    initialize(model.diffusion_model, seed, peak)
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


def prompt(seed: int, tokens: int = 77, **extra: Any) -> list:
    """A CONDITIONING with random text features."""
    generator = torch.Generator().manual_seed(1000 + seed)
    features = torch.randn(1, tokens, CONTEXT, generator=generator)
    return [[features, {"pooled_output": torch.randn(1, 1280, generator=generator), **extra}]]


def noise(height: int = 64, width: int = 64, batch: int = 1, seed: int = 0) -> Tensor:
    """Latent noise for a picture of 8 * height by 8 * width pixels; each sample has its own seed."""
    shape = (1, 4, height, width)
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed + i)) for i in range(batch)])


def sample(
    model: comfy.model_patcher.ModelPatcher, start: Tensor, cfg: float = 5.0, steps: int = 3,
    positive: list | None = None, negative: list | None = None, sampler: str = "euler", scheduler: str = "normal",
    **extra: Any,
) -> Tensor:  # fmt: skip
    """Sample with ComfyUI's KSampler path; returns the latent."""
    latent = extra.pop("latent", torch.zeros_like(start))
    with torch.inference_mode():
        return comfy.sample.sample(
            model, start, steps, cfg, sampler, scheduler, positive or prompt(1), negative or prompt(2), latent,
            disable_pbar=True, seed=0, **extra,
        )  # fmt: skip


def sample_with(guider: comfy.samplers.CFGGuider, start: Tensor, steps: int = 3, sampler: str = "euler") -> Tensor:
    """Sample with a guider, as SamplerCustomAdvanced does."""
    sampling = guider.model_patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
    with torch.inference_mode():
        kind = comfy.samplers.sampler_object(sampler)
        return guider.sample(start, torch.zeros_like(start), kind, sigmas, disable_pbar=True, seed=0)


@contextmanager
def watching(model: comfy.model_patcher.ModelPatcher, at: str = MIDDLE) -> Iterator[list]:
    """Log every evaluation of the network inside: chunks (cond indices), sigma, uuids, options, its input x and output.

    q and k are those of the self-attention of transformer block `at`, taken from its layers, not through any hook of
    ComfyUI: [batch, tokens, heads * dim].
    """
    network, calls = model.model.diffusion_model, []
    original: Callable = network.forward
    attention = network.get_submodule(at).attn1 if at else None

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        options = kwargs["transformer_options"]
        call = {"chunks": list(options["cond_or_uncond"]), "sigma": float(options["sigmas"][0]), "x": x}
        calls.append({**call, "uuids": list(options["uuids"]), "options": options})
        calls[-1]["output"] = original(x, *args, **kwargs)
        return calls[-1]["output"]

    def keep(name: str) -> Callable:
        return lambda module, inputs, output: calls[-1].__setitem__(name, output)

    handles = [] if attention is None else [
        attention.to_q.register_forward_hook(keep("q")), attention.to_k.register_forward_hook(keep("k")),
    ]  # fmt: skip
    network.forward = forward
    try:
        yield calls
    finally:
        del network.forward
        for handle in handles:
            handle.remove()


def windowed(model: Any, length: int = 4, overlap: int = 2, axis: int = 0) -> Any:
    """ComfyUI's context windows along an axis of the latent."""
    return ContextWindowsManualNode.execute(
        model, context_length=length, context_overlap=overlap, context_stride=1, closed_loop=False, dim=axis,
        context_schedule=comfy.context_windows.ContextSchedules.STATIC_STANDARD,
        fuse_method=comfy.context_windows.ContextFuseMethods.PYRAMID, freenoise=False,
    ).result[0]  # fmt: skip


def adds_noise(sampler: str) -> bool:
    """Whether a sampler draws noise of its own, which differs between places in a batch."""
    function = getattr(comfy.k_diffusion.sampling, f"sample_{sampler}", None)
    return function is not None and "noise_sampler" in inspect.signature(function).parameters


def controlnet() -> tuple[torch.nn.Module, comfy.controlnet.ControlNet]:
    """A ControlNet for "sd15": its network and ComfyUI's object, not yet given a hint."""
    shape = {**SD15, "image_size": 32, "in_channels": 4, "model_channels": 32, "context_dim": CONTEXT,
             "use_spatial_transformer": True, "legacy": False, "dtype": torch.float32, "num_heads": 4,
             "num_head_channels": -1, "hint_channels": 3, "operations": comfy.ops.disable_weight_init}  # fmt: skip
    shape.pop("transformer_depth_output")
    network = comfy.cldm.cldm.ControlNet(**shape)
    initialize(network, 5, 1.0)
    return network, comfy.controlnet.ControlNet(network, load_device=CPU)


def lora_parts() -> tuple[Tensor, Tensor]:
    """A LoRA's two factors for the queries of the middle block."""
    generator = torch.Generator().manual_seed(9)
    return torch.randn(4, 32, generator=generator) * 0.3, torch.randn(32, 4, generator=generator) * 0.3


def lora_change() -> Tensor:
    """What `with_lora` adds to the weight."""
    down, up = lora_parts()
    return up @ down


def with_lora(patcher: Any) -> Any:
    """The model with a LoRA, as ComfyUI's loader adds it."""
    at, (down, up) = f"diffusion_model.{MIDDLE}.attn1.to_q", lora_parts()
    lora = {f"{at}.lora_down.weight": down, f"{at}.lora_up.weight": up}
    return comfy.sd.load_lora_for_models(patcher, None, lora, 1.0, 0.0)[0]


def pixart() -> comfy.model_patcher.ModelPatcher:
    """A small PixArt: its attention reaches no override, so the pack cannot read it."""
    config = {
        "image_model": "pixart_alpha", "input_size": 32, "patch_size": 2, "in_channels": 4, "hidden_size": 64,
        "depth": 1, "num_heads": 2, "caption_channels": CONTEXT, "micro_condition": False,
        "dtype": torch.float32,
    }  # fmt: skip
    model = comfy.model_base.PixArt(comfy.supported_models.PixArtAlpha(config), device=CPU)
    initialize(model.diffusion_model, 0, 1.0)
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)
