"""The demo model: no download, no account, something to try every other node on."""

from __future__ import annotations

from comfy_api.latest import io

from ..models.shapesworld import loader as demo_model

PLAIN, DUAL = "ShapesWorld", "CLIP + T5 + style"
EXPERTS = {"expert: high noise": "expert_high", "expert: low noise": "expert_low"}


class FoveaLoadDemo(io.ComfyNode):
    """Inputs and outputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaLoadDemo",
            display_name="Load Demo Model (ShapesWorld)",
            category="Fovea/demo",
            description=(
                "Loads ShapesWorld, the small picture model that ships with Fovea: 256x256 pictures of colored "
                "shapes, about a second each on a CPU. Prompts look like 'a striped red circle and a plain blue star "
                "on a white background'. Use it like a checkpoint to try the other Fovea nodes without a download."
            ),
            search_aliases=["ShapesWorld", "demo checkpoint", "example model", "tiny model", "test model"],
            inputs=[
                io.Combo.Input(
                    "variant", options=[PLAIN, *EXPERTS, DUAL], default=PLAIN, optional=True,
                    tooltip="The model; its experts for high and low noise (for Expert Switch); or the one that reads "
                    "two text encoders and a style picture (for Encoder Schedule and Style Guidance).",
                ),
            ],
            outputs=[
                io.Model.Output(
                    tooltip="The generator: a latent UNet with 4-channel latents, 256x256 pictures (32x32 latents)."
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
    def execute(cls, variant: str = PLAIN) -> io.NodeOutput:
        if variant == DUAL:
            model, clip = demo_model.load_dual(), demo_model.load_dual_clip()
        else:
            model = demo_model.load_expert(EXPERTS[variant]) if variant in EXPERTS else demo_model.load_model()
            clip = demo_model.load_clip()
        return io.NodeOutput(model, clip, demo_model.load_vae(), demo_model.load_clip_vision())


NODES = [FoveaLoadDemo]
