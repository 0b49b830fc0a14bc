"""Fovea: training-free guidance for diffusion models, as ComfyUI nodes.

Node classes live in `nodes/`; the algorithms (`guidance/`, `attention/`, `models/`) do not know about the graph.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .nodes import MODULES

WEB_DIRECTORY = "./web"


class FoveaExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [node for module in MODULES for node in module.NODES]


async def comfy_entrypoint() -> FoveaExtension:
    return FoveaExtension()
