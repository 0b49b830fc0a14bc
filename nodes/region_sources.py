"""Nodes that make regions: from a mask, a painting in flat colors, boxes; and one that shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io, ui

from ..guidance.region_start.colors import parse as parse_color
from ..guidance.regions import box_formats, sources
from ..guidance.regions.masks import MAX_REGIONS, OVERLAPS, Lora, Region, Regions, vanishing
from ..models import lora_files
from ..models.shapesworld.loader import DemoFileError
from .ui import errors, heat_maps, notices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

RegionsType = io.Custom("FOVEA_REGIONS")
# Of every node for regions. Words of people who want a region and know no node yet are at Dense Diffusion alone: the
# editor would sort nodes that share a word by the length of their names.
ALIASES = ["regional prompt", "region", "paint with words", "DenseDiffusion", "area composition"]
REGIONS_OUT = "The regions so far, for Dense Diffusion, Paint with Words, or one more region."
PREVIEW = "Region Preview"
ORDERS = ("in front", "behind")
LEVELS = (8, 16, 32, 64)  # latent pixels are 8 image pixels: the layers of SD1.5 and SDXL have tokens of 8 to 64


def check_number(previous: Regions | None, more: int) -> None:
    """Raises ValueError before masks are made that nobody can use."""
    count = more + (len(previous) if previous is not None else 0)
    if count > MAX_REGIONS:
        raise ValueError(f"{count} regions are too many, {MAX_REGIONS} at most.")


def extended(previous: Regions | None, added: list[Any], behind: bool = False) -> Regions:
    """More regions in front of the previous ones, or behind them. Raises ValueError for too many."""
    check_number(previous, len(added))
    before = previous.items if previous is not None else ()
    items = (*added, *before) if behind else (*before, *added)
    return Regions(items, previous.overlap if previous is not None else "top")


def strength_of_all() -> io.Input:
    """Of nodes that make several regions at once."""
    return io.Float.Input(
        "strength", default=1.0, min=0.0, max=10.0, step=0.05, tooltip="Strength of all these regions."
    )


def regions_before() -> io.Input:
    """Of nodes whose regions go on top of others."""
    return RegionsType.Input("regions", optional=True, tooltip="Regions to add these to, on top of them.")


def read_loras(name: str, model: float, clip: float) -> tuple[Lora, ...]:
    """The file that a node's inputs name, none where it would do nothing. Raises ValueError."""
    if name == lora_files.NONE or (model == 0 and clip == 0):
        return ()
    try:
        return (Lora(name, lora_files.read(name), model, clip),)
    except (ValueError, DemoFileError) as why:
        raise ValueError(f"lora_name: {why}") from None


def boxed(
    boxes: Sequence[sources.Box], width: int, height: int, strength: float, prompts: str = "",
    masks: Tensor | None = None,
) -> list[Region]:  # fmt: skip
    """A region per box of a width x height picture. prompts, masks: in place of theirs, by box."""
    scale = min(1.0, sources.MAX_SIDE / max(width, height))  # masks are fitted to the picture anyway
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    lines = [line.strip() for line in prompts.splitlines()]
    made = []
    for i, box in enumerate(boxes):
        mask = sources.box_mask(box, *size) if masks is None else masks[i]
        prompt = lines[i] if i < len(lines) and lines[i] else box.prompt
        made.append(sources.region(mask, prompt, strength, color=box.color))
    return made


