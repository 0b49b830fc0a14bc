"""Nodes between regions and layouts in words: places as text, and the prompts that models read boxes from."""

from __future__ import annotations

import json
import re
from typing import Any

from comfy_api.latest import io

from ..guidance.regions import layout_prompt
from ..guidance.regions.layout_text import parse_layout
from ..guidance.regions.masks import Regions
from .region_sources import (
    ALIASES,
    REGIONS_OUT,
    RegionsType,
    boxed,
    check_number,
    extended,
    regions_before,
    strength_of_all,
)
from .ui import choice, errors, notices

FROM_TEXT, TO_PROMPT = "Regions from Text", "Regions to Layout Prompt"
FORMATS = ("FLUX 3", "MOSS-Image", "Ideogram 4", "elements")
NUMBER = re.compile(r"\d{1,4}")
SIDE = 1024  # pixels, of a picture that is told in them


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
                strength_of_all(),
                regions_before(),
            ],
            outputs=[RegionsType.Output(display_name="regions", tooltip=REGIONS_OUT)],
        )  # fmt: skip

    @classmethod
    @errors.of_node(FROM_TEXT)
    def execute(
        cls, text: str, width: int, height: int, strength: float, regions: Regions | None = None
    ) -> io.NodeOutput:
        try:
            boxes = parse_layout(text, width, height)
        except ValueError as why:
            raise ValueError(f"text: {why}") from None
        check_number(regions, len(boxes))
        return io.NodeOutput(extended(regions, boxed(boxes, width, height, strength)))


def _format_inputs(name: str) -> list[io.Input]:
    """What has to be known for this one of FORMATS alone."""
    in_pixels: list[io.Input] = [
        io.Int.Input("width", default=SIDE, min=16, max=16384, step=8, optional=True,
                     tooltip="Width of the picture to make in pixels: MOSS-Image counts in them."),
        io.Int.Input("height", default=SIDE, min=16, max=16384, step=8, optional=True,
                     tooltip="Height of that picture."),
        io.String.Input("characters", default="", optional=True, tooltip="Numbers of the regions that are characters "
                        "rather than objects, such as: 1, 3."),
    ]  # fmt: skip
    behind = io.String.Input("background", multiline=True, default="", dynamic_prompts=True, optional=True,
                             tooltip="What is behind everything: Ideogram 4 wants it said.")  # fmt: skip
    own: dict[str, list[io.Input]] = {"MOSS-Image": in_pixels, "Ideogram 4": [behind]}
    return own.get(name, [])


class FoveaRegionsToLayoutPrompt(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaRegionsToLayoutPrompt",
            display_name=TO_PROMPT,
            category="Fovea/regions",
            description=(
                "The same regions as a prompt for models that read boxes themselves: FLUX 3, MOSS-Image, Ideogram 4. "
                "Such a model needs no other region node."
            ),
            search_aliases=[*ALIASES, "layout", "bounding box", "FLUX 3 Klein", "MOSS-Image", "Ideogram", "elements"],
            inputs=[
                RegionsType.Input("regions", tooltip="The places and their prompts. Each becomes the box around it; "
                                  "words in double quotes are written there. Without a prompt: left out."),
                io.String.Input(
                    "prompt", multiline=True, default="", dynamic_prompts=True,
                    tooltip="What the whole picture shows. For FLUX 3, with the regions' prompts in it, or <obj_N> to "
                    "cite region N. Empty: made of the regions' prompts.",
                ),
                io.DynamicCombo.Input(
                    "format", options=[io.DynamicCombo.Option(name, _format_inputs(name)) for name in FORMATS],
                    tooltip="What the prompt is for. FLUX 3: as documented by Black Forest Labs. MOSS-Image: as "
                    "described by ComfyUI and by a port of the model. Ideogram 4: as documented. elements: JSON of "
                    "Create Bounding Boxes.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="prompt", tooltip="For the model's text encode node, as it is."),
                io.Array.Output(display_name="elements", tooltip="The boxes as Create Bounding Boxes gives them, for "
                                "ComfyUI's own layout nodes and Regions from Boxes."),
                io.String.Output(display_name="report", tooltip="Regions that are left out, in words. Empty: none."),
            ],
        )  # fmt: skip

    @classmethod
    @errors.of_node(TO_PROMPT)
    def execute(
        cls, regions: Regions, prompt: str, format: dict[str, Any] | None = None
    ) -> io.NodeOutput:
        name, own = choice.chosen(format, "format", FORMATS)
        placed, notes = layout_prompt.place(regions)
        numbers = frozenset(int(number) for number in NUMBER.findall(own.get("characters", "")))
        if unknown := sorted(number for number in numbers if not 1 <= number <= len(regions)):
            raise ValueError(f"characters: there is no region {unknown[0]}, they count to {len(regions)}.")
        elements = layout_prompt.elements(placed)
        text = {
            "FLUX 3": lambda: layout_prompt.flux3(prompt, placed),
            "MOSS-Image": lambda: layout_prompt.moss_image(prompt, placed, own.get("width", SIDE),
                                                           own.get("height", SIDE), numbers),
            "Ideogram 4": lambda: layout_prompt.ideogram4(prompt, placed, own.get("background", "")),
            "elements": lambda: json.dumps(elements, ensure_ascii=False),
        }[name]()  # fmt: skip
        return io.NodeOutput(text, elements, notices.report(TO_PROMPT, notes))


NODES = [FoveaRegionsFromText, FoveaRegionsToLayoutPrompt]
