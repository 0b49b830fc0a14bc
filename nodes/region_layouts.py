"""Nodes between regions and layouts in words."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.regions.layout_text import parse_layout
from ..guidance.regions.masks import Regions
from .region_sources import ALIASES, REGIONS_OUT, RegionsType, boxed, check_number, extended

FROM_TEXT = "Regions from Text"


class FoveaRegionsFromText(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaRegionsFromText",
            display_name=FROM_TEXT,
            category="Fovea/regions",
            description=(
                "Regions from places in words, a line for each, such as: left third: a lamp. Or from a layout that a "
                "language model wrote, as lines or JSON."
            ),
            search_aliases=[*ALIASES, "layout", "columns", "rows", "grid", "Omost", "LLM"],
            inputs=[
                io.String.Input(
                    "text", multiline=True, default="left half: a red star\nright half: a blue circle",
                    tooltip="A line per region: place: prompt. Places: left, right third, top left quarter, bottom "
                    "30%, center, middle third column, row 2 of 3, 0.1,0.2,0.5,0.9 (left, top, right, bottom), "
                    "background. columns: a | b | c, rows 1,2: a | b and grid 2x3 share the picture. Or JSON.",
                ),
                io.Int.Input("width", default=512, min=16, max=16384, step=8, tooltip="Width of the picture in pixels. "
                             "Matters to JSON whose boxes are in pixels."),
                io.Int.Input("height", default=512, min=16, max=16384, step=8, tooltip="Height of that picture."),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=10.0, step=0.05, tooltip="Strength of all these regions."
                ),
                RegionsType.Input("regions", optional=True, tooltip="Regions to add these to, on top of them."),
            ],
            outputs=[RegionsType.Output(display_name="regions", tooltip=REGIONS_OUT)],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, text: str, width: int, height: int, strength: float, regions: Regions | None = None
    ) -> io.NodeOutput:
        try:
            boxes = parse_layout(text, width, height)
        except ValueError as why:
            raise ValueError(f"{FROM_TEXT}: text: {why}") from None
        check_number(regions, len(boxes), FROM_TEXT)
        return io.NodeOutput(extended(regions, boxed(boxes, width, height, strength), None, FROM_TEXT))


NODES = [FoveaRegionsFromText]