class FoveaRegion(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaRegion",
            display_name="Region",
            category="Fovea/regions",
            description=(
                "A place and what should be there: a mask with a prompt. Chain several: later ones lie above earlier "
                "ones. Connect the last to Dense Diffusion or Paint with Words."
            ),
            search_aliases=ALIASES,
            inputs=[
                io.Mask.Input(
                    "mask",
                    tooltip="Where: white is in the region. Any size, it is stretched over the picture. Several: one "
                    "per picture of the batch or frame of the video.",
                ),
                io.String.Input(
                    "prompt", multiline=True, default="", dynamic_prompts=True,
                    tooltip="What this place shows, in the words of the whole prompt, such as: a red star. Empty: a "
                    "place without words of its own.",
                ),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=10.0, step=0.05,
                    tooltip="How much of the effect this region gets: 1 all of it, 0 leaves the region out.",
                ),
                io.String.Input(
                    "negative_prompt", default="", dynamic_prompts=True,
                    tooltip="What this place does not show: acts on the negative prompt there. Empty: nothing.",
                ),
                RegionsType.Input(
                    "regions", optional=True, tooltip="Regions to add this one to, on top of them."
                ),
                io.Conditioning.Input(
                    "conditioning", optional=True,
                    tooltip="An encoded prompt for this place, instead of encoding the region's. Needs mode "
                    "concat.",
                ),
                io.String.Input(
                    "color", default="", optional=True,
                    tooltip="The color of what is here, for Region Start: #dc2626, red or dark red. Empty: the color "
                    "word of the prompt.",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.001, optional=True,
                    tooltip="Where in the schedule this region begins to act, within the window of the node that uses "
                    "it. Outside of it the region is as if it were not there.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.001, optional=True,
                    tooltip="Where in the schedule this region ends.",
                ),
                io.Combo.Input(
                    "order", options=list(ORDERS), default=ORDERS[0], optional=True,
                    tooltip="Where regions overlap: in front of those connected to regions, or behind them.",
                ),
                io.Combo.Input(
                    "lora_name", options=[lora_files.NONE, *lora_files.names()], default=lora_files.NONE, optional=True,
                    tooltip="A LoRA that acts in this place only, with Dense Diffusion, Paint with Words or Region "
                    "LoRA. Add LoRA to Region adds more, and to regions of other nodes.",
                ),
                io.Float.Input(
                    "lora_strength", default=1.0, min=-20.0, max=20.0, step=0.05, optional=True,
                    tooltip="How strongly the LoRA acts, on the model and on the text encoder of this region's prompt.",
                ),
            ],
            outputs=[RegionsType.Output(display_name="regions", tooltip=REGIONS_OUT)],
        )  # fmt: skip

    @classmethod
    @errors.of_node("Region")
    def execute(
        cls, mask: Tensor, prompt: str, strength: float, negative_prompt: str, regions: Regions | None = None,
        conditioning: list | None = None, color: str = "", start_percent: float = 0.0, end_percent: float = 1.0,
        order: str = ORDERS[0], lora_name: str = lora_files.NONE, lora_strength: float = 1.0,
    ) -> io.NodeOutput:  # fmt: skip
        try:
            given = parse_color(color) if color.strip() else None
        except ValueError as why:
            raise ValueError(f"color: {why}") from None
        added = sources.region(
            mask, prompt, strength, negative_prompt, conditioning, color=given, start=start_percent, end=end_percent,
            loras=read_loras(lora_name, lora_strength, lora_strength),
        )  # fmt: skip
        return io.NodeOutput(extended(regions, [added], behind=order == ORDERS[1]))


class FoveaRegionsFromColors(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaRegionsFromColors",
            display_name="Regions from Colors",
            category="Fovea/regions",
            description=(
                "Regions from a picture painted in flat colors, each with a prompt. Every pixel goes to the nearest "
                "listed color, so soft brush edges and compressed pictures work."
            ),
            search_aliases=[*ALIASES, "color mask", "segmentation map"],
            inputs=[
                io.Image.Input("image", tooltip="The painting. Several pictures: one per picture of the batch."),
                io.String.Input(
                    "colors", multiline=True, default="#ff0000: a red star\n#0000ff: a blue circle",
                    tooltip="One line per region: its color and its prompt, as in #ff0000: a red star.",
                ),
                io.Float.Input(
                    "tolerance", default=0.3, min=0.0, max=1.0, step=0.01,
                    tooltip="How far a pixel may be from a listed color to belong to it, as a share of the way from "
                    "black to white. Pixels beyond belong to no region. 1: all pixels belong to some region.",
                ),
                strength_of_all(),
                regions_before(),
            ],
            outputs=[RegionsType.Output(display_name="regions", tooltip=REGIONS_OUT)],
        )  # fmt: skip

    @classmethod
    @errors.of_node("Regions from Colors")
    def execute(
        cls, image: Tensor, colors: str, tolerance: float, strength: float, regions: Regions | None = None
    ) -> io.NodeOutput:
        try:
            listed = sources.parse_colors(colors)
        except ValueError as why:
            raise ValueError(f"colors: {why}") from None
        check_number(regions, len(listed))
        masks = sources.color_masks(image, listed, tolerance)
        added = [
            sources.region(mask, color.prompt, strength, painted_in=color.rgb) for mask, color in zip(masks, listed)
        ]
        return io.NodeOutput(extended(regions, added))


