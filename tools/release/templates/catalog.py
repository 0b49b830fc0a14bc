"""Which graphs there are: the templates that ComfyUI lists (workflows/), and further graphs (docs/graphs/)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...comfy.workflow import Workflow
from ..board import Board
from . import graphs, jobs, techniques
from .parts import FLUX, FLUX_STEPS, SD15, SD35, SDXL

Drawn = dict[str, Callable[[Board], None]]

# The editor shows a file's name as its title; where names are sorted, numbers put the pack's three jobs first.
TEMPLATES: Drawn = {
    "1 Paint with words (demo)": jobs.paint_demo,
    "1 Paint with words - SDXL": jobs.paint_sdxl,
    "2 Two models in one run (demo)": jobs.experts_demo,
    "2 Two models in one run - Wan 2.2": jobs.experts_wan,
    "3 The best starting noise (demo)": jobs.best_of_demo,
    "3 The best starting noise - SDXL": jobs.best_of_sdxl,
    "A LoRA for each region (demo)": techniques.region_lora_demo,
    "Draw a part anew (demo)": techniques.part_anew,
    "Optimize the starting noise (demo)": techniques.optimize_demo,
    "Regions from all sources (demo)": techniques.sources_demo,
    "Self-Attention Guidance (demo)": techniques.sag_demo,
    "Steps for each of two models (demo)": techniques.steps_demo,
    "Style from a picture (demo)": techniques.style_demo,
    "Text encoders by noise level (demo)": techniques.encoders_demo,
}
GRAPHS: Drawn = {
    "attention_map_demo": graphs.attention_map,
    "cascade_demo": graphs.cascade_demo,
    "encoders_sdxl": lambda board: graphs.encoders(board, SDXL, 1024, 6.0),
    "encoders_sd35": lambda board: graphs.encoders(board, SD35, 1024, 4.5),
    "encoders_flux": lambda board: graphs.encoders(board, FLUX, 1024, 1.0, 4),
    "experts_sdxl": graphs.experts_sdxl,
    "latent_sd15": lambda board: graphs.latent(board, SD15, 512),
    "latent_sdxl": lambda board: graphs.latent(board, SDXL, 1024),
    "latent_sd35": lambda board: graphs.latent(board, SD35, 1024, 4.5),
    "layout_prompt": graphs.layout_prompt,
    "region_lora_sdxl": lambda board: graphs.region_lora(board, SDXL, 1024),
    "regions_demo": graphs.regions_demo,
    "regions_sd15": lambda board: graphs.regions(board, SD15, 512),
    "regions_sdxl": lambda board: graphs.regions(board, SDXL, 1024),
    "regions_flux": lambda board: graphs.regions(board, FLUX, 1024, 1.0, **FLUX_STEPS),
    "sag_sd15": lambda board: graphs.sag(board, SD15, 512, 0.75),
    "sag_sdxl": lambda board: graphs.sag(board, SDXL, 1024, 0.5),
    "sag_sd35": lambda board: graphs.sag(board, SD35, 1024, 0.5, flow=True),
    "style_redux": graphs.style_redux,
    "two_people_sdxl": lambda board: graphs.two_people(board, SDXL, 1024),
    "two_people_flux": lambda board: graphs.two_people(board, FLUX, 1024, 1.0, **FLUX_STEPS),
}


def drawn(chosen: Drawn, info: dict[str, Any], kind: int) -> dict[str, Workflow]:
    """Name -> workflow. info: of the server's nodes. kind: a digit for the ids of these workflows."""
    found = {}
    for number, (name, draw) in enumerate(chosen.items()):
        board = Board(info)
        draw(board)
        found[name] = board.workflow(f"6d0f5d0e-6f0a-4c9e-9d55-5a6a5e5f{kind}{number:03d}")
    return found
