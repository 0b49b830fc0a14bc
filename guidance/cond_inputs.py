"""What a prompt brings along beside its text: start images, reference pictures, ControlNets and the like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Entries that come with the text, or that ComfyUI and this pack make; all others are further inputs.
TEXT_KEYS = frozenset({
    "cross_attn", "pooled_output", "attention_mask", "model_conds", "uuid", "hooks", "mask", "additional_models",
    "prompt_type", "conditioning_llama3", "conditioning_lyrics", "conditioning_byt5small", "cross_attn_controlnet",
    "t5xxl_ids", "t5xxl_weights",
})  # fmt: skip
NAMES = {
    "concat_latent_image": "start image", "concat_mask": "mask of the start image", "concat_image": "start image",
    "vace_frames": "VACE frames", "vace_mask": "VACE mask", "vace_strength": "VACE strength",
    "reference_latents": "reference latents", "control": "ControlNet", "clip_vision_output": "CLIP vision picture",
    "unclip_conditioning": "unCLIP pictures", "gligen": "GLIGEN boxes",
}  # fmt: skip


def further_inputs(cond: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a cond dict that the network sees beside the text: pictures and networks, not settings of the text."""
    return {key: value for key, value in cond.items()
            if key not in TEXT_KEYS and not key.startswith("fovea_") and value is not None
            and not isinstance(value, str | int | float | bool | tuple)}  # fmt: skip
