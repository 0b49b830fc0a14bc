"""Small randomly initialized transformers of ComfyUI's own classes, one per family the pack reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import comfy.ldm.cosmos.predict2
import comfy.ldm.flux.math
import comfy.ldm.hidream.model
import comfy.ldm.joyimage.model
import comfy.ldm.kandinsky5.model
import comfy.ldm.krea2.model
import comfy.ldm.lens.model
import comfy.ldm.lumina.model
import comfy.ldm.modules.attention
import comfy.ldm.modules.diffusionmodules.mmdit
import comfy.ldm.qwen_image.model
import comfy.ldm.wan.model
import comfy.ldm.wan.vae
import comfy.model_base
import comfy.model_patcher
import comfy.sd
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
    channels: int = CHANNELS
    patch: int = 2  # latent pixels along a side of a token
    begin: int = TEXT  # tokens before the image's in its attention calls
    behind: int = 0  # tokens after the image's and its padding
    one_frame: bool = False  # of latents that have a frame axis
    gradients: bool = True  # whether ComfyUI's network has them
    flow: bool = True  # whether noise is mixed in as flow models have it
    odd: bool = True  # whether ComfyUI takes sizes that are no whole number of tokens

    @property
    def second(self) -> str:
        """The name of its second block."""
        return list(self.calls)[1] if "single.1" in self.calls and "double.1" not in self.calls else "double.1"


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
    "optimized_attention_masked", {"double.0": 0, "double.1": 1, "double.2": 2}, video=True, one_frame=True,
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
    {"double.0": 2, "double.1": 3, "double.2": 4}, pad=32, begin=32,
)  # fmt: skip
WAN = Kind(
    {"image_model": "wan2.1", "model_type": "t2v", "in_dim": CHANNELS, "out_dim": CHANNELS, "dim": 64, "ffn_dim": 128,
     "text_dim": tiny.CONTEXT, "num_heads": 2, "num_layers": 3},
    comfy.supported_models.WAN21_T2V, comfy.model_base.WAN21, comfy.ldm.wan.model, "optimized_attention",
    {"double.0": 0, "double.1": 2, "double.2": 4}, video=True, begin=0,
)  # fmt: skip
KREA2 = Kind(
    {"image_model": "krea2", "features": 128, "tdim": 32, "txtdim": tiny.CONTEXT // 2, "heads": 4, "kvheads": 2,
     "multiplier": 2, "layers": 3, "patch": 2, "channels": CHANNELS, "txtlayers": 2, "txtheads": 2, "txtkvheads": 2},
    comfy.supported_models.Krea2, comfy.model_base.Krea2, comfy.ldm.krea2.model, "optimized_attention_masked",
    {"single.0": 4, "single.1": 5, "single.2": 6}, video=True, one_frame=True,
)  # fmt: skip
RADIANCE = Kind(
    {"image_model": "chroma_radiance", **_FLUX, "in_channels": 3, "out_channels": 3, "patch_size": 16, "in_dim": 64,
     "out_dim": 64, "hidden_dim": 32, "n_layers": 1, "nerf_hidden_size": 16, "nerf_mlp_ratio": 2, "nerf_depth": 1,
     "nerf_max_freqs": 8, "nerf_tile_size": 512, "nerf_final_head_type": "conv", "nerf_embedder_dtype": torch.float32,
     "use_x0": False, "use_sequential_txt_ids": False},
    comfy.supported_models.ChromaRadiance, comfy.model_base.ChromaRadiance, comfy.ldm.flux.math, "optimized_attention",
    {"double.0": 0, "double.1": 1, "single.0": 2, "single.1": 3}, channels=3, patch=16,
)  # fmt: skip
_HUNYUAN = {
    "image_model": "hunyuan_video", "in_channels": CHANNELS, "out_channels": CHANNELS, "vec_in_dim": 1280,
    "context_in_dim": tiny.CONTEXT, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 2,
    "depth_single_blocks": 2, "axes_dim": [8, 12, 12], "theta": 256, "patch_size": [1, 2, 2], "qkv_bias": True,
    "guidance_embed": True, "byt5": False, "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None,
    "meanflow_sum": False,
}  # fmt: skip
HUNYUAN = Kind(
    _HUNYUAN, comfy.supported_models.HunyuanVideo, comfy.model_base.HunyuanVideo, comfy.ldm.flux.math,
    "optimized_attention", {"double.0": 0, "double.1": 1, "single.0": 2, "single.1": 3}, video=True, odd=False,
)  # fmt: skip
HUNYUAN_IMAGE = Kind(
    {**_HUNYUAN, "vec_in_dim": None, "in_channels": 64, "out_channels": 64, "patch_size": [1, 1], "axes_dim": [16, 16],
     "byt5": True, "guidance_embed": False},
    comfy.supported_models.HunyuanImage21, comfy.model_base.HunyuanImage21, comfy.ldm.flux.math, "optimized_attention",
    {"double.0": 0, "double.1": 1, "single.0": 2, "single.1": 3}, channels=64, patch=1,
)  # fmt: skip
KANDINSKY5 = Kind(
    {"image_model": "kandinsky5", "model_dim": 64, "ff_dim": 128, "time_dim": 32, "in_text_dim": tiny.CONTEXT,
     "in_text_dim2": 1280, "visual_embed_dim": 132, "num_text_blocks": 1, "num_visual_blocks": 3,
     "axes_dims": (8, 12, 12)},
    comfy.supported_models.Kandinsky5, comfy.model_base.Kandinsky5, comfy.ldm.kandinsky5.model,
    "optimized_attention", {"double.0": 1, "double.1": 3, "double.2": 5}, video=True, begin=0, odd=False,
)  # fmt: skip
COSMOS = Kind(
    {"image_model": "cosmos_predict2", "max_img_h": 64, "max_img_w": 64, "max_frames": 16, "in_channels": CHANNELS,
     "out_channels": CHANNELS, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 64, "num_blocks": 3,
     "num_heads": 2, "crossattn_emb_channels": tiny.CONTEXT, "pos_emb_cls": "rope3d", "use_adaln_lora": True,
     "adaln_lora_dim": 16},
    comfy.supported_models.CosmosT2IPredict2, comfy.model_base.CosmosPredict2, comfy.ldm.cosmos.predict2,
    "optimized_attention", {"double.0": 0, "double.1": 2, "double.2": 4}, video=True, begin=0, flow=False,
    gradients=False,
)  # fmt: skip


class Ltxv(comfy.model_base.LTXV):
    """Prompts of these tests bring no mask, which its own text encoder always does."""

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        text = kwargs["cross_attn"]
        return super().extra_conds(**{"attention_mask": torch.ones(text.shape[:2]).long(), **kwargs})


LTXV = Kind(
    {"image_model": "ltxv", "attention_head_dim": 24, "num_attention_heads": 2, "cross_attention_dim": 48,
     "caption_channels": tiny.CONTEXT, "num_layers": 3, "in_channels": 128},
    comfy.supported_models.LTXV, Ltxv, comfy.ldm.modules.attention, "optimized_attention",
    {"double.0": 0, "double.1": 2, "double.2": 4}, video=True, begin=0, channels=128, patch=1,
)  # fmt: skip
LENS = Kind(
    {"image_model": "lens", "in_channels": 128, "out_channels": 32, "num_layers": 3, "attention_head_dim": 32,
     "num_attention_heads": 2, "enc_hidden_dim": tiny.CONTEXT // 2, "selected_layer_index": (0, 1),
     "axes_dims_rope": (8, 12, 12)},
    comfy.supported_models.Lens, comfy.model_base.Lens, comfy.ldm.lens.model, "optimized_attention",
    {"double.0": 0, "double.1": 1, "double.2": 2}, channels=128, patch=1, begin=0, behind=TEXT,
)  # fmt: skip
JOYIMAGE = Kind(
    {"image_model": "joyimage", "patch_size": [1, 2, 2], "in_channels": CHANNELS, "hidden_size": 256,
     "num_attention_heads": 2, "text_dim": tiny.CONTEXT, "num_layers": 3},
    comfy.supported_models.JoyImage, comfy.model_base.JoyImage, comfy.ldm.joyimage.model, "optimized_attention",
    {"double.0": 0, "double.1": 1, "double.2": 2}, video=True, one_frame=True, begin=0, behind=TEXT,
    gradients=False,
)  # fmt: skip
LLAMA = 9  # tokens of Llama's text


class HiDream(comfy.model_base.HiDream):
    """Prompts of these tests bring no text of Llama's, which its own text encoder always does."""

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        llama = torch.randn(1, 4, LLAMA, tiny.CONTEXT, generator=torch.Generator().manual_seed(5))
        return super().extra_conds(**{"conditioning_llama3": llama, **kwargs})