class FoveaRegionsFromBoxes(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaRegionsFromBoxes",
            display_name="Regions from Boxes",
            category="Fovea/regions",
            description=(
                "Regions from boxes with descriptions: the elements or bboxes of Create Bounding Boxes, what a "
                "detector found, or JSON."
            ),
            search_aliases=[*ALIASES, "bounding box", "layout", "GLIGEN"],
            inputs=[
                io.MultiType.Input(
                    "boxes", [io.Array, io.BoundingBox, io.String], optional=True,
                    tooltip="Elements (with descriptions), bboxes in pixels as RT-DETR and SAM3 find them, or JSON "
                    "text of either, of Florence-2, or a layout prompt.",
                ),
                io.Int.Input("width", default=512, min=16, max=16384, step=8, tooltip="Width of the picture that the "
                             "boxes are drawn on, in pixels."),
                io.Int.Input("height", default=512, min=16, max=16384, step=8, tooltip="Height of that picture."),
                io.String.Input(
                    "prompts", multiline=True, default="",
                    tooltip="One line per box, in drawing order, in place of its description. Empty lines keep it.",
                ),
                strength_of_all(),
                regions_before(),
                io.Mask.Input(
                    "masks", optional=True,
                    tooltip="One mask per box, in their order, in place of the rectangles: the individual_masks of "
                    "SAM3 Detect. Without boxes, each mask is a region.",
                ),
            ],
            outputs=[RegionsType.Output(display_name="regions", tooltip=REGIONS_OUT)],
        )  # fmt: skip

    @classmethod
    @errors.of_node("Regions from Boxes")
    def execute(
        cls, width: int, height: int, prompts: str, strength: float, regions: Regions | None = None,
        masks: Tensor | None = None, boxes: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        if boxes is None and masks is None:
            raise ValueError("connect boxes, or masks.")
        try:
            parsed = [] if boxes is None else box_formats.parse_boxes(boxes, width, height)
        except ValueError as why:
            raise ValueError(f"boxes: {why}") from None
        if masks is not None:
            masks = masks.reshape(-1, *masks.shape[-2:])
            parsed = parsed or [sources.WHOLE] * len(masks)
            if len(masks) != len(parsed):
                raise ValueError(
                    f"masks: there are {len(masks)} of them and {len(parsed)} boxes. SAM3 Detect gives one per "
                    "box with individual_masks on, and one image."
                )
        check_number(regions, len(parsed))
        return io.NodeOutput(extended(regions, boxed(parsed, width, height, strength, prompts, masks)))


class FoveaCropRegions(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        side = {"min": 1, "max": 65536}
        return io.Schema(
            node_id="FoveaCropRegions",
            display_name="Crop Regions",
            category="Fovea/regions",
            description=(
                "The regions as they are in a part of the picture: for a tile, a crop that is inpainted, a detail that "
                "is sampled by itself. Without it, regions are stretched over whatever is sampled."
            ),
            search_aliases=[*ALIASES, "tile", "crop", "upscale", "detailer"],
            inputs=[
                RegionsType.Input("regions", tooltip="The regions of the whole picture."),
                io.Int.Input("x", default=0, min=-65536, max=65536, tooltip="Left side of the part, in pixels."),
                io.Int.Input("y", default=0, min=-65536, max=65536, tooltip="Upper side of the part."),
                io.Int.Input("width", default=512, **side, tooltip="Width of the part."),
                io.Int.Input("height", default=512, **side, tooltip="Height of the part."),
                io.Int.Input("picture_width", default=1024, **side, tooltip="Width of the whole picture, in pixels."),
                io.Int.Input("picture_height", default=1024, **side, tooltip="Height of the whole picture."),
            ],
            outputs=[RegionsType.Output(display_name="regions", tooltip="The regions of that part. Those that have "
                                        "nothing in it are left out by the nodes that use them.")],
        )  # fmt: skip

    @classmethod
    @errors.of_node("Crop Regions")
    def execute(
        cls, regions: Regions, x: int, y: int, width: int, height: int, picture_width: int, picture_height: int
    ) -> io.NodeOutput:
        return io.NodeOutput(regions.cropped((x, y, width, height), (picture_width, picture_height)))


class FoveaRegionPreview(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaRegionPreview",
            display_name=PREVIEW,
            category="Fovea/regions",
            description=(
                "Shows regions in colors with a legend, and what is left of them on the token grids of a model's "
                "layers, where thin shapes get lost."
            ),
            search_aliases=[*ALIASES, "preview regions"],
            is_output_node=True,
            inputs=[
                RegionsType.Input("regions", tooltip="The regions to show."),
                io.Int.Input("width", default=512, min=16, max=16384, step=8, tooltip="Width of the picture to make."),
                io.Int.Input("height", default=512, min=16, max=16384, step=8, tooltip="Height of that picture."),
                io.Combo.Input(
                    "overlap", options=["as given", *OVERLAPS], default="as given",
                    tooltip="as given: unchanged. top: where regions overlap, the last has the place. share: all share "
                    "it. The regions output has it too.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="preview", tooltip="The regions, and one tile per token grid."),
                RegionsType.Output(display_name="regions", tooltip="The same regions, with the chosen overlap."),
                io.String.Output(display_name="report", tooltip="What gets lost, in words."),
            ],
        )  # fmt: skip

    @classmethod
    @errors.of_node(PREVIEW)
    def execute(cls, regions: Regions, width: int, height: int, overlap: str) -> io.NodeOutput:
        regions = regions if overlap == "as given" else Regions(regions.items, overlap)
        size = (256 * height // max(width, height), 256 * width // max(width, height))
        size = (max(16, size[0]), max(16, size[1]))
        grids = [(-(-height // n), -(-width // n)) for n in LEVELS]
        tiles = [sources.grid_picture(regions, grid, size) for grid in grids]
        names = [region.prompt or "(no prompt)" for region in regions.items]
        picture = torch.nn.functional.interpolate(
            sources.region_picture(regions)[:1].movedim(-1, 1), size=size, mode="area"
        ).movedim(1, -1)[0]
        columns = ["regions", *(f"{h} x {w} tokens" for h, w in grids)]
        sheet = heat_maps.sheet([("", [picture, *tiles])], columns)
        shown = heat_maps.legend(sheet, names, sources.PALETTE)[None]
        lost = lost_regions(regions, width, height).splitlines() if len(regions) else regions.idle()
        told = notices.report(PREVIEW, lost)
        return io.NodeOutput(shown, regions, told, ui=ui.PreviewImage(shown, cls=cls))


def lost_regions(regions: Regions, width: int, height: int) -> str:
    """Which regions keep only a single token on which grid, in words; "" if none does."""
    canvas, lines = regions.canvas(), []
    for n in LEVELS:
        grid = (-(-height // n), -(-width // n))
        for i in vanishing(canvas, grid):
            name = regions.items[i].prompt or f"region {i + 1}"
            lines.append(f"{name!r} is too thin for layers of {grid[0]} x {grid[1]} tokens: one is left of it there.")
    for i, (region, peak) in enumerate(zip(regions.items, regions.peaks().tolist())):
        if peak == 0 and all(region is not other for other in regions.acting.items):  # else it has its turn
            lines.append(f"{region.prompt or f'region {i + 1}'!r} is empty or covered by others.")
    return "\n".join(lines)


NODES: list[Any] = [
    FoveaRegion, FoveaRegionsFromColors, FoveaRegionsFromBoxes, FoveaCropRegions, FoveaRegionPreview,
]  # fmt: skip
