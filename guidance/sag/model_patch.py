"""Self-Attention Guidance inside ComfyUI: a technique with its recorder, and a post-CFG function."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.samplers
import torch
import torch.nn.functional as F
from torch import Tensor

from ...attention import hooks
from ...attention.block_names import block_name
from ...attention.conds import Window
from ...attention.packed import picture_of, with_picture
from ...attention.recorders import SaliencyRecorder
from ...attention.run import AttentionWrapper, Record, Run, Shared
from ...attention.sites import BlockId
from ..blur import gaussian_blur
from ..schedule import inside
from ..token_pictures import saliency_map
from . import formulas

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

logger = logging.getLogger(__name__)

NODE = "Self-Attention Guidance (Fovea)"
MARKER = "fovea_sag"  # of the evaluation of the blurred latent, for other packs to recognize
CORE_KERNEL_SIZE = 9  # kernel size of ComfyUI's own node and of the reference implementations for Stable Diffusion
GUIDED_PROMPTS = ("auto", "negative", "positive")
NOT_ASKED = f"{NODE}: this guider asks for no post-CFG functions at these settings (CFG 1?): no guidance."

Conds = Sequence[Mapping[str, Any]]


@dataclass
class SagState:
    """What one guidance remembers during a run. due: compute now (True), reuse the last term (False), off (None).

    begun, guided: steps inside the window that began and that reached us with their result, the latter since sampling
    began anew. reached: whether any has. last, top: the noise level of the step before, and the highest so far. fell:
    whether noise has fallen since sampling began anew; where it only rises (unsampling) it never does. rose: whether
    it has risen.
    """

    due: bool | None = None
    begun: int = 0
    guided: int = 0
    term: Tensor | None = None
    reached: bool = False
    last: float = 0.0
    top: float = 0.0
    fell: bool = False
    rose: bool = False


@dataclass(frozen=True, eq=False)
class SelfAttentionGuidance(Shared):
    """Settings of one guidance, and the technique itself. See the node for what each setting means.

    start, end: percent of the schedule as fractions. mask: [n, height, width] where guidance acts, or None.
    """

    scale: float
    blur_sigma: float
    threshold: float
    mask_mode: str
    guided_prompt: str
    blocks: frozenset[BlockId]
    start: float
    end: float
    every_n_steps: int
    rescale: float
    kernel_size: int | None = None
    mask: Tensor | None = field(default=None, repr=False)

    @property
    def neutral(self) -> bool:
        """Whether these settings leave every image as it is."""
        unmasked = self.mask is None or bool((self.mask > 0).any())
        return self.scale == 0 or self.blur_sigma == 0 or self.start >= self.end or not unmasked

    def install(self, patcher: ModelPatcher) -> None:
        """Put the guidance into a freshly cloned patcher."""
        hooks.install(patcher, self)
        patcher.set_model_sampler_post_cfg_function(self.post_cfg)

    def begin(self, run: Run) -> Sequence[AttentionWrapper]:
        """Decide what this step needs: nothing, the last term again, or a new one with its saliency."""
        state = run.state(self, SagState)
        sampling = run.model.model_sampling
        # Sampling begins anew inside of this run, as trials of a search do; those of one step never fall. Where noise
        # rises, a level may be evaluated twice.
        if run.sigma >= state.top and (state.fell or (run.sigma == state.last and not state.rose)):
            state.guided, state.term, state.fell = 0, None, False
        state.fell, state.rose = state.fell or run.sigma < state.last, state.rose or 0 < state.last < run.sigma
        state.top, state.last = max(state.top, run.sigma), run.sigma
        if not inside(sampling, run.sigma, self.start, self.end):
            state.due = None
            return ()
        # Counted are steps whose result was seen: a cache may skip some after they began.
        state.due = state.guided % self.every_n_steps == 0 or state.term is None
        state.begun += 1
        if state.begun == 4 and not state.reached:
            run.warn(NOT_ASKED)
        return (SaliencyRecorder(self.blocks),) if state.due and self.mask_mode != "global" else ()

    def finish(self, run: Run) -> None:
        """Say so where a whole run has gone by without guidance."""
        state = run.state(self, SagState)
        if state.begun and not state.reached:
            run.warn(NOT_ASKED)
        elif not state.begun and not math.isnan(run.sigma):
            run.warn(
                f"{NODE}: no guidance, because no step of this run lies between start_percent {self.start:g} and "
                f"end_percent {self.end:g}."
            )

    def post_cfg(self, args: dict[str, Any]) -> Tensor:
        """ComfyUI's post-CFG hook: its guided x0 in, ours out."""
        denoised: Tensor = args["denoised"]
        run = hooks.run_of(args["model_options"])
        if run is None or run.model is not args["model"]:
            say = logger.warning if run is None else run.warn
            say(f"{NODE}: this guider does not sample the way ComfyUI's do; the image is left as it is.")
            return denoised
        state = run.state(self, SagState)
        if state.due is None:
            return denoised
        state.guided, state.reached = state.guided + 1, True
        if state.due:
            state.term, state.due = self._term(run, args), False
        picture = picture_of(denoised, run.shapes)
        if state.term is None or state.term.shape != picture.shape:
            return denoised
        guided = formulas.rescale(picture + state.term * self.scale, picture, self.rescale)
        limit = self._limit(picture, args["cond"] or ())
        guided = guided if limit is None else picture + (guided - picture) * limit
        return with_picture(denoised, guided, run.shapes)

    def _term(self, run: Run, args: dict[str, Any]) -> Tensor | None:
        """The guidance term of this step before scaling, None if it cannot be had (the reason is logged once)."""
        x, sigma = picture_of(args["input"], run.shapes), args["sigma"]
        if x.ndim < 4:
            run.warn(f"{NODE}: this latent has no picture axes (sound alone?); it is left as it is.")
            return None
        conds, x0 = self._guided(run, args)
        x0 = picture_of(x0, run.shapes)
        if conds is None:
            needs = (
                "a negative prompt and CFG other than 1"
                if self.guided_prompt == "negative"
                else "a prompt that is active"
            )
            run.warn(
                f"{NODE}: guided_prompt {self.guided_prompt} needs {needs}; steps without one are left as they are."
            )
            return None
        mask = self._mask(run, conds, x, sigma)
        if mask is None:
            return None
        blurred = gaussian_blur(x0, self.blur_sigma, self.kernel_size)
        degraded = formulas.degrade(x0, blurred, mask)
        noisy = formulas.renoise(x, x0, degraded, sigma, run.model.model_sampling.noise_scaling)
        noisy = with_picture(args["input"], noisy, run.shapes)
        predicted = hooks.degraded_pass(run, conds, noisy, sigma, args["model_options"], self, MARKER)
        predicted = picture_of(predicted, run.shapes)
        term, broken = formulas.drop_nonfinite_samples(formulas.guidance_term(degraded, predicted))
        if broken:
            where = "the blurred latent" if torch.isfinite(x0).all() else "the latent itself"
            run.warn(
                f"{NODE}: the model returned NaN or infinity for {where} of {broken} image(s); they get no guidance in "
                "such steps. Half precision that overflows is the usual cause: try --force-upcast-attention."
            )
        return term

    def _guided(self, run: Run, args: dict[str, Any]) -> tuple[Conds | None, Tensor]:
        """Cond list and x0 that guidance works on: those the model evaluated in this step, the negative ones first."""
        # Perpendicular negative: what is subtracted from is the empty prompt, not the user's negative one.
        uncond = "empty_cond" if args.get("empty_cond") else "uncond"
        wanted = {"auto": (uncond, "cond"), "negative": (uncond,), "positive": ("cond",)}[self.guided_prompt]
        for name in wanted:
            conds = args[name]
            if conds and run.list_index(conds) is not None and self._active(conds, args):
                return conds, args[f"{name}_denoised"]
        return None, args["denoised"]

    @staticmethod
    def _active(conds: Conds, args: dict[str, Any]) -> bool:
        """Whether any cond of the list is inside its timestep range."""
        return any(comfy.samplers.get_area_and_mult(c, args["input"], args["sigma"]) is not None for c in conds)

    def _limit(self, x: Tensor, conds: Conds) -> Tensor | None:
        """The user's mask for this latent, [batch, 1, (1,) height, width]; for video [1, 1, frames, height, width],
        with 0 behind the frames that are drawn."""
        if self.mask is None:
            return None
        size = (x.shape[-2], x.shape[-1])
        if x.ndim == 4:
            return formulas.fit_mask(self.mask, x.shape[0], size).to(x)
        if x.shape[2] == 1:  # pictures with an axis for frames
            return formulas.fit_mask(self.mask, x.shape[0], size).to(x)[:, :, None]
        frames = _drawn_frames(conds, x)
        limit = formulas.fit_mask(formulas.spread_frames(self.mask, frames), frames, size).to(x).movedim(0, 1)[None]
        return F.pad(limit, (0, 0, 0, 0, 0, x.shape[2] - frames))

    def _mask(self, run: Run, conds: Conds, x: Tensor, sigma: Tensor) -> Tensor | None:
        """What to blur, 0..1, broadcastable to x; None if the saliency could not be recorded."""
        if self.mask_mode == "global":
            if x.ndim < 5:
                return x.new_ones(())
            mask = x.new_ones(1, 1, x.shape[2], 1, 1)
            mask[:, :, _drawn_frames(conds, x) :] = 0
            return mask
        mask = mask_of_conds(self, run, conds, x, sigma)
        if mask is None:
            names = ", ".join(block_name(block) for block in sorted(self.blocks))
            run.warn(
                f"{NODE}: no self-attention was recorded in block(s) {names}; the image is left as it is. Another node "
                "may merge or tile tokens there, or tile the latent: choose another block or mask_mode global."
            )
            return None
        return mask


