"""Guidance nodes: they patch a model so that every sampler gets a better estimate at each step."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..attention.block_names import parse_blocks
from ..attention.families.registry import MODELS, UNETS, family_of
from ..guidance.sag.formulas import MASK_MODES
from ..guidance.sag.model_patch import CORE_KERNEL_SIZE, GUIDED_PROMPTS, NODE, SelfAttentionGuidance
from .ui import errors, notices

if TYPE_CHECKING:
    import torch
    from comfy.model_patcher import ModelPatcher

    from ..attention.sites import BlockId

CORE_KERNEL = f"core: {CORE_KERNEL_SIZE} px"
logger = logging.getLogger(__name__)


class FoveaSelfAttentionGuidance(io.ComfyNode):
    """SAG and blur guidance. Inputs are only ever appended: saved workflows keep widget values by position."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FoveaSelfAttentionGuidance",
            display_name="Self-Attention Guidance (Fovea)",
            category="Fovea/guidance",
            description=(
                "Guidance by the model's own attention (SAG), with or without a prompt: where the model looks most, "
                "its estimate is blurred, the model predicts again, and sampling is pushed away from that. Works with "
                "any sampler, beside CFG, PAG, LoRA and ControlNet. Costs one more model evaluation per step; at scale "
                "0 it costs nothing and changes nothing."
            ),
            search_aliases=["SAG", "self attention guidance", "blur guidance", "sharpness", "unconditional guidance"],
            inputs=_sag_inputs(),
            outputs=[io.Model.Output(tooltip="The model with the guidance added, for any sampler or guider.")],
        )

    @classmethod
    @errors.of_node(NODE)
    def execute(
        cls,
        model: ModelPatcher,
        scale: float,
        blur_sigma: float,
        threshold: float,
        mask_mode: str,
        guided_prompt: str,
        blocks: str,
        start_percent: float,
        end_percent: float,
        every_n_steps: int,
        rescale: float,
        blur_kernel: str,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        patched = model.clone()
        network = model.get_model_object("diffusion_model")
        family = family_of(network)
        chosen: frozenset[BlockId] = frozenset()
        if mask_mode != "global":
            if family is None:
                logger.warning(
                    "%s: the self-attention of %s cannot be read yet; the model is passed on unchanged. "
                    "mask_mode global works with every model.",
                    NODE,
                    type(model.model).__name__,
                )
                return io.NodeOutput(patched)
            chosen = parse_blocks(blocks, family.blocks(network), family.default_blocks(network))
        guidance = SelfAttentionGuidance(
            scale=scale,
            blur_sigma=blur_sigma,
            threshold=threshold,
            mask_mode=mask_mode,
            guided_prompt=guided_prompt,
            blocks=chosen,
            start=start_percent,
            end=end_percent,
            every_n_steps=every_n_steps,
            rescale=rescale,
            kernel_size=CORE_KERNEL_SIZE if blur_kernel == CORE_KERNEL else None,
            mask=None if mask is None else mask.detach().clone(),
        )
        notices.report(NODE, _why_never(guidance))
        if not guidance.neutral:
            guidance.install(patched)
        return io.NodeOutput(patched)


def _why_never(guidance: SelfAttentionGuidance) -> list[str]:
    """What there is to say about settings that leave guidance no step or no place."""
    window = f"start_percent {guidance.start:g} is not before end_percent {guidance.end:g}: no guidance."
    place = "the mask is black everywhere: no guidance."
    black = guidance.mask is not None and not bool((guidance.mask > 0).any())
    return [*([window] if guidance.start >= guidance.end else []), *([place] if black else [])]


def _sag_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip=f"What to guide: {UNETS}; {MODELS}. In mask_mode global: any model of "
                       "pictures."),
        io.Float.Input(
            "scale", default=0.75, min=-2.0, max=10.0, step=0.01,
            tooltip="How strongly to push away from the blurred estimate. 0 is off and free; 0.5 to 1.0 suits Stable "
            "Diffusion; negative values soften.",
        ),
        io.Float.Input(
            "blur_sigma", default=2.0, min=0.0, max=32.0, step=0.1,
            tooltip="Width of the blur in latent pixels (8 image pixels each for Stable Diffusion). Larger blurs act "
            "on larger structures. 0 is off.",
        ),
        io.Float.Input(
            "threshold", default=1.0, min=0.0, max=4.0, step=0.01,
            tooltip="How much more than average a place must be looked at to be blurred. 1.0 is the paper's: all "
            "above average. Higher picks fewer places; in mask_mode soft it is the half-way point.",
        ),
        io.Combo.Input(
            "mask_mode", options=list(MASK_MODES), default="threshold",
            tooltip="threshold: the paper's hard mask. soft: blur in proportion to attention. global: blur everywhere "
            "(blur guidance), which needs no attention and works with every model.",
        ),
        io.Combo.Input(
            "guided_prompt", options=list(GUIDED_PROMPTS), default="auto",
            tooltip="Which prompt's prediction is blurred and compared. auto: the negative prompt's where "
            "CFG evaluates one, else the positive's (2 evaluations per step at CFG 1). negative, positive: always "
            "that one.",
        ),
        io.String.Input(
            "blocks", default="auto",
            tooltip="Whose self-attention decides where to blur: auto (the middle block), or names such as middle, "
            "input.7, output.3, separated by commas. input.7.1 is the second layer of a block, input.7.* all of them. "
            "An unknown name is answered with the list for this model.",
        ),
        io.Float.Input(
            "start_percent", default=0.0, min=0.0, max=1.0, step=0.001,
            tooltip="Where in the schedule guidance begins: 0.0 is the first step.",
        ),
        io.Float.Input(
            "end_percent", default=1.0, min=0.0, max=1.0, step=0.001,
            tooltip="Where in the schedule guidance ends: 1.0 is the last step. Steps outside the window cost nothing.",
        ),
        io.Int.Input(
            "every_n_steps", default=1, min=1, max=100,
            tooltip="Compute guidance at every n-th evaluation only and reuse the last in between: 2 halves its cost.",
        ),
        io.Float.Input(
            "rescale", default=0.0, min=0.0, max=1.0, step=0.01,
            tooltip="Brings the contrast of the guided estimate back to that without guidance: 0 not at all, 1 fully. "
            "Helps against burnt colors at a high scale.",
        ),
        io.Combo.Input(
            "blur_kernel", options=["auto", CORE_KERNEL], default="auto", advanced=True,
            tooltip="auto: a blur kernel as large as blur_sigma needs. core: always 9 latent pixels, as in ComfyUI's "
            "own node (a sigma above about 3 then changes little).",
        ),
        io.Mask.Input(
            "mask", optional=True,
            tooltip="Limits where guidance acts: white is guided, black is left alone. Any size; it is fitted.",
        ),
    ]  # fmt: skip


NODES = [FoveaSelfAttentionGuidance]
