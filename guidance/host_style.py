"""Style with a scale of its own (eDiff-I's style vector, arXiv 2211.01324), in a window of the schedule.

x0 = null + cfg (text - null) + style (styled - text). `styled` is the sampler's positive prompt: text with a style
(unCLIP, Redux, or a plain prompt on a model with IPAdapter); `text` is the prompt alone. The third evaluation takes
place inside the window only; outside of it there is no style.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.sampler_helpers
import comfy.samplers
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .schedule import inside

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

KEY = "fovea_style"
TEXT = "fovea_text"  # the guider's list of conds without style


@dataclass(frozen=True, eq=False)
class StyleGuidance:
    """text: CONDITIONING without style. scale: of the style; the sampler's CFG is the text's. start, end: window in
    percent of the schedule as fractions."""

    text: list = field(repr=False)
    scale: float
    start: float = 0.0
    end: float = 1.0

    def patched(self, model: ModelPatcher) -> ModelPatcher:
        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, self._outer)
        clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, self._predict)
        return clone

    def _outer(self, executor: Any, *given: Any, **named: Any) -> Tensor:
        """OUTER_SAMPLE: the host encodes and loads for this list of conds as for its own."""
        guider = executor.class_obj
        text = [{**cond, "prompt_type": "positive"} for cond in comfy.sampler_helpers.convert_cond(self.text)]
        guider.conds = {**guider.conds, TEXT: text}
        return executor(*given, **named)

    def _predict(self, executor: Any, x: Tensor, sigma: Tensor, model_options: dict | None = None,
                 seed: Any = None) -> Tensor:  # fmt: skip
        """PREDICT_NOISE: text and style apart."""
        guider, options = executor.class_obj, model_options or {}
        cfg, conds = guider.cfg, guider.conds
        model = guider.inner_model
        within = inside(model.model_sampling, float(sigma.flatten()[0]), self.start, self.end)
        scale = self.scale if within else 0.0
        if scale == cfg and scale != 0:
            return executor(x, sigma, options, seed)  # null + cfg (styled - null), a branch less
        alone = math.isclose(cfg, 1.0) and not options.get("disable_cfg1_optimization")
        null = None if alone else conds.get("negative")
        styled, negative, text = branches(
            model, conds["positive"] if scale else None, null, conds[TEXT], x, sigma, options
        )
        outs = [text, negative]
        for function in options.get("sampler_pre_cfg_function", ()):
            outs = function({"conds": [conds[TEXT], null], "conds_out": outs, "cond_scale": cfg, "timestep": sigma,
                             "input": x, "sigma": sigma, "model": model, "model_options": options})  # fmt: skip
        guided = comfy.samplers.cfg_function(model, outs[0], outs[1], cfg, x, sigma, model_options=options,
                                             cond=conds[TEXT], uncond=null)  # fmt: skip
        return guided + scale * (styled - text) if scale else guided


def branches(model: Any, styled: list | None, null: list | None, text: list, x: Tensor, sigma: Tensor,
             options: dict) -> Sequence[Tensor]:  # fmt: skip
    """Predictions with style, with the negative prompt, with the text alone; one that is not wanted is zeros.

    Patches that bring a picture into attention (IPAdapter) give it to the chunks of list 0 and nothing to list 1, and
    know no list 2. So where there are such patches, the text alone is evaluated as list 1, by itself.
    """
    batch = comfy.samplers.calc_cond_batch
    if not _pictures_in_attention(options):
        if styled is None:
            out_text, out_null = batch(model, [text, null], x, sigma, options)
            return out_text, out_null, out_text
        out_styled, out_null, out_text = batch(model, [styled, null, text], x, sigma, options)
        return out_styled, out_null, out_text
    (_, out_text) = batch(model, [None, text], x, sigma, options)
    if styled is None and null is None:
        return out_text, out_text, out_text
    out_styled, out_null = batch(model, [styled, null], x, sigma, options)
    return out_styled, out_null, out_text


def _pictures_in_attention(options: dict) -> bool:
    """Whether other packs' patches take part in cross-attention."""
    inner = options.get("transformer_options", {})
    return bool(inner.get("patches_replace", {}).get("attn2") or inner.get("patches", {}).get("attn2_patch"))
