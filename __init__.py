"""Fovea: training-free guidance for diffusion models, as ComfyUI nodes.

Node classes live in `nodes/`; the algorithms (`guidance/`, `attention/`, `models/`) do not know about the graph.
"""

from __future__ import annotations

import logging

from comfy_api.latest import ComfyExtension, io

from .nodes import MODULES
from .nodes.regions import STEERING_NODES
from .nodes.ui import notices, prompt_graph

WEB_DIRECTORY = "./web"


class FoveaExtension(ComfyExtension):
    async def on_load(self) -> None:
        notices.install(logging.getLogger(__name__))
        server = notices.running_server()
        if server is not None:
            prompt_graph.install(server, STEERING_NODES)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [node for module in MODULES for node in module.NODES]


async def comfy_entrypoint() -> FoveaExtension:
    return FoveaExtension()
