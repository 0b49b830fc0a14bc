"""Nodes that steer attention to regions: DenseDiffusion and Paint-with-Words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from comfy_api.latest import io

from ..attention.block_names import parse_blocks
from ..attention.families.registry import MODELS, UNETS, family_of
from ..attention.sites import BlockId
from ..guidance import starting_noise
from ..guidance.gradients.autograd import fully_loaded, outside_inference_mode
from ..guidance.gradients.errors import NoGradient
from ..guidance.gradients.refusals import refuse_what_loses_gradient
from ..guidance.region_lora import model_patch as region_lora
from ..guidance.region_start import layout_loss
from ..guidance.region_start.arranged import ARRANGED
from ..guidance.regions import model_patch, prompt_encoding
from ..guidance.regions.control import RegionControl
from ..guidance.regions.masks import Regions
from ..guidance.regions.score_bias import SCORE_UNITS, SELF_RANGE, TEXT_RANGE, RegionBias
from .region_sources import ALIASES, RegionsType
from .ui import choice, errors, notices

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

DENSE, PAINT = "Dense Diffusion", "Paint with Words"
REST = 1.0
GOALS = ["regional prompting", "regional prompter", "latent couple", "attention couple", "attention mask",
         "area prompt"]  # fmt: skip
STEERING_NODES = frozenset({"FoveaDenseDiffusion", "FoveaPaintWithWords"})


class Method(NamedTuple):
    """A method of the node. law: how it depends on noise. text, image: what the node's strengths 1 and 1 mean."""

    bias: RegionBias
    law: str = "power"
    text: float = 1.0
    image: float = 1.0


# "fovea" was found on ShapesWorld, with the window and the time exponent that are the node's defaults: docs/results.md.
# It was found in ranges of scores; standard deviations, so many to a range, take no pass over the scores.
METHODS = {
    "fovea": Method(
        RegionBias("row std", temperature=0.0, area_weight=0.0, background=False, outside_weight=1.0),
        text=4.0 * TEXT_RANGE,
        image=10 / 3 * SELF_RANGE,
    ),
    "densediffusion": Method(RegionBias()),
    "hard": Method(RegionBias(score_unit="hard", temperature=0.0, area_weight=0.0, background=False), "constant"),
}


def _outputs() -> list[io.Output]:
    return [
        io.Model.Output(display_name="model", tooltip="The model, steered where the prompts below are used with it."),
        io.Conditioning.Output(display_name="positive", tooltip="The encoded prompt, with its regions."),
        io.Conditioning.Output(
            display_name="negative", tooltip="The encoded negative prompt, with the regions' own negative prompts."
        ),
        io.String.Output(display_name="report", tooltip="What could not be done as asked, in words. Empty: nothing."),
    ]


def _common_inputs(end_percent: io.Input) -> tuple[list[io.Input], list[io.Input]]:
    """Inputs before and after those of one method. end_percent: of the window."""
    first = [
        io.Model.Input("model", tooltip=f"What to steer. In every mode: {UNETS}. In mode concat: {MODELS}."),
        io.Clip.Input("clip", tooltip="Encodes the prompt and the regions' prompts."),
        RegionsType.Input("regions", tooltip="The places and their prompts."),
        io.String.Input(
            "prompt", multiline=True, default="", dynamic_prompts=True,
            tooltip="What the whole picture shows, with the regions' prompts in it word by word. Empty: made of them.",
        ),
        io.String.Input("negative_prompt", multiline=True, default="", dynamic_prompts=True,
                        tooltip="The negative prompt of the whole picture."),
    ]  # fmt: skip
    last = [
        io.Float.Input(
            "start_percent", default=0.0, min=0.0, max=1.0, step=0.001,
            tooltip="Where in the schedule steering begins: 0.0 is the first step.",
        ),
        end_percent,
        io.Combo.Input(
            "mode", options=list(prompt_encoding.MODES), default="auto",
            tooltip="prompt: the regions' prompts are found in the prompt (the papers). concat: they are encoded on "
            "their own and appended, for any text encoder. auto: prompt where it works, else concat.",
        ),
        io.String.Input(
            "blocks", default="all",
            tooltip="Which layers are steered: all, or names such as middle, input.4, output.5.*, separated by "
            "commas. An unknown name is answered with the list for this model.",
        ),
        io.Boolean.Input(
            "encode_regions_separately", default=True, advanced=True,
            tooltip="In mode prompt, encode every region's prompt also on its own and put that in its place: keeps "
            "one region's words out of another's.",
        ),
    ]  # fmt: skip
    return first, last


