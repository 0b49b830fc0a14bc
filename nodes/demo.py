"""The demo model: no download, no account, something to try every other node on."""

from __future__ import annotations

from comfy_api.latest import io

from ..models import demo


class FoveaLoadDemo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaLoadDemo",
            display_name="Load Demo Model (ShapesWorld)",
            category="Fovea/demo",
            description=(
                "Loads ShapesWorld, the small picture model that ships with Fovea: 256x256 pictures of coloured "
                "shapes, a few seconds each on a CPU. Prompts look like 'a striped red circle and a plain blue star on "
                "a white background'. Use it like a checkpoint to try the other Fovea nodes without a download."
            ),
            search_aliases=["ShapesWorld", "demo checkpoint", "example model", "tiny model", "test model"],
            inputs=[],
            outputs=[
                io.Model.Output(
                    tooltip="The generator: a latent UNet with 4-channel latents, 256x256 pictures (32x32 latents)."
                ),
                io.Clip.Output(tooltip="The text encoder that knows ShapesWorld's words (see the help page)."),
                io.Vae.Output(tooltip="The autoencoder: 8 pixels per latent cell, as in Stable Diffusion."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(demo.load_model(), demo.load_clip(), demo.load_vae())


NODES = [FoveaLoadDemo]
