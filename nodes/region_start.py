"""The node that tells the starting noise what should be where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..guidance import starting_noise
from ..guidance.region_start import painting
from ..guidance.region_start.painting import PaintedStart, Painting
from ..guidance.regions.masks import Regions
from .region_sources import ALIASES, RegionsType
from .ui import errors, notices

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE
    from torch import Tensor

NAME = "Region Start"
COLORS = {"words": False, "painted": True}  # whether the color that a region was painted in counts
PREVIEW_SIDE = 512  # pixels


class FoveaRegionStart(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaRegionStart",
            display_name=NAME,
            category="Fovea/regions",
            description=(
                "Objects appear in their places because the starting noise already hints at their colors there: a "
                "model decides places by what its noise looks like. No further evaluation, every sampler. Use it "
                "together with Dense Diffusion."
            ),
            search_aliases=[*ALIASES, "layout", "initial noise", "noise shaping", "init image", "sketch"],
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with. Only runs that start from full noise "
                               "change; image to image and second passes do not."),
                RegionsType.Input("regions", tooltip="The places. Regions without a color are left out."),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=4.0, step=0.05,
                    tooltip="How strongly the noise hints at the colors. 0 is off. More places objects more surely and "
                    "leaves less to the seed.",
                ),
                io.Combo.Input(
                    "color_source", options=list(COLORS), default="words",
                    tooltip="words: the color word of a region's prompt, as in a red star. painted: the color that a "
                    "region was painted in. A region's own color input comes before both.",
                ),
                io.String.Input(
                    "background", default="",
                    tooltip="The color where no region is: #f3f3f0, or white; or the prompt, if it says so, as in: on "
                    "a white background. Empty: the seed decides.",
                ),
                io.Vae.Input(
                    "vae", optional=True, tooltip="Knows the colors exactly. Without it they are taken from the "
                    "model's preview colors, which is enough for most models.",
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="A picture to take all colors from: the mean of each region, and "
                    "of what is left. Any size, it is stretched.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model whose runs begin with these colors."),
                io.Image.Output(display_name="preview", tooltip="What the noise hints at; gray where it does not."),
                io.String.Output(display_name="report", tooltip="What could not be done as asked. Empty: nothing."),
            ],
        )  # fmt: skip

    @classmethod
    @errors.of_node(NAME)
    def execute(
        cls, model: ModelPatcher, regions: Regions, strength: float, color_source: str, background: str,
        vae: VAE | None = None, image: Tensor | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        acting, notes = regions.acting, regions.idle()
        late = [region for region in acting.items if region.start > 0]
        notes += [f"{region.prompt or 'a region'!r} begins later than the run: it is left out." for region in late]
        acting = acting.only([i for i, region in enumerate(acting.items) if region.start <= 0])
        found = painting.colored_regions(acting, COLORS[color_source], image)
        try:
            behind = painting.background_color(acting, background, image)
        except ValueError as why:
            raise ValueError(f"background: {why}") from None
        notes += [
            f"{region.prompt or f'region {i + 1}'!r} has no color word: it is left out. Give the region a color."
            for i, (region, color) in enumerate(zip(acting.items, found)) if color is None
        ]  # fmt: skip
        if behind is None and background.strip() and image is None:
            notes.append("background names no color: what is behind the regions is left to the seed. A color is "
                         "#f3f3f0, or a name such as white or dark blue.")  # fmt: skip
        told = notices.report(NAME, notes)
        every = (*found, behind)
        shown = painting.picture(acting.canvas(), every, PREVIEW_SIDE)
        distinct = list(dict.fromkeys(color for color in every if color is not None))
        if strength == 0 or not len(acting) or not distinct:
            return io.NodeOutput(model, shown, told)
        latent_of = painting.latents_of(model.model, vae, distinct)
        patched = model.clone()
        start = PaintedStart(Painting.of(acting, every, latent_of), strength)
        starting_noise.install(patched, start)
        return io.NodeOutput(patched, shown, told)


NODES: list[Any] = [FoveaRegionStart]
