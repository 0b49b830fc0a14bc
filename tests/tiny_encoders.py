"""Small random text encoders of ComfyUI's own classes, with its real tokenizers, as nodes get them."""

from __future__ import annotations

import functools
from typing import Any

import comfy.sd
import comfy.sd1_clip
import comfy.text_encoders.flux
import comfy.text_encoders.sd3_clip
import tiny_models as tiny
from comfy.supported_models_base import ClipTarget

_T5 = {"d_model": tiny.CONTEXT, "d_kv": 16, "d_ff": 64, "num_heads": 2, "num_layers": 2}
_CLIP_L = {"hidden_size": tiny.CONTEXT, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64}
_CLIP_L_WHOLE = {
    "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "max_position_embeddings": 77, "projection_dim": tiny.CONTEXT,
    "vocab_size": 49408,
}  # fmt: skip


def encoder(name: str) -> comfy.sd.CLIP:
    """Flux's pair of CLIP-L and T5, or SD3's T5 alone; text features as wide as `tiny.prompt`'s."""
    if name == "flux":
        target = ClipTarget(comfy.text_encoders.flux.FluxTokenizer, comfy.text_encoders.flux.FluxClipModel)
    else:
        sd3 = comfy.text_encoders.sd3_clip
        target = ClipTarget(sd3.SD3Tokenizer, functools.partial(sd3.SD3ClipModel, clip_l=False, clip_g=False))
    clip = comfy.sd.CLIP(target, model_options={"t5xxl_model_config": _T5, "clip_l_model_config": _CLIP_L})
    tiny.initialize(clip.cond_stage_model, 3, 1.0)
    return clip


class _NarrowTokens(comfy.sd1_clip.SDTokenizer):
    """SD1's tokenizer, for embeddings as wide as the small encoder."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{**given, "embedding_size": tiny.CONTEXT})


def sd15_encoder(embeddings: str | None = None) -> comfy.sd.CLIP:
    """SD1.5's CLIP-L, small. embeddings: a folder of textual inversions, vectors of width `tiny.CONTEXT`."""
    target = ClipTarget(
        functools.partial(comfy.sd1_clip.SD1Tokenizer, tokenizer=_NarrowTokens), comfy.sd1_clip.SD1ClipModel
    )
    options = {"clip_l_model_config": {**_CLIP_L_WHOLE, **_CLIP_L}}
    clip = comfy.sd.CLIP(target, embedding_directory=embeddings, model_options=options)
    tiny.initialize(clip.cond_stage_model, 3, 1.0)
    return clip
