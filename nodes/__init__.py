"""V3 node classes: schema, argument checks and one call into the library. Every module ends with its NODES list."""

from __future__ import annotations

from types import ModuleType

from . import (
    attention_map,
    clip_guidance,
    demo_model,
    encoder_schedule,
    experts,
    masked_prompts,
    noise_optimization,
    region_layouts,
    region_lora,
    region_painter,
    region_sources,
    region_start,
    regions,
    sag,
    saliency,
    scorers,
    style,
)

# In the order in which the editor is told of them.
MODULES: tuple[ModuleType, ...] = (
    demo_model, sag, attention_map, region_sources, region_painter, region_layouts, region_lora, region_start, regions,
    masked_prompts, saliency, scorers, noise_optimization, clip_guidance, experts, encoder_schedule, style,
)  # fmt: skip
