"""Style with a scale of its own (eDiff-I's style vector, arXiv 2211.01324), in a window of the schedule.

x0 = null + cfg (text - null) + style (styled - text). `styled` is the sampler's positive prompt: text with a style
(unCLIP, Redux, or a plain prompt on a model with IPAdapter); `text` is the prompt alone. The third evaluation takes
place inside the window only; outside of it there is no style.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP, get_wrappers_with_key
from torch import Tensor

from ...attention import hooks
from ...attention.run import Shared
from ..cond_inputs import further_inputs
from ..schedule import inside
from ..wrapper_keys import EXPERTS

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

logger = logging.getLogger(__name__)
KEY = "fovea_style"
TEXT = "fovea_text"  # the guider's list of conds without style
STYLE_KEYS = frozenset({"unclip_conditioning"})  # of a prompt with a picture's style
# Of a prompt's text and its settings, what tells two prompts apart beside their further inputs.
TOLD_APART = frozenset({
    "cross_attn", "pooled_output", "conditioning_llama3", "conditioning_byt5small", "guidance", "hooks",
})  # fmt: skip
SLOT = "sampler_calc_cond_batch_function"


class BadStyle(ValueError):
    """Style cannot be guided here; the message names the cure."""


@dataclass(frozen=True, eq=False)
class StyleGuidance(Shared):
    """text: CONDITIONING without style. scale: of the style; the sampler's CFG is the text's. start, end: window in
    percent of the schedule as fractions."""

    text: list = field(repr=False)
    scale: float
    start: float = 0.0
    end: float = 1.0

    def patched(self, model: ModelPatcher) -> ModelPatcher:
        """A clone with the guidance. Raises BadStyle."""
        before = model.wrappers.get(WrappersMP.PREDICT_NOISE, {})
        if KEY in before:
            raise BadStyle("The model has Style Guidance already. Use one.")
        if EXPERTS in before:
            raise BadStyle("The model has an Expert Switch, past which style does not reach. Put Style Guidance onto "
                           "each model before the switch.")  # fmt: skip
        if not self.text:
            raise BadStyle("text is empty: connect the prompt without style.")
        if comfy.sampler_helpers.cond_has_hooks(self.text):
            raise BadStyle("text has hooks (a LoRA or ControlNet of its own), which do not act here. Put them onto the "
                           "model, or onto the sampler's prompts.")  # fmt: skip
        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, self._outer)
        clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, self._predict)
        return clone

    def _outer(self, executor: Any, *given: Any, **named: Any) -> Tensor:
        """OUTER_SAMPLE: ComfyUI encodes and loads for this list of conds as for its own."""
        guider = executor.class_obj
        if type(guider).predict_noise is not comfy.samplers.CFGGuider.predict_noise:
            raise BadStyle(f"Style Guidance: {type(guider).__name__} combines prompts in its own way. Use KSampler, "
                           "CFGGuider or Style Guider.")  # fmt: skip
        lacking = _inputs_of(guider.conds.get("positive"))
        text = [
            {**lacking, **cond, "prompt_type": "positive"} for cond in comfy.sampler_helpers.convert_cond(self.text)
        ]
        guider.conds = {**guider.conds, TEXT: text}
        if self.scale and _same(guider.conds["positive"], text) and not _pictures_in_attention(guider.model_options):
            logger.warning(
                "Style Guidance: the sampler's positive prompt is the text without a style, so there is no style to "
                "guide by. Connect the prompt with style to the sampler."
            )
        return executor(*given, **named)

    def _predict(self, executor: Any, x: Tensor, sigma: Tensor, model_options: dict | None = None,
                 seed: Any = None) -> Tensor:  # fmt: skip
        """PREDICT_NOISE: ComfyUI guides by the text alone; the style is added to that."""
        guider, options = executor.class_obj, model_options or {}
        within = inside(guider.inner_model.model_sampling, float(sigma.flatten()[0]), self.start, self.end)
        scale = self.scale if within else 0.0
        if scale and not _pictures_in_attention(options) and _same(guider.conds["positive"], guider.conds[TEXT]):
            scale = 0.0  # nothing to go towards: no third evaluation
        if scale == guider.cfg and scale != 0 and _keeps_cfg(executor):
            return executor(x, sigma, options, seed)  # null + cfg (styled - null), a branch less
        branches = _Branches(guider.conds["positive"] if scale else None, options.get(SLOT))
        conds = guider.conds
        guider.conds = {**conds, "positive": conds[TEXT]}
        try:
            guided = executor(x, sigma, {**options, SLOT: branches}, seed)
        finally:
            guider.conds = conds
        return guided if branches.towards_style is None else guided + scale * branches.towards_style


@dataclass
class _Branches(Shared):
    """What ComfyUI calls for its predictions of [text, null]; the styled one is evaluated along.

    Patches that bring a picture into attention (IPAdapter) know lists 0 and 1 only, and some give both a picture. So
    where there are such patches, the text alone is evaluated without them, by itself.
    """

    styled: list | None
    before: Callable | None  # somebody else's function in the same slot
    towards_style: Tensor | None = None

    def __call__(self, args: dict) -> Sequence[Tensor]:
        if hooks.DEGRADED in args["model_options"].get("transformer_options", {}):
            return self.evaluated(args, None)[1]  # another guidance's further look at one prompt: no style in it
        styled, outs = self.evaluated(args, self.styled)
        self.towards_style = None if styled is None else styled - outs[0]
        return outs

    def evaluated(self, args: dict, wanted: list | None) -> tuple[Tensor | None, list[Tensor]]:
        """The prediction of `wanted`, and those of text and null."""
        model, x, sigma, options = (args[name] for name in ("model", "input", "sigma", "model_options"))

        def batch(*conds: list | None) -> Sequence[Tensor]:
            return comfy.samplers.calc_cond_batch(model, list(conds), x, sigma, options)

        text, null = args["conds"]
        if self.before is not None:
            outs = list(self.before(args))
            styled = batch(wanted)[0] if wanted else None
        elif _pictures_in_attention(options):
            (out_text,) = comfy.samplers.calc_cond_batch(model, [text], x, sigma, _without_pictures(options))
            styled, out_null = batch(wanted, null) if wanted or null else (None, out_text)
            outs = [out_text, out_null]
        elif wanted:
            styled, *outs = batch(wanted, null, text)
            outs.reverse()
        else:
            styled, outs = None, list(batch(text, null))
        return styled if wanted else None, outs


def _keeps_cfg(executor: Any) -> bool:
    """Whether nothing behind a PREDICT_NOISE wrapper may change the CFG, as ComfyUI's CFG Override does. The wrapper of
    this pack's techniques does not."""
    options = executor.class_obj.model_options
    ours = get_wrappers_with_key(WrappersMP.PREDICT_NOISE, hooks.KEY, options, is_model_options=True)
    return all(wrapper in ours for wrapper in executor.wrappers[executor.idx + 1 :])