HIDREAM = Kind(
    {"image_model": "hidream", "patch_size": 2, "in_channels": CHANNELS, "num_layers": 2, "num_single_layers": 2,
     "attention_head_dim": 32, "num_attention_heads": 2, "caption_channels": [tiny.CONTEXT, tiny.CONTEXT],
     "text_emb_dim": 1280, "num_routed_experts": 4, "num_activated_experts": 2, "axes_dims_rope": (8, 12, 12),
     "llama_layers": [0, 1, 2, 3]},
    comfy.supported_models.HiDream, HiDream, comfy.ldm.hidream.model, "optimized_attention",
    {"double.0": 0, "double.1": 1, "single.0": 2, "single.1": 3}, begin=0, behind=TEXT + 2 * LLAMA,
)  # fmt: skip
KINDS = {
    "sd3": SD3, "flux": FLUX, "chroma": CHROMA, "qwen": QWEN, "lumina": LUMINA, "zimage": ZIMAGE, "wan": WAN,
    "krea2": KREA2, "radiance": RADIANCE, "hunyuan": HUNYUAN, "hunyuan_image": HUNYUAN_IMAGE,
    "kandinsky5": KANDINSKY5, "cosmos": COSMOS, "ltxv": LTXV, "lens": LENS, "joyimage": JOYIMAGE,
    "hidream": HIDREAM,
}  # fmt: skip


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
        if parameter.ndim == 1 and "qknorm" in label:  # to which one is added when it is used
            parameter.data.add_(0.8)
    return comfy.model_patcher.ModelPatcher(model, tiny.CPU, tiny.CPU)


def video_vae() -> comfy.sd.VAE:
    """Wan 2.1's decoder, Qwen-Image's too, narrow, as ComfyUI loads it."""
    network = comfy.ldm.wan.vae.WanVAE(dim=8, z_dim=CHANNELS, temperal_downsample=[False, True, True])
    tiny.initialize(network, 0, 1.0)
    return comfy.sd.VAE(sd=network.state_dict(), device=tiny.CPU, dtype=torch.float32)


def noise(name: str, height: int = 16, width: int = 24, frames: int = 1, batch: int = 1, seed: int = 0) -> Tensor:
    """Latent noise for as many tokens as patches of two would make; each sample has its own seed."""
    kind = KINDS[name]
    middle = () if not kind.video else (1 if kind.one_frame else frames,)
    times = max(1, kind.patch // 2)
    shape = (1, kind.channels, *middle, height * times, width * times)
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
    """Token grid of a latent size (axes after the channels), one frame each."""
    patch = KINDS[name].patch
    return (*size[:-2], -(-size[-2] // patch), -(-size[-1] // patch))
