"""Small randomly initialized transformers of ComfyUI's own classes, one per family the pack reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import comfy.ldm.flux.math
import comfy.ldm.lumina.model
import comfy.ldm.modules.diffusionmodules.mmdit
import comfy.ldm.qwen_image.model
import comfy.ldm.wan.model
import comfy.model_base
import comfy.model_patcher
import comfy.supported_models
import tiny_models as tiny
import torch
from torch import Tensor

CHANNELS = 16
TEXT = 13  # tokens of a prompt


@dataclass(frozen=True)
class Kind:
    """How a family is built and what its attention calls look like.

    calls: block names of the image's own attention calls -> their place among all attention calls of a forward pass.
    """

    config: dict[str, Any]
    settings: type
    model: type
    module: Any  # whose attention function the network calls
    function: str
    calls: dict[str, int]
    video: bool = False
    pad: int = 1  # image tokens are padded to a multiple of this


SD3 = Kind(
    {"input_size": None, "in_channels": CHANNELS, "patch_size": 2, "depth": 2, "num_blocks": 3, "num_patches": 4096,
     "pos_embed_max_size": 64, "adm_in_channels": 1280, "qk_norm": "rms", "x_block_self_attn_layers": [0, 1],
     "context_embedder_config": {"target": "torch.nn.Linear",
                                 "params": {"in_features": tiny.CONTEXT, "out_features": 128}}},
    comfy.supported_models.SD3, comfy.model_base.SD3, comfy.ldm.modules.diffusionmodules.mmdit, "optimized_attention",
    {"double.0": 0, "double.0.1": 1, "double.1": 2, "double.1.1": 3, "double.2": 4},
)  # fmt: skip
_FLUX = {
    "in_channels": CHANNELS, "out_channels": CHANNELS, "vec_in_dim": 1280, "context_in_dim": tiny.CONTEXT,
    "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "axes_dim": [8, 12, 12],
    "theta": 10000, "patch_size": 2, "qkv_bias": True, "txt_ids_dims": [],
}  # fmt: skip
FLUX = Kind(
    {"image_model": "flux", "guidance_embed": True, **_FLUX},
    comfy.supported_models.Flux, comfy.model_base.Flux, comfy.ldm.flux.math, "optimized_attention",
    {"double.0": 0, "double.1": 1, "single.0": 2, "single.1": 3},
)  # fmt: skip
CHROMA = Kind(
    {"image_model": "chroma", **_FLUX, "in_channels": 4 * CHANNELS, "out_channels": 4 * CHANNELS, "in_dim": 64,
     "out_dim": 64, "hidden_dim": 32, "n_layers": 1},
    comfy.supported_models.Chroma, comfy.model_base.Chroma, comfy.ldm.flux.math, "optimized_attention",
    {"double.0": 0, "double.1": 1, "single.0": 2, "single.1": 3},
)  # fmt: skip
QWEN = Kind(
    {"image_model": "qwen_image", "in_channels": 4 * CHANNELS, "out_channels": CHANNELS, "num_layers": 3,
     "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": tiny.CONTEXT,
     "axes_dims_rope": (8, 12, 12)},
    comfy.supported_models.QwenImage, comfy.model_base.QwenImage, comfy.ldm.qwen_image.model,
    "optimized_attention_masked", {"double.0": 0, "double.1": 1, "double.2": 2}, video=True,
)  # fmt: skip
_LUMINA = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": CHANNELS, "dim": 64, "n_layers": 3, "n_refiner_layers": 1,
    "n_heads": 2, "n_kv_heads": 1, "multiple_of": 32, "cap_feat_dim": tiny.CONTEXT, "axes_dims": [8, 12, 12],
    "axes_lens": [300, 512, 512], "qk_norm": True,
}  # fmt: skip
LUMINA = Kind(
    _LUMINA, comfy.supported_models.Lumina2, comfy.model_base.Lumina2, comfy.ldm.lumina.model,
    "optimized_attention_masked", {"double.0": 2, "double.1": 3, "double.2": 4},
)  # fmt: skip
ZIMAGE = Kind(
    {**_LUMINA, "dim": 256, "n_heads": 8, "n_kv_heads": 8, "z_image_modulation": True, "time_scale": 1000.0,
     "pad_tokens_multiple": 32},
    comfy.supported_models.ZImage, comfy.model_base.Lumina2, comfy.ldm.lumina.model, "optimized_attention_masked",
    {"double.0": 2, "double.1": 3, "double.2": 4}, pad=32,
)  # fmt: skip
WAN = Kind(
    {"image_model": "wan2.1", "model_type": "t2v", "in_dim": CHANNELS, "out_dim": CHANNELS, "dim": 64, "ffn_dim": 128,
     "text_dim": tiny.CONTEXT, "num_heads": 2, "num_layers": 3},
    comfy.supported_models.WAN21_T2V, comfy.model_base.WAN21, comfy.ldm.wan.model, "optimized_attention",
    {"double.0": 0, "double.1": 2, "double.2": 4}, video=True,
)  # fmt: skip
KINDS = {"sd3": SD3, "flux": FLUX, "chroma": CHROMA, "qwen": QWEN, "lumina": LUMINA, "zimage": ZIMAGE, "wan": WAN}


def build(name: str, seed: int = 0, **changes: Any) -> comfy.model_patcher.ModelPatcher:
    """A small model of the family in a ModelPatcher on the CPU, float32; `changes` go into its configuration."""
    kind = KINDS[name]
    settings = kind.settings({**kind.config, "dtype": torch.float32, **changes})
    model = kind.model(settings, device=tiny.CPU)
    network = model.diffusion_model
    tiny.initialize(network, seed, 1.0)
    for label, parameter in network.named_parameters():
        if parameter.ndim == 1 and ("norm" in label or ".ln_" in label):  # those of q and k make attention peaked
            parameter.data.mul_(1.6)
    if getattr(network, "pos_embed", None) is not None:
        network.pos_embed.copy_(torch.randn(network.pos_embed.shape, generator=torch.Generator().manual_seed(seed)))
    return comfy.model_patcher.ModelPatcher(model, tiny.CPU, tiny.CPU)


def noise(name: str, height: int = 16, width: int = 24, frames: int = 1, batch: int = 1, seed: int = 0) -> Tensor:
    """Latent noise; each sample has its own seed."""
    middle = (frames,) if KINDS[name].video else ()
    shape = (1, CHANNELS, *middle, height, width)
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed + i)) for i in range(batch)])


def prompt(seed: int, **extra: Any) -> list:
    return tiny.prompt(seed, tokens=TEXT, **extra)


def sample(model: Any, start: Tensor, **settings: Any) -> Tensor:
    return tiny.sample(model, start, **{"positive": prompt(1), "negative": prompt(2), **settings})


@contextmanager
def watching(model: comfy.model_patcher.ModelPatcher, name: str) -> Iterator[list[dict[str, Any]]]:
    """Log every evaluation of the network: chunks, uuids, its input, and q and k of every attention call in order.

    q and k are [batch, heads, tokens, dim], seen where the network calls the attention function: not through a hook.
    """
    kind, network, calls = KINDS[name], model.model.diffusion_model, []
    forward, attention = network.forward, getattr(kind.module, kind.function)

    def logged_forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        options = kwargs["transformer_options"]
        calls.append({"chunks": list(options["cond_or_uncond"]), "uuids": list(options["uuids"]), "x": x, "qk": []})
        calls[-1]["output"] = forward(x, *args, **kwargs)
        return calls[-1]["output"]

    def logged_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        def split(t: Tensor) -> Tensor:
            return t if kwargs.get("skip_reshape") else t.unflatten(-1, (heads, -1)).transpose(1, 2)

        calls[-1]["qk"].append((split(q).clone(), split(k).clone()))
        return attention(q, k, v, heads, *args, **kwargs)

    network.forward = logged_forward
    try:
        with mock.patch.object(kind.module, kind.function, logged_attention):
            yield calls
    finally:
        del network.forward


def tokens(name: str, size: tuple[int, ...]) -> tuple[int, ...]:
    """Token grid of a latent size (axes after the channels): pairs of pixels, one frame each."""
    return (*size[:-2], -(-size[-2] // 2), -(-size[-1] // 2))
