"""Regions inside ComfyUI: the technique that DenseDiffusion and Paint-with-Words share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.model_management
from comfy.ldm.anima.model import Anima
from torch import Tensor

from ...attention import hooks
from ...attention.run import AttentionWrapper, Run
from ..schedule import left_of_schedule
from ..token_spans import Tokens
from .attention_patch import RegionAttention
from .prompt_encoding import Clip
from .prompt_regions import MARK, PromptRegions

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


@dataclass
class RunMemory:
    """facts: see RegionAttention. begun: whether a step has begun."""

    facts: dict = field(default_factory=dict)
    begun: bool = False


@dataclass(frozen=True, eq=False)
class RegionSteering:
    """Lets a model obey the prompts that carry regions. It has no settings: every prompt brings its node's own."""

    def begin(self, run: Run) -> Sequence[AttentionWrapper]:
        """The wrapper of this step; in the first one, say so where nothing will happen."""
        memory = run.state(self, RunMemory)
        if not memory.begun:
            memory.begun = True
            _say_if_nothing_happens(run)
        return (RegionAttention(memory.facts),)


STEERING = RegionSteering()


@dataclass(frozen=True, eq=False)
class AdaptedClip:
    """A text encoder whose features the model itself turns into those of other tokens (Anima's: of T5's), before it
    draws. Done at once, every token that comes out can be a region's."""

    clip: Clip
    patcher: ModelPatcher

    def tokenize(self, text: str, return_word_ids: bool = False) -> Tokens:
        return self.clip.tokenize(text, return_word_ids=return_word_ids)

    def encode_from_tokens_scheduled(self, tokens: Any) -> list:
        encoded = self.clip.encode_from_tokens_scheduled(tokens)
        comfy.model_management.load_models_gpu([self.patcher])
        return [self._adapted(features, options) for features, options in encoded]

    def _adapted(self, features: Tensor, options: dict[str, Any]) -> list:
        """As ComfyUI does it before it samples (Anima.extra_conds)."""
        ids, model = options.get("t5xxl_ids"), self.patcher.model
        if ids is None:
            return [features, options]
        there = {"device": self.patcher.load_device, "dtype": model.get_dtype_inference()}
        weights = options["t5xxl_weights"][None, :, None].to(**there)
        adapted = model.diffusion_model.preprocess_text_embeds(
            features.to(**there), ids[None].to(there["device"]), t5xxl_weights=weights
        )
        rest = {key: value for key, value in options.items() if key not in ("t5xxl_ids", "t5xxl_weights")}
        return [adapted.to(features), rest]


def adapted(clip: Clip, patcher: ModelPatcher) -> Clip:
    """What encodes prompts for a model, word by word as its blocks see them."""
    return AdaptedClip(clip, patcher) if isinstance(patcher.model.diffusion_model, Anima) else clip


def install(patcher: ModelPatcher) -> None:
    """Let a freshly cloned patcher obey prompts with regions; once is enough."""
    hooks.install(patcher, STEERING)


def _say_if_nothing_happens(run: Run) -> None:
    conds = [cond for conds in run.conds.values() for cond in conds]
    regions: list[PromptRegions] = [cond[MARK] for cond in conds if MARK in cond]
    if conds and not regions:
        run.warn(
            "Regions do nothing in this run: no prompt of the sampler carries any. Connect positive of Dense Diffusion "
            "or Paint with Words; Conditioning (Concat) and (Average) keep those of conditioning_to only."
        )
    if run.cfg == 1.0 and any(each.negative for each in regions):
        run.warn("Regions' negative prompts do nothing in this run: at CFG 1 no negative prompt is evaluated.")
    sampling, highest = run.model.model_sampling, max(run.sigma, run.highest)  # noise may rise
    starting = any(each.control.starts for each in regions)
    if regions and not starting and all(each.control.is_over(sampling, highest) for each in regions):
        begins, end = 1 - left_of_schedule(sampling, highest), max(each.control.end for each in regions)
        run.warn(
            f"Regions do nothing in this run: it begins at {begins:.2f} of the schedule (denoise below 1, or a second "
            f"pass), and they end at end_percent {end:g}."
        )
