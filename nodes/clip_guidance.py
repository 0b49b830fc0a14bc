"""CLIP Guidance, which DOODL and SGOOL compare themselves with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..guidance.noise_optimization.clip_guidance import ClipGuidance
from ..models.scorers.scorer import Scorer
from .noise_optimization import ALIASES
from .scorers import ScorerType
from .ui import errors

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

NAME = "CLIP Guidance"


class FoveaCLIPGuidance(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaCLIPGuidance",
            display_name=NAME,
            category="Fovea/latent",
            description=(
                "Pushes every sampling step to where a scorer likes the picture: the baseline of DOODL and SGOOL. "
                "Works with every sampler; costs one more model evaluation per step, and its gradient."
            ),
            is_experimental=True,
            search_aliases=[*ALIASES, "CLIP guidance", "classifier guidance"],
            inputs=[
                io.Model.Input("model", tooltip="What draws. Patches, LoRA, guidance and regions stay in effect."),
                io.Vae.Input("vae", tooltip="Decodes what is scored, at every step: a tiny autoencoder saves time."),
                ScorerType.Input("scorer", tooltip="From Load Scorer: what judges the pictures."),
                io.String.Input("prompt", multiline=True, default="", tooltip="What the pictures should show."),
                io.Float.Input("scale", default=20.0, min=0.0, max=100000.0, step=1.0,
                               tooltip="How strongly to push. 0 is off: the same picture bit for bit, at no cost."),
                io.Int.Input("cutouts", default=0, min=0, max=64, advanced=True,
                             tooltip="0 scores the whole picture. n: n random squares, of which the best counts."),
                io.Float.Input("start_percent", default=0.0, min=0.0, max=1.0, step=0.001,
                               tooltip="Where in the schedule guidance begins: 0.0 is the first step."),
                io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.001,
                               tooltip="Where in the schedule guidance ends. Steps outside the window cost nothing."),
            ],
            outputs=[io.Model.Output(tooltip="The guided model, for any sampler.")],
        )  # fmt: skip

    @classmethod
    @errors.of_node(NAME)
    def execute(
        cls, model: ModelPatcher, vae: VAE, scorer: Scorer, prompt: str, scale: float, cutouts: int,
        start_percent: float, end_percent: float,
    ) -> io.NodeOutput:  # fmt: skip
        guidance = ClipGuidance(scorer, vae, prompt, scale, cutouts, start_percent, end_percent)
        return io.NodeOutput(guidance.patched(model))


NODES: list[Any] = [FoveaCLIPGuidance]
