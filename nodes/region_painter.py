"""The region painter: regions painted inside the graph editor, or given as JSON and masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io, ui

from ..guidance.regions import painter_format, sources
from ..guidance.regions.masks import Regions
from ..guidance.regions.painter_format import Drawing
from ..models import lora_files
from .region_sources import ALIASES, REGIONS_OUT, RegionsType, extended, read_loras, regions_before
from .ui import errors

if TYPE_CHECKING:
    from torch import Tensor

NAME = "Region Painter"
WIDGET = "FOVEA_PAINTER"  # what web/js/region_painter.js offers


class FoveaRegionPainter(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaRegionPainter",
            display_name=NAME,
            category="Fovea/regions",
            description=(
                "Paint with words: paint a place, say what should be there, run. Regions may overlap. The drawing is "
                "kept in the workflow itself. Connect regions and prompt to Dense Diffusion or Paint with Words."
            ),
            search_aliases=[*ALIASES, "paint", "draw", "mask editor", "canvas", "color mask", "eDiff-I",
                            "regional prompting canvas", "regional prompter canvas"],
            inputs=[
                io.Image.Input("image", optional=True, tooltip="A picture to paint over. It is only shown."),
                io.Mask.Input(
                    "masks", optional=True,
                    tooltip="Places instead of the drawing's: mask 1 is for region 1 (the rearmost), and so on.",
                ),
                regions_before(),
                io.Int.Input("width", default=512, min=painter_format.MIN_SIDE, max=painter_format.MAX_SIDE, step=8,
                             tooltip="Width of the picture. What is painted is stretched."),
                io.Int.Input("height", default=512, min=painter_format.MIN_SIDE, max=painter_format.MAX_SIDE, step=8,
                             tooltip="Height of the picture. What is painted is stretched."),
                io.String.Input(
                    "painting", default="", optional=True, socketless=True, extra_dict={"widgetType": WIDGET},
                    tooltip="The drawing. Over the API: JSON; the help page of this node has its schema.",
                ),
            ],
            outputs=[
                RegionsType.Output(display_name="regions", tooltip=REGIONS_OUT),
                io.Mask.Output(display_name="masks", tooltip="One mask per region that is not hidden, from back to "
                               "front, each whole even where another is in front."),
                io.Image.Output(display_name="preview", tooltip="The regions in their colors."),
                io.String.Output(display_name="prompt", tooltip="The whole prompt. If it is empty: made of the "
                                 "regions' prompts."),
                io.Int.Output(display_name="width", tooltip="For the empty latent."),
                io.Int.Output(display_name="height", tooltip="For the empty latent."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, painting: str = "") -> bool | str:
        """Before anything runs."""
        try:
            drawn = painter_format.parse(painting or "")
        except painter_format.BadDrawing as why:
            return f"{NAME}: painting: {why}"
        known = lora_files.names() if any(row.loras for row in drawn.shown) else []
        for row in drawn.shown:
            for name, _ in row.loras:
                if name not in known:
                    return f"{NAME}: painting: the LoRA {name!r} of {row.prompt or f'region {row.id}'!r} is not here."
        return True

    @classmethod
    @errors.of_node(NAME)
    def execute(
        cls, width: int, height: int, image: Tensor | None = None, masks: Tensor | None = None,
        regions: Regions | None = None, painting: str = "",
    ) -> io.NodeOutput:  # fmt: skip
        try:
            drawn = painter_format.parse(painting or "")
            places = painter_format.masks(drawn, width, height) if masks is None else _given(masks, drawn)
        except painter_format.BadDrawing as why:
            raise ValueError(f"painting: {why}") from None
        kept = [(place, row) for place, row in zip(places, drawn.shown) if place.any()]
        loras = [tuple(lora for name, how in row.loras for lora in read_loras(name, how, how)) for _, row in kept]
        added = [
            sources.region(
                place, row.prompt, row.strength, row.negative_prompt, painted_in=sources.rgb(row.color),
                color=sources.rgb(row.color) if row.is_color_of_object else None,
                start=row.start_percent, end=row.end_percent, loras=files,
            )
            for (place, row), files in zip(kept, loras)
        ]  # fmt: skip
        drawn_regions = extended(regions, added)
        empty = torch.zeros(1, height, width)
        preview = sources.painted([place for place, _ in kept] or empty, [sources.rgb(row.color) for _, row in kept])
        shown = {} if image is None else {"fovea_background": ui.PreviewImage(image[:1], cls=cls).as_dict()["images"]}
        batch = places if len(places) else empty
        prompt = painter_format.prompt_of(drawn, (region.prompt for region in regions.items) if regions else ())
        return io.NodeOutput(drawn_regions, batch, preview[None], prompt, width, height, ui=shown or None)


def _given(masks: Tensor, drawn: Drawing) -> Tensor:
    """Masks [n, height, width], one per row, as the places of the rows that are not left out."""
    masks = torch.nan_to_num(masks.reshape(-1, *masks.shape[-2:]).cpu().float(), nan=0.0).clamp(0, 1)
    if len(masks) != len(drawn.rows):
        raise ValueError(
            f"{len(masks)} masks are given for {len(drawn.rows)} rows: connect one mask per row, or disconnect "
            "masks to use what is painted."
        )
    return masks[[i for i, row in enumerate(drawn.rows) if not row.hidden]]


NODES = [FoveaRegionPainter]
