"""The ShapesWorld generator as ComfyUI's own classes: UNet in a BaseModel, text tower in SDClipModel, KL autoencoder.

Shapes everywhere: pictures 256x256, latents [B, 4, 32, 32], text [B, 77, 256].
"""

from __future__ import annotations

import comfy.latent_formats
import comfy.model_base
import comfy.ops
import comfy.supported_models_base
import torch

TEXT_CONFIG = {
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "hidden_act": "gelu",
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
    "vocab_size": 49408,
}
UNET_CONFIG = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "channel_mult": [1, 2, 2],
    "num_res_blocks": [1, 2, 1],
    "transformer_depth": [0, 1, 1, 1],
    "transformer_depth_output": [0, 0, 1, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": TEXT_CONFIG["hidden_size"],
    "use_spatial_transformer": True,
    "legacy": False,
    "use_linear_in_transformer": True,
    "num_heads": -1,
    "num_head_channels": 32,
    "use_checkpoint": False,
    "use_temporal_attention": False,
    "adm_in_channels": None,
}
_CODER = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "attn_resolutions": [],
    "dropout": 0.0,
}
# A thin encoder (three strided convolutions, then residual blocks at 32x32) and a decoder wide only where it is cheap:
# together a ninth of the arithmetic of a TAESD-shaped pair, which is what lets every evaluation run on a CPU.
VAE_CONFIG = {
    "ddconfig": {**_CODER, "ch": 64, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 0},
    "decoder_ddconfig": {**_CODER, "ch": 32, "ch_mult": [1, 1, 2, 4], "num_res_blocks": 0},
    "embed_dim": 4,
}


class ShapesWorldLatent(comfy.latent_formats.LatentFormat):
    """Latents scaled to unit variance; the color factors give ComfyUI's step previews."""

    def __init__(
        self,
        scale_factor: float = 1.0,
        rgb_factors: list[list[float]] | None = None,
        rgb_bias: list[float] | None = None,
    ):
        self.scale_factor = scale_factor
        self.latent_rgb_factors = rgb_factors
        self.latent_rgb_factors_bias = rgb_bias


class ShapesWorldConfig(comfy.supported_models_base.BASE):
    """What ComfyUI wants to know of a model family; v-prediction on the Stable Diffusion noise schedule."""

    unet_config: dict = {}
    unet_extra_config: dict = {}
    memory_usage_factor = 1.0

    def __init__(self, latent_format: comfy.latent_formats.LatentFormat):
        super().__init__(dict(UNET_CONFIG))
        self.latent_format = latent_format

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION


def unet(operations=comfy.ops.disable_weight_init) -> torch.nn.Module:
    """A bare UNetModel with uninitialized weights (ComfyUI's layers skip initialization)."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    return UNetModel(**UNET_CONFIG, dtype=torch.float32, operations=operations)


def autoencoder() -> torch.nn.Module:
    """A bare AutoencoderKL with uninitialized weights; its pictures are in -1..1, its latents not yet scaled."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    return AutoencoderKL(**VAE_CONFIG)
