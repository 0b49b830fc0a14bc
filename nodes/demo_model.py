"""The demo model: no download, no account, something to try every other node on."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.picture_mean import with_picture_means
from ..models.shapesworld import loader as demo_model
from .ui import errors, notices

NAME = "Load Demo Model (ShapesWorld)"
PLAIN, DUAL, FLOW, FOLLOWS = "ShapesWorld", "CLIP + T5 + style", "flow transformer", "trained to follow regions"
NOISE, PICTURE_MEAN = "noise", "noise and the mean of a picture"
EXPERTS = {"expert: high noise": "expert_high", "expert: low noise": "expert_low"}
CHANGED = {**EXPERTS, FOLLOWS: "steered"}  # the model with a low-rank change


class FoveaLoadDemo(io.ComfyNode):
    """Inputs and outputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaLoadDemo",
            display_name=NAME,
            category="Fovea/demo",
            description=(
                "Loads ShapesWorld, the small picture model that ships with Fovea: 256x256 pictures of colored "
                "shapes, one to four seconds each on a CPU. Prompts look like 'a striped red circle and a plain blue "
                "star on a white background'. Use it like a checkpoint to try the other Fovea nodes without a download."
            ),
            search_aliases=["ShapesWorld", "demo checkpoint", "example model", "tiny model", "test model"],
            inputs=[
                io.Combo.Input(
                    "variant", options=[PLAIN, *EXPERTS, DUAL, FLOW, FOLLOWS], default=PLAIN, optional=True,
                    tooltip="The model; its experts for high and low noise (for Expert Switch); the one that reads two "
                    "text encoders and a style picture (for Encoder Schedule and Style Guidance); a transformer "
                    "that samples by flow, as most new models do, and knows words for places; or the model trained "
                    "further with its attention told where things are (for Dense Diffusion).",
                ),
                io.Combo.Input(
                    "start", options=[NOISE, PICTURE_MEAN], default=NOISE, optional=True, advanced=True,
                    tooltip="For samples without a prompt. From noise alone this model makes no white backgrounds, "
                    "since its training never began there. The flow transformer's did: it needs none.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    tooltip="The generator, with 4-channel latents: 256x256 pictures are 32x32 latents."
                ),
                io.Clip.Output(tooltip="The text encoder that knows ShapesWorld's words (see the help page)."),
                io.Vae.Output(tooltip="The autoencoder: 8 pixels per latent cell, as in Stable Diffusion."),
                io.ClipVision.Output(
                    tooltip="Sees the style of a picture for the variant CLIP + T5 + style, through CLIP Vision Encode "
                    "and unCLIP Conditioning."
                ),
            ],
        )  # fmt: skip

    @classmethod
    @errors.of_node(NAME)
    def execute(cls, variant: str = PLAIN, start: str = NOISE) -> io.NodeOutput:
        if variant == DUAL:
            model, clip = demo_model.load_dual(), demo_model.load_dual_clip()
        elif variant == FLOW:
            model, clip = demo_model.load_dit(), demo_model.load_dit_clip()
        else:
            model = demo_model.load_changed(CHANGED[variant]) if variant in CHANGED else demo_model.load_model()
            clip = demo_model.load_clip()
        if start == PICTURE_MEAN and variant == FLOW:
            notices.report(NAME, ["start does nothing here: the flow transformer begins with noise alone."])
        elif start == PICTURE_MEAN:
            model = with_picture_means(model, demo_model.picture_means())
        return io.NodeOutput(model, clip, demo_model.load_vae(), demo_model.load_clip_vision())


NODES = [FoveaLoadDemo]
