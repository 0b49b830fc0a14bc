"""ShapesWorld's evaluators: CLIP A, CLIP B and the reader, built with `operations=` so that ComfyUI can cast them.

CLIP A is the one that conditions the generator and may be optimized against; CLIP B shares neither weights, seed nor
architecture with it and only scores. The reader names the class of every pixel: it stands in for an object detector.
"""

from __future__ import annotations

import comfy.clip_model
import comfy.ops
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .generator import TEXT_CONFIG

VISION_CONFIG = {
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "intermediate_size": 768,
    "hidden_act": "gelu",
    "image_size": 128,
    "patch_size": 16,
    "num_channels": 3,
    "projection_dim": 256,
    "model_type": "clip_vision_model",
}
N_BACKGROUNDS, N_COLOURS, N_SHAPES, N_TEXTURES = 4, 8, 6, 3


def encoder_forward(encoder: nn.Module, x: Tensor, causal: bool) -> Tensor:
    """Run a host CLIPEncoder without its in-place sums, which autograd cannot follow. x [B, N, C] -> [B, N, C]."""
    for layer in encoder.layers:
        attention = layer.self_attn
        h = layer.layer_norm1(x)
        q, k, v = (
            rearrange(p(h), "b n (h d) -> b h n d", h=attention.heads)
            for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        h = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = x + attention.out_proj(rearrange(h, "b h n d -> b n (h d)"))
        x = x + layer.mlp(layer.layer_norm2(x))
    return x


class ClipTrainImage(nn.Module):
    """CLIP A's image tower: ComfyUI's CLIP vision transformer at 128 pixels, patches of 16."""

    def __init__(self, dtype=None, device=None, operations=comfy.ops.manual_cast):
        super().__init__()
        self.clip = comfy.clip_model.CLIPVisionModelProjection(VISION_CONFIG, dtype, device, operations)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """pictures [B, 3, 128, 128] in 0..1 -> embedding [B, 256], patch tokens [B, 64, 192] (8x8, row-major)."""
        vision = self.clip.vision_model
        x = vision.pre_layrnorm(vision.embeddings(pictures * 4 - 2))
        x = encoder_forward(vision.encoder, x, causal=False)
        return self.clip.visual_projection(vision.post_layernorm(x[:, 0])), x[:, 1:]


def clip_a_text_forward(model: nn.Module, embeds: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """CLIP A's text tower, differentiable: host CLIPTextModel, token embeddings [B, N, 256], end positions [B].

    -> hidden states after the last norm [B, N, 256] (what SDClipModel gives the generator), embedding [B, 256].
    """
    text = model.text_model
    x = embeds + text.embeddings.position_embedding.weight[: embeds.shape[1]]
    x = text.final_layer_norm(encoder_forward(text.encoder, x, causal=True))
    return x, model.text_projection(x[torch.arange(len(x), device=x.device), end])


class _ConvBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int, dtype, device, operations):
        super().__init__()
        self.conv1 = operations.Conv2d(n_in, n_out, 3, stride, 1, dtype=dtype, device=device)
        self.conv2 = operations.Conv2d(n_out, n_out, 3, 1, 1, dtype=dtype, device=device)
        self.norm = operations.GroupNorm(8, n_out, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv1(x))
        return x + self.conv2(F.silu(self.norm(x)))


class ClipHeldout(nn.Module):
    """CLIP B: a convolutional image tower at 64 pixels and a bidirectional text tower over its own token table."""

    def __init__(self, vocabulary: int, width: int = 192, dtype=None, device=None, operations=comfy.ops.manual_cast):
        super().__init__()
        kw = {"dtype": dtype, "device": device, "operations": operations}
        self.stem = operations.Conv2d(3, 32, 3, 1, 1, dtype=dtype, device=device)
        self.blocks = nn.ModuleList(
            [_ConvBlock(32, 64, 2, **kw), _ConvBlock(64, 96, 2, **kw), _ConvBlock(96, 160, 2, **kw)]
        )
        self.pool_query = operations.Linear(160, 8, dtype=dtype, device=device)
        self.image_projection = operations.Linear(8 * 160, width, dtype=dtype, device=device)
        self.tokens = operations.Embedding(vocabulary, width, dtype=dtype, device=device)
        self.positions = operations.Embedding(77, width, dtype=dtype, device=device)
        self.encoder = comfy.clip_model.CLIPEncoder(2, width, 6, 4 * width, "gelu", dtype, device, operations)
        self.norm = operations.LayerNorm(width, dtype=dtype, device=device)
        self.text_projection = operations.Linear(width, width, dtype=dtype, device=device)

    def image(self, pictures: Tensor) -> Tensor:
        """pictures [B, 3, 64, 64] in 0..1 -> [B, width]. Eight learned attention pools keep several objects apart."""
        x = self.stem(pictures * 2 - 1)
        for block in self.blocks:
            x = block(x)
        x = rearrange(x, "b c h w -> b (h w) c")
        weight = self.pool_query(x).softmax(dim=1)
        return self.image_projection(rearrange(weight.mT @ x, "b q c -> b (q c)"))

    def text(self, ids: Tensor, keep: Tensor) -> Tensor:
        """Rows of the own token table [B, N] and which of them are words [B, N] (rest is padding) -> [B, width]."""
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        x = encoder_forward(self.encoder, x * keep[..., None], causal=False)
        x = (self.norm(x) * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
        return self.text_projection(x)


class Segmenter(nn.Module):
    """Names every pixel: color x shape of the object it belongs to, or the background.

    The 52 joint logits are sums of a color and a shape logit, so that what is learnt of red squares helps red stars.
    The net works at 64x64 and below and its logits are spread smoothly to 128x128: a fifth of the cost, edges kept.
    """

    def __init__(self, dtype=None, device=None, operations=comfy.ops.manual_cast):
        super().__init__()
        kw = {"dtype": dtype, "device": device, "operations": operations}
        widths = (48, 80, 112, 144)
        self.stem = operations.Conv2d(3, widths[0], 4, 2, 1, dtype=dtype, device=device)
        self.down = nn.ModuleList([_ConvBlock(a, b, 2, **kw) for a, b in zip(widths, widths[1:])])
        self.up = nn.ModuleList([_ConvBlock(b + a, a, 1, **kw) for a, b in zip(widths[:-1], widths[1:])])
        n_out = N_COLOURS + N_SHAPES + N_BACKGROUNDS + N_TEXTURES
        self.head = operations.Conv2d(widths[0], n_out, 1, dtype=dtype, device=device)

    def factors(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """pictures [B, 3, 128, 128] in 0..1 -> color, shape, background and texture logits, each [B, n, 128, 128]."""
        x = self.stem(pictures * 2 - 1)
        skips = []
        for block in self.down:
            skips.append(x)
            x = block(x)
        for block in reversed(self.up):
            skip = skips.pop()
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skip], dim=1))
        logits = F.interpolate(self.head(x), scale_factor=2.0, mode="bilinear")
        return logits.split([N_COLOURS, N_SHAPES, N_BACKGROUNDS, N_TEXTURES], dim=1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """pictures [B, 3, 128, 128] in 0..1 -> class logits [B, 52, 128, 128], texture logits [B, 3, 128, 128]."""
        color, shape, background, texture = self.factors(pictures)
        joint = rearrange(color[:, :, None] + shape[:, None], "b c s h w -> b (c s) h w")
        return torch.cat([joint, background], dim=1), texture


def clip_a_text(dtype=None, device=None, operations=comfy.ops.disable_weight_init) -> nn.Module:
    """CLIP A's text tower as ComfyUI's CLIPTextModel, with uninitialized weights; run by `clip_a_text_forward`."""
    return comfy.clip_model.CLIPTextModel(dict(TEXT_CONFIG), dtype, device, operations)
