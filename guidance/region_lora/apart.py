"""Places of regions look at their own region rather than at others, so that no LoRA is copied next door.

In one evaluation every place sees every other through self-attention, and a style or a face is what it takes from there
first. So where regions have LoRAs, scores among places are moved as Dense Diffusion moves them, in every step.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...attention.conds import Row
from ...attention.run import Run
from ..regions.attention_patch import RegionAttention
from ..regions.control import RegionControl
from ..regions.masks import NO_REGIONS, Regions
from ..regions.prompt_regions import PromptRegions
from ..regions.score_bias import SELF_RANGE, RegionBias

# Strength 1 in standard deviations of a place's scores; found on ShapesWorld, see docs/results.md.
FULL = 2 * SELF_RANGE
BIAS = RegionBias("row std", temperature=0.0, area_weight=0.0, background=False, outside_weight=1.0)


@dataclass(frozen=True, eq=False)
class Apart(RegionAttention):
    """regions: those that act. strength: 0 to 1 and above. negative: whether the negative prompt's rows too."""

    regions: Regions = NO_REGIONS
    strength: float = 1.0
    negative: bool = True

    kinds: frozenset[str] = frozenset({"self", "joint"})

    def regions_for(self, run: Run, row: Row) -> PromptRegions | None:
        """The regions as those of a prompt without words of its own."""
        if row.negative and not self.negative:
            return None
        key = ("apart", self.regions, row.length)
        if key not in self.facts:
            canvas, count, words = self.regions.canvas(), len(self.regions), max(1, row.length)
            control = RegionControl(BIAS, 0.0, self.strength * FULL, law="constant")
            self.facts[key] = PromptRegions(
                control, canvas, (1.0,) * count, ((),) * count, words, words, regions=self.regions
            )
        return self.facts[key]