def _inputs_of(positive: list | None) -> dict[str, Any]:
    """What the sampler's positive prompt brings along beside text and style, for a text that lacks it."""
    inputs = further_inputs(positive[0]) if positive else {}
    return {key: value for key, value in inputs.items() if key not in STYLE_KEYS}


def _same(styled: list, text: list) -> bool:
    """Whether two prompts are one: the same features and inputs."""
    if len(styled) != len(text):
        return False
    for one, other in zip(styled, text):
        keys = {*TOLD_APART, *further_inputs(one), *further_inputs(other)} - {"control"}
        if any(not _equal(one.get(key), other.get(key)) for key in keys):
            return False
    return True


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or (one.shape == other.shape and torch.equal(one, other.to(one)))
    return one is other or (isinstance(one, int | float) and isinstance(other, int | float) and one == other)


def _without_pictures(options: dict) -> dict:
    """Options without other packs' patches of cross-attention."""
    inner = dict(options.get("transformer_options", {}))
    replaced, patches = ({**inner.get(group, {})} for group in ("patches_replace", "patches"))
    replaced.pop("attn2", None)
    patches["attn2_patch"] = [patch for patch in patches.get("attn2_patch", ()) if _is_comfyuis(patch)]
    return {**options, "transformer_options": {**inner, "patches_replace": replaced, "patches": patches}}


def _pictures_in_attention(options: dict) -> bool:
    """Whether other packs' patches take part in cross-attention."""
    inner = options.get("transformer_options", {})
    others = (not _is_comfyuis(patch) for patch in inner.get("patches", {}).get("attn2_patch", ()))
    return bool(inner.get("patches_replace", {}).get("attn2")) or any(others)


def _is_comfyuis(patch: Any) -> bool:
    """Whether a patch is ComfyUI's own: a hypernetwork, LLLite or sound (MultiTalk), which belong to the model. What
    its extra nodes define has their file's path for a module's name."""
    names = re.split(r"[./\\]", getattr(patch, "__module__", None) or "")
    return names[0] == "comfy" or names[-2:-1] == ["comfy_extras"]
