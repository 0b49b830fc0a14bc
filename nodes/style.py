"""Nodes that give style a scale of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.samplers
from comfy_api.latest import io

from ..guidance.style.model_patch import StyleGuidance
from .ui import errors, notices

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

ALIASES = ["style transfer", "eDiff-I", "unCLIP", "Redux", "IPAdapter", "dual CFG", "style strength", "reference image"]


def _inputs() -> list[io.Input]:
    return [
        io.Conditioning.Input(
            "without_style", tooltip="The prompt without the style: what the picture shows. Outside of the window it "
            "is alone."
        ),
        io.Float.Input(
            "style_scale", default=3.0, min=-20.0, max=100.0, step=0.1,
            tooltip="How strongly to go from the prompt without style to the one with it. 0: no style, and no third "
            "evaluation. As large as the CFG, from start_percent 0 on: as if there was no node.",
        ),
        io.Float.Input(
            "start_percent", default=0.0, min=0.0, max=1.0, step=0.001,
            tooltip="Where style begins, 0 is the first step. After the layout is made (0.3 to 0.4), style changes "
            "the looks and not the composition, and less of them.",
        ),
        io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.001, tooltip="Where style ends."),
    ]  # fmt: skip


class FoveaStyleGuidance(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaStyleGuidance",
            display_name="Style Guidance",
            category="Fovea/experts",
            description=(
                "Text and style with a scale each: the sampler's CFG is the text's. For prompts with a picture's style "
                "(unCLIP, Redux) and for models with IPAdapter. Style acts in a window of the schedule; the third "
                "evaluation takes place only there."
            ),
            search_aliases=ALIASES,
            inputs=[
                io.Model.Input("model", tooltip="The model; with IPAdapter or the like, its style is what is scaled."),
                *_inputs(),
            ],
            outputs=[io.Model.Output(
                tooltip="Sample it with the styled prompt as positive (with IPAdapter: the plain prompt)."
            )],
        )  # fmt: skip

    @classmethod
    @errors.of_node("Style Guidance")
    def execute(
        cls, model: ModelPatcher, without_style: list, style_scale: float, start_percent: float, end_percent: float
    ) -> io.NodeOutput:
        return io.NodeOutput(_patched("Style Guidance", model, without_style, style_scale, start_percent, end_percent))


class FoveaStyleGuider(io.ComfyNode):
    """Inputs are only ever appended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaStyleGuider",
            display_name="Style Guider",
            category="Fovea/experts",
            description="Style Guidance and CFG in one, for SamplerCustomAdvanced.",
            search_aliases=ALIASES,
            inputs=[
                io.Model.Input("model", tooltip="The model; with IPAdapter or the like, its style is what is scaled."),
                io.Conditioning.Input("positive", tooltip="The prompt with style; with IPAdapter, the plain prompt."),
                io.Conditioning.Input("negative", tooltip="The negative prompt."),
                io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1, tooltip="CFG of the prompt without "
                               "style."),
                *_inputs(),
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    @errors.of_node("Style Guider")
    def execute(
        cls, model: ModelPatcher, positive: list, negative: list, cfg: float, without_style: list,
        style_scale: float, start_percent: float, end_percent: float,
    ) -> io.NodeOutput:  # fmt: skip
        guider = comfy.samplers.CFGGuider(
            _patched("Style Guider", model, without_style, style_scale, start_percent, end_percent)
        )
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        return io.NodeOutput(guider)


def _patched(name: str, model: ModelPatcher, text: list, scale: float, start: float, end: float) -> ModelPatcher:
    if start >= end:
        notices.report(name, [f"start_percent ({start:g}) is not below end_percent ({end:g}): style does not act, and "
                              "the prompt with style is not used."])  # fmt: skip
    return StyleGuidance(text, scale, start, end).patched(model)


NODES = [FoveaStyleGuidance, FoveaStyleGuider]
