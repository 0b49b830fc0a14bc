"""Nodes that make regions happen: DenseDiffusion, Paint-with-Words, and the way back to ComfyUI's own masks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from comfy_api.latest import io

from ..attention.block_names import parse_blocks
from ..attention.families.registry import family_of
from ..attention.sites import BlockId
from ..guidance.regions import prompt_encoding
from ..guidance.regions.masks import Regions
from ..guidance.regions.model_patch import RegionControl, watched
from ..guidance.regions.score_bias import SCORE_UNITS, RegionBias
from .region_sources import ALIASES, RegionsType

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

DENSE, PAINT = "Dense Diffusion (Fovea)", "Paint with Words (Fovea)"


class Preset(NamedTuple):
    """An operator of the node. law: how it depends on noise. text, image: what the node's strengths 1 and 1 mean."""

    operator: RegionBias
    law: str = "power"
    text: float = 1.0
    image: float = 1.0


# "fovea" was found on ShapesWorld, with the window and the time exponent that are the node's defaults: docs/results.md.
OPERATORS = {
    "fovea": Preset(RegionBias(temperature=0.0, area=0.0, background=False, against=1.0), text=4.0, image=10 / 3),
    "paper": Preset(RegionBias()),
    "hard": Preset(RegionBias(measure="hard", temperature=0.0, area=0.0, background=False), "constant"),
}


def _outputs() -> list[io.Output]:
    return [
        io.Model.Output(display_name="model", tooltip="The model, steered where the prompts below are used with it."),
        io.Conditioning.Output(display_name="positive", tooltip="The encoded caption, with its regions."),
        io.Conditioning.Output(
            display_name="negative", tooltip="The encoded negative prompt, with the regions' own negative phrases."
        ),
        io.String.Output(display_name="report", tooltip="What could not be done as asked, in words. Empty: nothing."),
    ]


def _common_inputs() -> tuple[list[io.Input], list[io.Input]]:
    """Inputs before and after those of one method."""
    first = [
        io.Model.Input("model", tooltip="What to steer. SD1.x, SD2.x, SDXL and ShapesWorld in every mode; SD3, Flux, "
                       "Chroma, Qwen-Image, Lumina 2, Z-Image and Wan in mode concat."),
        io.Clip.Input("clip", tooltip="Encodes the caption and the phrases."),
        RegionsType.Input("regions", tooltip="The places and their phrases."),
        io.String.Input(
            "caption", multiline=True, default="",
            tooltip="The whole prompt, with the phrases of the regions in it. Empty: made of the phrases.",
        ),
        io.String.Input("negative", multiline=True, default="", tooltip="The negative prompt."),
    ]  # fmt: skip
    last = [
        io.Float.Input(
            "start_percent", default=0.0, min=0.0, max=1.0, step=0.001,
            tooltip="Where in the schedule steering begins: 0.0 is the first step.",
        ),
        io.Combo.Input(
            "mode", options=list(prompt_encoding.MODES), default="auto",
            tooltip="caption: phrases are found in the caption (the papers). concat: the phrases are encoded on their "
            "own and appended, for any text encoder. auto: caption where it works, else concat.",
        ),
        io.String.Input(
            "blocks", default="all",
            tooltip="Which layers are steered: all, or names such as middle, input.4, output.5.*, separated by "
            "commas. An unknown name is answered with the list for this model.",
        ),
        io.Boolean.Input(
            "encode_phrases", default=True, advanced=True,
            tooltip="In mode caption, encode every phrase also on its own and put that in its place: keeps one "
            "phrase's words out of another's.",
        ),
    ]  # fmt: skip
    return first, last


