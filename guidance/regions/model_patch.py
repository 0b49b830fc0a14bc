"""Regions inside ComfyUI: the technique that DenseDiffusion and Paint-with-Words share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...attention import hooks
from ...attention.run import AttentionWrapper, Run
from ..schedule import left_of_schedule
from .attention_patch import RegionAttention
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
    sampling = run.model.model_sampling
    starting = any(each.control.starts for each in regions)
    if regions and not starting and all(each.control.is_over(sampling, run.sigma) for each in regions):
        begins, end = 1 - left_of_schedule(sampling, run.sigma), max(each.control.end for each in regions)
        run.warn(
            f"Regions do nothing in this run: it begins at {begins:.2f} of the schedule (denoise below 1, or a second "
            f"pass), and they end at end_percent {end:g}."
        )
