"""Fovea: training-free guidance for diffusion models, as ComfyUI nodes.

Node classes live in `nodes/`; the algorithms (`guidance/`, `attention/`, `models/`) do not know about the graph.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .nodes import (
    attention_map,
    demo_model,
    encoder_schedule,
    experts,
    noise_optimization,
    region_painter,
    region_sources,
    region_start,
    regions,
    sag,
    saliency,
    scorers,
    style,
)

WEB_DIRECTORY = "./web"
MODULES = (
    demo_model, sag, attention_map, region_sources, region_painter, region_start, regions, saliency, scorers,
    noise_optimization, experts, encoder_schedule, style,
)  # fmt: skip


class FoveaExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [node for module in MODULES for node in module.NODES]


async def comfy_entrypoint() -> FoveaExtension:
    return FoveaExtension()
