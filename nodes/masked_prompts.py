"""Regions as ComfyUI's own masked prompts, for models whose attention cannot be steered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..guidance.region_lora import model_patch as region_lora
from ..guidance.regions import prompt_encoding
from ..guidance.regions.masks import Regions
from .region_sources import ALIASES, RegionsType
from .ui import errors, notices

if TYPE_CHECKING:
    from comfy.sd import CLIP

NAME = "Regions to Conditioning"


class FoveaRegionsToConditioning(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaRegionsToConditioning",
            display_name=NAME,
            category="Fovea/regions",
            description=(
                "The same regions as ComfyUI's own masked conditioning, one model evaluation per region: works with "
                "every model, without attention control."
            ),
            search_aliases=[*ALIASES, "Conditioning (Set Mask)", "multi-diffusion"],
            inputs=[
                io.Clip.Input("clip", tooltip="Encodes the regions' prompts and the prompt."),
                RegionsType.Input("regions", tooltip="The places and their prompts."),
                io.String.Input(
                    "prompt", multiline=True, default="", dynamic_prompts=True,
                    tooltip="Prompt of the whole picture, beside the regions'. Empty: none, and places of no region "
                    "have an empty prompt.",
                ),
                io.Float.Input(
                    "prompt_strength", default=0.5, min=0.0, max=10.0, step=0.05,
                    tooltip="Weight of the prompt where a region has weight 1. Places of no region have the prompt "
                    "alone.",
                ),
                io.Latent.Input(
                    "latent", optional=True,
                    tooltip="What will be sampled. Needed for regions with several masks each, which are fitted to its "
                    "pictures or frames. For models with an axis for frames (Qwen-Image): from a node that makes it.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="conditioning", tooltip="A masked prompt per region.")
            ],
        )  # fmt: skip

    @classmethod
    @errors.of_node(NAME)
    def execute(
        cls, clip: CLIP, regions: Regions, prompt: str, prompt_strength: float, latent: dict[str, Any] | None = None
    ) -> io.NodeOutput:
        errors.needs_clip(clip)
        notices.report(NAME, [*regions.idle(), *regions.wordless(), *_unused_negatives(regions)])
        shape, acting = None if latent is None else tuple(latent["samples"].shape), regions.acting
        own_clips = [region_lora.clip_of(clip, region) for region in acting.items]
        hooks = [region_lora.hooks_of(region) for region in acting.items]
        return io.NodeOutput(prompt_encoding.masked(clip, prompt, acting, prompt_strength, shape, own_clips, hooks))


def _unused_negatives(regions: Regions) -> list[str]:
    """What there is to say about regions' negative prompts, which masked prompts have no place for."""
    return [
        f"{region.prompt or f'region {i + 1}'!r} has a negative prompt, which does nothing here: write it into the "
        "negative prompt of the whole picture."
        for i, region in enumerate(regions.items) if region.negative_prompt.strip()
    ]  # fmt: skip


NODES: list[Any] = [FoveaRegionsToConditioning]
