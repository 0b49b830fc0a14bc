"""ShapesWorld-DiT: a small flow transformer of ComfyUI's own Lumina 2 class (Z-Image's too), on the same latents.

Latents [B, 4, 32, 32] are 256 tokens of 2x2. Its text is CLIP A's, whose table has a few more rows: words for places,
trained together with the transformer. Prompts are padded to 48 tokens in place of 77: a tenth of its arithmetic.
"""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.ops
import comfy.sd1_clip
import comfy.supported_models
import torch
from comfy.ldm.lumina.model import NextDiT
from torch import Tensor

from . import generator

SHIFT = 2.0  # of the noise levels, in training as in sampling: places and kinds are decided where it is noisy
END = generator.TEXT_CONFIG["eos_token_id"]
TOKENS = 48  # of a prompt; one in thousands of captions with four long places is longer
CONFIG: dict[str, Any] = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 4,
    "dim": 192,
    "n_layers": 6,
    "n_refiner_layers": 1,
    "n_heads": 3,
    "n_kv_heads": 3,
    "multiple_of": 32,
    "ffn_dim_multiplier": 8 / 3,
    "qk_norm": True,
    "cap_feat_dim": generator.TEXT_CONFIG["hidden_size"],
    "axes_dims": [16, 24, 24],
    "axes_lens": [1, 512, 512],
    "rope_theta": 100.0,  # 16 tokens to a side: slower waves would tell them nothing
    "time_scale": 1000.0,
}


class Config(comfy.supported_models.Lumina2):
    """ComfyUI's description of the transformer: velocity prediction on its flow schedule."""

    unet_config: dict = {}
    sampling_settings = {"multiplier": 1.0, "shift": SHIFT}
    memory_usage_factor = 1.0

    def __init__(self, latent_format: comfy.latent_formats.LatentFormat) -> None:
        super().__init__(dict(CONFIG))
        self.latent_format = latent_format


def network(operations: Any = comfy.ops.disable_weight_init) -> torch.nn.Module:
    """A bare NextDiT with uninitialized weights."""
    return NextDiT(**CONFIG, dtype=torch.float32, device="cpu", operations=operations)


class TextModel(comfy.sd1_clip.SD1ClipModel):
    """CLIP A's text tower, of whose 77 tokens the padding behind the 48th is left out."""

    def encode_token_weights(self, token_weight_pairs: dict[str, list]) -> tuple[Tensor, Tensor | None]:
        """Sections of (id, weight) -> the prompt [1, at least 48, 256], CLIP A's vector [1, 256]."""
        encoded, pooled = super().encode_token_weights(token_weight_pairs)[:2]
        *whole, last = token_weight_pairs[self.clip_name]
        ends = (i for i, (token, *_) in enumerate(last) if isinstance(token, int) and token == END)
        used = sum(map(len, whole)) + next(ends, len(last) - 1) + 1
        return encoded[:, : max(TOKENS, used)], pooled