class FoveaDenseDiffusion(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        first, last = _common_inputs()
        return io.Schema(
            node_id="FoveaDenseDiffusion",
            display_name=DENSE,
            category="Fovea/regions",
            description=(
                "Each region's phrase appears in its place: attention between picture and words, and among places of "
                "the picture, is steered in the first steps (DenseDiffusion). One model evaluation as ever, any size "
                "and mask."
            ),
            search_aliases=[*ALIASES, "layout", "attention modulation"],
            inputs=[
                *first,
                io.Float.Input(
                    "cross_strength", default=1.0, min=0.0, max=4.0, step=0.05,
                    tooltip="How strongly places are bound to their words. 0 is off.",
                ),
                io.Float.Input(
                    "self_strength", default=0.3, min=0.0, max=4.0, step=0.05,
                    tooltip="How strongly places look at their own region rather than at others. 0 is off.",
                ),
                io.Float.Input(
                    "area_strength", default=1.0, min=0.0, max=1.0, step=0.05,
                    tooltip="How much gentler large regions are treated than small ones, in operator paper. 0: all "
                    "alike.",
                ),
                io.Float.Input(
                    "time_exponent", default=2.0, min=0.0, max=20.0, step=0.1,
                    tooltip="How fast the effect fades from the first step on: (what is left of the schedule) to this "
                    "power. 0: not at all. DenseDiffusion has 5.",
                ),
                io.Float.Input(
                    "end_percent", default=0.5, min=0.0, max=1.0, step=0.001,
                    tooltip="Where in the schedule steering ends. Steps outside the window cost nothing. The paper "
                    "of DenseDiffusion has 0.3.",
                ),
                io.Combo.Input(
                    "operator", options=list(OPERATORS), default="fovea",
                    tooltip="fovea: words are pulled up in their place and pushed down in all others. paper: "
                    "DenseDiffusion as published, which pushes everything else down, style words included. hard: "
                    "places see nothing but their own words.",
                ),
                *last,
                io.Int.Input(
                    "sampled", default=1, min=1, max=64, advanced=True,
                    tooltip="1 measures scores exactly; n looks at every n-th place only, which is faster and a little "
                    "weaker.",
                ),
            ],
            outputs=_outputs(),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: ModelPatcher, clip: CLIP, regions: Regions, caption: str, negative: str, cross_strength: float,
        self_strength: float, area_strength: float, time_exponent: float, end_percent: float, operator: str,
        start_percent: float, mode: str, blocks: str, encode_phrases: bool, sampled: int,
    ) -> io.NodeOutput:  # fmt: skip
        preset = OPERATORS[operator]
        chosen = replace(preset.operator, area=area_strength if preset.operator.area else 0.0, sampled=sampled)
        control = RegionControl(
            chosen, preset.text * cross_strength, preset.image * self_strength, start_percent, end_percent, preset.law,
            time_exponent, _blocks(model, blocks, DENSE),
        )  # fmt: skip
        return _steered(DENSE, model, clip, regions, caption, negative, mode, encode_phrases, control)


class FoveaPaintWithWords(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        first, last = _common_inputs()
        return io.Schema(
            node_id="FoveaPaintWithWords",
            display_name=PAINT,
            category="Fovea/regions",
            description=(
                "Each region's phrase appears in its place: the attention of a place to its words is raised, most "
                "where there is most noise (Paint-with-Words of eDiff-I). One model evaluation as ever, any size and "
                "mask."
            ),
            search_aliases=[*ALIASES, "eDiff-I", "paint-with-words"],
            inputs=[
                *first,
                io.Float.Input(
                    "strength", default=0.4, min=0.0, max=10.0, step=0.05,
                    tooltip="How much the attention to a place's words is raised. 0 is off.",
                ),
                io.Combo.Input(
                    "measure", options=[m for m in SCORE_UNITS if m != "hard"], default="row max",
                    tooltip="What strength is counted in. row max: the largest score of each place. max, std: largest "
                    "score and spread over the whole call, as older ports have it. range: as DenseDiffusion.",
                ),
                io.Float.Input(
                    "end_percent", default=1.0, min=0.0, max=1.0, step=0.001,
                    tooltip="Where in the schedule steering ends. Steps outside the window cost nothing.",
                ),
                *last,
            ],
            outputs=_outputs(),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: ModelPatcher, clip: CLIP, regions: Regions, caption: str, negative: str, strength: float,
        measure: str, end_percent: float, start_percent: float, mode: str, blocks: str, encode_phrases: bool,
    ) -> io.NodeOutput:  # fmt: skip
        operator = RegionBias(measure, temperature=0.0, area=0.0, background=False)
        control = RegionControl(
            operator, strength, 0.0, start_percent, end_percent, law="log", blocks=_blocks(model, blocks, PAINT)
        )
        return _steered(PAINT, model, clip, regions, caption, negative, mode, encode_phrases, control)


def _blocks(model: ModelPatcher, names: str, node: str) -> frozenset[BlockId] | None:
    """The blocks to steer, None for all."""
    if names.strip().lower() in ("", "all", "auto"):
        return None
    network = model.get_model_object("diffusion_model")
    family = family_of(network)
    if family is None:
        return None
    try:
        return parse_blocks(names, family.blocks(network), frozenset())
    except ValueError as why:
        raise ValueError(f"{node}: blocks: {why}") from None


def _steered(
    node: str, model: ModelPatcher, clip: CLIP, regions: Regions, caption: str, negative: str, mode: str,
    separate: bool, control: RegionControl,
) -> io.NodeOutput:  # fmt: skip
    """The node's outputs. Neutral settings give the model itself and plain prompts."""
    if clip is None:
        raise ValueError(f"{node}: clip is empty. Connect the CLIP of a checkpoint that has a text encoder.")
    if control.neutral or not len(regions):
        plain = caption if caption.strip() else prompt_encoding.compose([region.phrase for region in regions.items])
        return io.NodeOutput(model, prompt_encoding.encode(clip, plain), prompt_encoding.encode(clip, negative), "")
    if family_of(model.get_model_object("diffusion_model")) is None:
        raise ValueError(
            f"{node}: the attention of the model ({type(model.model).__name__}) cannot be steered yet. Regions to "
            "Conditioning makes ComfyUI's own masks of the same regions."
        )
    try:
        found = prompt_encoding.positive(clip, caption, regions, mode, separate)
        against = prompt_encoding.negative(clip, negative, regions)
    except ValueError as why:
        raise ValueError(f"{node}: {why}") from None
    patched = model.clone()
    control.install(patched)
    report = "\n".join([*found.warnings, *against.warnings])
    return io.NodeOutput(patched, watched(found.conditioning), against.conditioning, report)


class FoveaRegionsToConditioning(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaRegionsToConditioning",
            display_name="Regions to Conditioning",
            category="Fovea/regions",
            description=(
                "The same regions as ComfyUI's own masked conditioning, one model evaluation per region: works with "
                "every model, without attention control."
            ),
            search_aliases=[*ALIASES, "Conditioning (Set Mask)", "multi-diffusion"],
            inputs=[
                io.Clip.Input("clip", tooltip="Encodes the phrases and the caption."),
                RegionsType.Input("regions", tooltip="The places and their phrases."),
                io.String.Input(
                    "caption", multiline=True, default="",
                    tooltip="Prompt of the whole picture, beside the regions'. Empty: none.",
                ),
                io.Float.Input(
                    "caption_strength", default=0.5, min=0.0, max=10.0, step=0.05,
                    tooltip="Weight of the caption where a region has weight 1. Places of no region have the caption "
                    "alone.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="conditioning", tooltip="A masked prompt per region.")
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, clip: CLIP, regions: Regions, caption: str, caption_strength: float) -> io.NodeOutput:
        return io.NodeOutput(prompt_encoding.masked(clip, caption, regions, caption_strength))


NODES: list[Any] = [FoveaDenseDiffusion, FoveaPaintWithWords, FoveaRegionsToConditioning]