def _drawn_frames(conds: Conds, x: Tensor) -> int:
    """How many frames of a video [batch, channels, frames, height, width] are drawn: the guiding ones of LTX are behind
    them in the latent itself."""
    guides = [cond["keyframe_idxs"].shape[2] for cond in conds if cond.get("keyframe_idxs") is not None]
    return x.shape[2] - max(guides, default=0) // math.prod(x.shape[3:])


def mask_of_conds(settings: SelfAttentionGuidance, run: Run, conds: Conds, x: Tensor, sigma: Tensor) -> Tensor | None:
    """Blur mask [batch, 1, height, width] of a cond list: each cond's mask at its area, mixed as ComfyUI mixes the x0.

    A default cond (host: "default") fills what the others leave. None if an active cond has no saliency.
    """
    total, weights = torch.zeros_like(x[:, :1]), torch.zeros_like(x[:, :1])
    for default in (False, True):
        free = 1 - weights.clamp(max=1)
        for position, cond in enumerate(conds):
            place = comfy.samplers.get_area_and_mult(dict(cond), x, sigma) if ("default" in cond) == default else None
            if place is None:
                continue
            where = _area_slices(place.area)
            weight = free[where] if default else place.mult[:, :1]
            if default and not weight.any():
                continue
            mask = _mask_of_cond(settings, run, conds, position, place.input_x)
            if mask is None:
                return None
            total[where] += mask * weight
            weights[where] += weight
    return total / weights.clamp_min(1e-37)


