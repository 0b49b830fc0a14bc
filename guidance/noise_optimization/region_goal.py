"""Regions as the goal: what is in each place, against that place's own prompt.

The local score of DenseDiffusion's protocol (arXiv 2308.12964): the square around a region, a little larger, is
compared with the region's prompt. As a part of the loss it can be searched for and optimized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import crops
from ..crops import View
from .losses import Scorer, square_losses

MARGIN = 1.3  # of the square around a region


@dataclass(frozen=True, eq=False)
class RegionGoal:
    """masks: [1 or n, height, width] each, 0..1; one for all pictures, or one per picture. prompts: of each. weight:
    share of the regions in the loss, 0..1."""

    masks: Sequence[Tensor]
    prompts: Sequence[str]
    weight: float = 0.5

    def targets(self, scorer: Scorer) -> list[Any]:
        """What a scorer compares the regions with."""
        return [scorer.target(prompt) for prompt in self.prompts]

    def losses(self, scorer: Scorer, targets: Sequence[Any], pictures: Tensor) -> Tensor:
        """Losses [n, regions] of pictures [n, 3, height, width]; NaN for regions that are empty."""
        rows = []
        for i, picture in enumerate(pictures):
            row = []
            for mask, target in zip(self.masks, targets):
                view = around(mask[i % len(mask)], *picture.shape[-2:])
                if view is None:
                    row.append(picture.new_tensor(torch.nan))
                else:
                    square = crops.look(picture, [view], scorer.size)
                    row.append(square_losses(scorer, square, target)[0].to(picture.device))
            rows.append(torch.stack(row))
        return torch.stack(rows)

    def mixed(self, whole: Tensor, regions: Tensor) -> Tensor:
        """(1 - weight) * whole [n] + weight * the mean over those regions [n, regions] that are not empty."""
        there = ~torch.isnan(regions)
        count = there.sum(dim=1)
        mean = regions.where(there, 0.0).sum(dim=1) / count.clamp_min(1)
        return torch.where(count > 0, (1 - self.weight) * whole + self.weight * mean.to(whole), whole)


def around(mask: Tensor, height: int, width: int, margin: float = MARGIN) -> View | None:
    """The square of a picture of this size around a region's mask of any size, `margin` times as wide as its box, moved
    into the picture; None where the mask is empty."""
    at = (mask > 0.5).nonzero()
    if not len(at):
        return None
    scale = at.new_tensor([height, width]) / at.new_tensor(mask.shape)
    (top, left), (bottom, right) = (at.amin(0) * scale).tolist(), ((at.amax(0) + 1) * scale).tolist()
    side = max(1, int(min(max(bottom - top, right - left) * margin, height, width)))
    y = min(max(int((top + bottom - side) // 2), 0), height - side)
    x = min(max(int((left + right - side) // 2), 0), width - side)
    return View(y, x, side)
