"""Fovea: training-free guidance for diffusion models, as ComfyUI nodes.

Self-Attention Guidance, painted regions, latent optimisation and expert denoisers. Node classes live in `nodes/`;
the algorithms below them (`guidance/`, `attention/`, `models/`) do not know about the graph.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .nodes import (
    attention_map,
    demo,
    encoders,
    experts,
    guidance,
    latent,
    painter,
    region_control,
    regions,
    saliency,
    scorers,
    style,
)

WEB_DIRECTORY = "./web"
MODULES = (
    demo, guidance, attention_map, regions, painter, region_control, saliency, scorers, latent, experts, encoders,
    style,
)  # fmt: skip


class FoveaExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [node for module in MODULES for node in module.NODES]


async def comfy_entrypoint() -> FoveaExtension:
    return FoveaExtension()