def _area_slices(area: Sequence[int] | None) -> tuple[slice, ...]:
    """Index of an area (sizes, then offsets) in a latent [batch, channels, ...]."""
    if area is None:
        return (slice(None),)
    sizes, offsets = area[: len(area) // 2], area[len(area) // 2 :]
    return (slice(None), slice(None), *(slice(o, o + s) for s, o in zip(sizes, offsets)))


def _mask_of_cond(settings: SelfAttentionGuidance, run: Run, conds: Conds, position: int, x: Tensor) -> Tensor | None:
    """Blur mask [batch, 1, (frames,) height, width] of one cond on its part x of the latent, None if none fits."""
    saliency, seen = torch.zeros_like(x[:, :1]), torch.zeros_like(x[:, :1])
    smooth = settings.mask_mode == "soft"
    for block in sorted(settings.blocks):
        for window, record in run.records(block, conds, position):
            place = _place(window, record, x)
            if place is None:
                return None
            picture = saliency_map(record.values.to(x), record.grid, record.latent_size, smooth, record.extent)
            if window is not None and window.anchored:  # a leading anchor frame has no place in the latent
                picture = picture.narrow(window.axis, 1, picture.shape[window.axis] - 1)
            saliency[place] += picture
            seen[place] += 1
    if (seen == 0).any():
        return None
    return formulas.guidance_mask(saliency / seen, settings.threshold, settings.mask_mode)


def _place(window: Window | None, record: Record, x: Tensor) -> tuple[Any, ...] | None:
    """Index of what a record saw in the latent x [batch, channels, ...], None if it does not fit in there."""
    expected = [x.shape[0], x.shape[1], *x.shape[2:]]
    place: list[Any] = [slice(None)] * x.ndim
    if window is not None:
        if max(window.frames) >= expected[window.axis]:
            return None
        expected[window.axis] = len(window.frames) + window.anchored
        place[window.axis] = list(window.frames)
    fits = record.values.shape[0] == expected[0] and list(record.latent_size) == expected[2:]
    return tuple(place) if fits else None