def _method_inputs(method: str) -> list[io.Input]:
    """What can be set of this method alone."""
    rest = io.Float.Input(
        "rest_strength", default=REST, min=0.0, max=1.0, step=0.05, optional=True,
        tooltip="How much attention the words of no region (background, style) keep where regions fill the picture. "
        "1: all of it. 0: off. Method fovea, mode prompt only.",
    )  # fmt: skip
    area = io.Float.Input(
        "area_strength", default=1.0, min=0.0, max=1.0, step=0.05, optional=True,
        tooltip="How much gentler large regions are treated than small ones. 0: all alike.",
    )
    stride = io.Int.Input(
        "key_stride", default=1, min=1, max=64, optional=True, advanced=True,
        tooltip="1 measures scores exactly; n looks at every n-th place only, which is faster and a little weaker.",
    )
    own: dict[str, list[io.Input]] = {"fovea": [rest], "densediffusion": [area, stride], "hard": []}
    return own[method]


class FoveaDenseDiffusion(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        first, last = _common_inputs(io.Float.Input(
            "end_percent", default=0.5, min=0.0, max=1.0, step=0.001,
            tooltip="Where in the schedule steering ends. Steps outside the window cost nothing. The paper of "
            "DenseDiffusion has 0.3.",
        ))  # fmt: skip
        return io.Schema(
            node_id="FoveaDenseDiffusion",
            display_name=DENSE,
            category="Fovea/regions",
            description=(
                "Each region's prompt appears in its place: attention between picture and words, and among places of "
                "the picture, is steered in the first steps (DenseDiffusion). One model evaluation as ever, any size "
                "and mask."
            ),
            search_aliases=[*ALIASES, *GOALS, "layout", "attention modulation"],
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
                    "time_exponent", default=2.0, min=0.0, max=20.0, step=0.1,
                    tooltip="How fast the effect fades from the first step on: (timestep / 1000) to this power. 0: not "
                    "at all. DenseDiffusion has 5.",
                ),
                *last,
                io.Int.Input(
                    "layout_iterations", default=0, min=0, max=20,
                    tooltip="Moves the starting noise so often first, until the model's own attention finds each "
                    "prompt in its place. 2 or 3 are enough; each costs about as much as a step and a half. Needs "
                    "gradients, which packed weights have not; streamed ones are loaded whole for it. 0 is off.",
                ),
                io.Int.Input(
                    "arranged_noises", default=0, min=0, max=64,
                    tooltip="Moves patches of the starting noise to the regions whose words look at them. 1: its own "
                    "patches, at the cost of half a step; more: the best patches of this many noises, half a step "
                    "each. Needs no gradient. 0 is off.",
                ),
                io.DynamicCombo.Input(
                    "method", options=[io.DynamicCombo.Option(name, _method_inputs(name)) for name in METHODS],
                    tooltip="fovea: words are pulled up in their place and pushed down in all others. "
                    "densediffusion: as published, which pushes everything else down, style words included. hard: "
                    "places see nothing but their own words; strengths only switch it on.",
                ),
            ],
            outputs=_outputs(),
        )  # fmt: skip

    @classmethod
    @errors.of_node(DENSE)
    def execute(
        cls, model: ModelPatcher, clip: CLIP, regions: Regions, prompt: str, negative_prompt: str,
        cross_strength: float, self_strength: float, time_exponent: float, start_percent: float,
        end_percent: float, mode: str, blocks: str, encode_regions_separately: bool, layout_iterations: int = 0,
        arranged_noises: int = 0, method: dict[str, Any] | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        name, own = choice.chosen(method, "method", METHODS)
        chosen = METHODS[name]
        bias = replace(
            chosen.bias, key_stride=own.get("key_stride", 1),
            area_weight=own.get("area_strength", 1.0) if chosen.bias.area_weight else 0.0,
            free_weight=own.get("rest_strength", REST) if chosen.bias.outside_weight else 0.0,
        )  # fmt: skip
        control = RegionControl(
            bias, chosen.text * cross_strength, chosen.image * self_strength, start_percent, end_percent, chosen.law,
            time_exponent, _blocks(model, blocks), layout_iterations, arranged_noises,
        )  # fmt: skip
        prompts = (prompt, negative_prompt, mode, encode_regions_separately)
        return _steered(DENSE, model, clip, regions, prompts, control)


class FoveaPaintWithWords(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        first, last = _common_inputs(io.Float.Input(
            "end_percent", default=1.0, min=0.0, max=1.0, step=0.001,
            tooltip="Where in the schedule steering ends. Steps outside the window cost nothing.",
        ))  # fmt: skip
        return io.Schema(
            node_id="FoveaPaintWithWords",
            display_name=PAINT,
            category="Fovea/regions",
            description=(
                "Each region's prompt appears in its place: the attention of a place to its words is raised, most "
                "where there is most noise (Paint-with-Words of eDiff-I). One model evaluation as ever, any size and "
                "mask."
            ),
            search_aliases=[*ALIASES, "eDiff-I", "ediffi", "paint-with-words"],
            inputs=[
                *first,
                io.Float.Input(
                    "strength", default=0.4, min=0.0, max=10.0, step=0.05,
                    tooltip="How much the attention to a place's words is raised. 0 is off.",
                ),
                io.Combo.Input(
                    "score_unit", options=[m for m in SCORE_UNITS if m != "hard"], default="row max",
                    tooltip="What strength is counted in. row max, row std: the largest score of each place, their "
                    "spread. max, std: the same over the whole call, as older ports have it. range: as DenseDiffusion.",
                ),
                *last,
            ],
            outputs=_outputs(),
        )  # fmt: skip

    @classmethod
    @errors.of_node(PAINT)
    def execute(
        cls, model: ModelPatcher, clip: CLIP, regions: Regions, prompt: str, negative_prompt: str, strength: float,
        score_unit: str, start_percent: float, end_percent: float, mode: str, blocks: str,
        encode_regions_separately: bool,
    ) -> io.NodeOutput:  # fmt: skip
        bias = RegionBias(score_unit, temperature=0.0, area_weight=0.0, background=False)
        control = RegionControl(
            bias, strength, 0.0, start_percent, end_percent, law="log", blocks=_blocks(model, blocks)
        )
        prompts = (prompt, negative_prompt, mode, encode_regions_separately)
        return _steered(PAINT, model, clip, regions, prompts, control)


def _blocks(model: ModelPatcher, names: str) -> frozenset[BlockId] | None:
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
        raise ValueError(f"blocks: {why}") from None


def _steered(
    node: str, model: ModelPatcher, clip: CLIP, regions: Regions,
    prompts: tuple[str, str, str, bool], control: RegionControl,
) -> io.NodeOutput:  # fmt: skip
    """The node's outputs. prompts: prompt, negative prompt, mode, whether regions are encoded on their own too.

    Neutral settings give the model itself and plain prompts.
    """
    prompt, negative_prompt, mode, separate = prompts
    errors.needs_clip(clip)
    acting = regions.acting
    whole = prompt_encoding.whole_prompt(prompt, acting)
    notes = [*regions.idle(), *regions.wordless()]
    with_loras = model.clone() if any(region.loras for region in acting.items) else model
    notes += region_lora.ensure(with_loras, acting)
    if control.neutral or not len(acting):
        plain = (prompt_encoding.encode(clip, text) for text in (whole, negative_prompt))
        return io.NodeOutput(with_loras, *plain, notices.report(node, notes))
    if family_of(model.get_model_object("diffusion_model")) is None:
        raise ValueError(
            f"the attention of the model ({type(model.model).__name__}) cannot be steered yet. Regions to "
            "Conditioning makes ComfyUI's own masks of the same regions."
        )
    own_clips = [model_patch.adapted(region_lora.clip_of(clip, region), model) for region in acting.items]
    clip = model_patch.adapted(clip, model)
    positive = prompt_encoding.positive(clip, whole, acting, mode, separate, control, own_clips)
    negative = prompt_encoding.negative(clip, negative_prompt, acting, control, own_clips)
    patched = _with_gradients(with_loras) if control.layout_iterations else with_loras.clone()
    model_patch.install(patched)
    if control.arranged_noises:
        starting_noise.install(patched, ARRANGED)
    if control.layout_iterations:
        starting_noise.install(patched, layout_loss.LAYOUT)
    notes += [*positive.notes, *negative.notes]
    return io.NodeOutput(patched, positive.conditioning, negative.conditioning, notices.report(node, notes))


def _with_gradients(model: ModelPatcher) -> ModelPatcher:
    """A clone through which the layout loss can look back. Raises NoGradient."""
    try:
        refuse_what_loses_gradient(model)
        with outside_inference_mode():
            return fully_loaded(model)
    except NoGradient as why:
        raise NoGradient(f"layout_iterations need gradients. {why} {layout_loss.CURE}") from None


NODES: list[Any] = [FoveaDenseDiffusion, FoveaPaintWithWords]
