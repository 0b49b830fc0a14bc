"""Nodes for LoRAs that act in their region only."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..attention.families.registry import MODELS, UNETS, family_of
from ..guidance.region_lora import model_patch
from ..guidance.regions.masks import Region, Regions
from ..models import lora_files
from .region_sources import ALIASES, REGIONS_OUT, RegionsType, read_loras
from .ui import errors, notices

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

NAME, ADD = "Region LoRA", "Add LoRA to Region"
LORA_ALIASES = ["regional lora", "lora mask", "lora per region", "two characters", "masked lora", "lora hook", *ALIASES]


class FoveaAddRegionLora(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaAddRegionLora",
            display_name=ADD,
            category="Fovea/regions",
            description=(
                "Gives a region a LoRA that acts in its place only. Chain several for several regions, or for several "
                "LoRAs in one. Dense Diffusion and Paint with Words let them act; without either, Region LoRA does."
            ),
            search_aliases=LORA_ALIASES,
            inputs=[
                RegionsType.Input("regions", tooltip="Regions of any source: the painter, boxes, colors, masks."),
                io.String.Input(
                    "region", default="1",
                    tooltip="Which: its number in paint order (1 is the first), or a part of its prompt. Empty: all.",
                ),
                io.Combo.Input("lora_name", options=[lora_files.NONE, *lora_files.names()], default=lora_files.NONE,
                               tooltip="The file, from ComfyUI's loras folder. It has to be made for the model."),
                io.Float.Input("strength_model", default=1.0, min=-20.0, max=20.0, step=0.05,
                               tooltip="How strongly it acts on the model, in this region."),
                io.Float.Input("strength_clip", default=1.0, min=-20.0, max=20.0, step=0.05,
                               tooltip="How strongly it acts on the text encoder of this region's prompt."),
            ],
            outputs=[RegionsType.Output(display_name="regions", tooltip=REGIONS_OUT)],
        )  # fmt: skip

    @classmethod
    @errors.of_node(ADD)
    def execute(
        cls, regions: Regions, region: str, lora_name: str, strength_model: float, strength_clip: float
    ) -> io.NodeOutput:
        added = read_loras(lora_name, strength_model, strength_clip)
        chosen = _chosen(regions.items, region.strip())
        items = (replace(r, loras=(*r.loras, *added)) if added and i in chosen else r
                 for i, r in enumerate(regions.items))  # fmt: skip
        return io.NodeOutput(Regions(tuple(items), regions.overlap))


def _chosen(items: tuple[Region, ...], region: str) -> set[int]:
    """Places of the regions that a number or a part of a prompt means. Raises ValueError where there are none."""
    if not region:
        return set(range(len(items)))
    if region.isdecimal() and 1 <= int(region) <= len(items):
        return {int(region) - 1}
    chosen = {i for i, item in enumerate(items) if region.lower() in item.prompt.lower()}
    if not chosen:
        listed = ", ".join(f"{i + 1}: {item.prompt or '(no prompt)'}" for i, item in enumerate(items)) or "none"
        raise ValueError(f"region: there is no {region!r}. The regions are {listed}.")
    return chosen


class FoveaRegionLora(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaRegionLora",
            display_name=NAME,
            category="Fovea/regions",
            description=(
                "Lets each region's LoRAs act in its place only, all in one model evaluation: two characters, two "
                "styles, a style for the background. Dense Diffusion and Paint with Words do it by themselves; this "
                "node is for use without them, and for its settings."
            ),
            search_aliases=LORA_ALIASES,
            inputs=[
                io.Model.Input("model", tooltip=f"{UNETS}; {MODELS}."),
                RegionsType.Input("regions", tooltip="Regions with LoRAs: Region has an input for one, Add LoRA to "
                                  "Region adds any number."),
                io.Float.Input(
                    "self_strength", default=1.0, min=0.0, max=4.0, step=0.05,
                    tooltip="How much places of a region look at their own region only, so that a style or a face is "
                    "not copied next door. 0: not at all, which is faster.",
                ),
                io.Float.Input(
                    "rest_strength", default=1.0, min=0.0, max=1.0, step=0.05,
                    tooltip="How much of the LoRAs is taken by what has no place: words of no region, the time "
                    "embedding. They take each region's in proportion to its area. 0: none of it.",
                ),
                io.Boolean.Input(
                    "apply_to_negative", default=True,
                    tooltip="Whether the LoRAs act on the negative prompt's evaluation too, as ComfyUI's loader has "
                    "it. Off, CFG multiplies what they do.",
                ),
                io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.001,
                               tooltip="Where in the schedule they begin to act."),
                io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.001,
                               tooltip="Where in the schedule they end. Steps outside cost nothing."),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the LoRAs in their places."),
                io.String.Output(display_name="report", tooltip="What could not be done as asked, in words. Empty: "
                                 "nothing."),
            ],
        )  # fmt: skip

    @classmethod
    @errors.of_node(NAME)
    def execute(
        cls, model: ModelPatcher, regions: Regions, self_strength: float, rest_strength: float,
        apply_to_negative: bool, start_percent: float, end_percent: float,
    ) -> io.NodeOutput:  # fmt: skip
        acting = regions.acting
        if not any(region.loras for region in acting.items):
            return io.NodeOutput(model, notices.report(NAME, _why_not(regions)))
        notes, off, lacking = regions.idle(), start_percent >= end_percent, ""
        if off:
            notes.append(f"start_percent ({start_percent:g}) is not below end_percent ({end_percent:g}): the LoRAs do "
                         "not act on the model.")  # fmt: skip
        patched = model.clone()
        if family_of(model.get_model_object("diffusion_model")) is None:
            lacking = (
                f"it is not known what the layers of the model ({type(model.model).__name__}) are about, so LoRAs "
                "cannot act in places yet. Regions to Conditioning makes ComfyUI's own masked LoRA hooks of them."
            )
        else:
            try:  # with an empty window, too, or Dense Diffusion would let them act after all
                notes += model_patch.install(
                    patched, acting, apart=self_strength, common=rest_strength, negative=apply_to_negative,
                    start=start_percent, end=end_percent,
                )
            except model_patch.NoMatch as why:
                lacking = str(why)
        if lacking and not off:
            raise ValueError(lacking)
        return io.NodeOutput(model if lacking else patched, notices.report(NAME, notes))


def _why_not(regions: Regions) -> list[str]:
    """What there is to say where nothing is done."""
    has_any = any(region.loras for region in regions.items)
    return [*regions.idle(), *([] if has_any else ["No region has a LoRA."])]


NODES: list[type[io.ComfyNode]] = [FoveaAddRegionLora, FoveaRegionLora]
