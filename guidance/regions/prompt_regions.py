"""What an encoded prompt carries along: its regions, which tokens are whose, and the settings of its node.

A prompt is steered by the node that made it, whatever other region nodes the model has been through.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...attention.conds import Row
from ...attention.sites import TextPlace
from ..schedule import inside
from .control import RegionControl
from .masks import NO_REGIONS, Regions, is_video

MARK = "fovea_regions"  # key of a cond dict that holds its PromptRegions


@dataclass(frozen=True, eq=False)
class PromptRegions:
    """Regions tied to an encoded prompt.

    canvas: [n, regions, height, width], see Regions.canvas. strengths: one per region. tokens: per region the places
    of its words in the prompt. length: tokens of the prompt. appended: place of the first token that is there for a
    region only, not seen where regions do not steer; `length` if there is none. free: places of tokens that belong
    to no region. negative: of a negative prompt. windows: per region in percent of the schedule as fractions; (): all
    act always. unseen: places of appended tokens whose regions do not act now. regions: the regions themselves, needed
    where they have windows, or other masks for pictures than for frames.
    """

    control: RegionControl
    canvas: Tensor = field(repr=False)
    strengths: tuple[float, ...]
    tokens: tuple[tuple[int, ...], ...]
    length: int
    appended: int
    free: tuple[int, ...] = ()
    negative: bool = False
    windows: tuple[tuple[float, float], ...] = ()
    unseen: tuple[int, ...] = ()
    regions: Regions = NO_REGIONS

    def canvas_for(self, frames: int | None, total: int) -> Tensor:
        """The canvas of pictures, or of a video's frames; frames, total: see is_video."""
        return self.regions.canvas(frames=True) if len(self.regions) and is_video(frames, total) else self.canvas

    def acting(self, sampling: Any, sigma: float) -> tuple[int, ...]:
        """Which regions' windows a noise level lies in."""
        windows = self.windows or ((0.0, 1.0),) * len(self.tokens)
        return tuple(i for i, (start, end) in enumerate(windows) if inside(sampling, sigma, start, end))

    def only(self, acting: tuple[int, ...]) -> PromptRegions:
        """As if the other regions were not there: what they covered is that of the regions behind them, their words are
        nobody's, and are not seen where they stand for a region only."""
        if len(acting) == len(self.tokens):
            return self
        kept = {place for i in acting for place in self.tokens[i]}
        gone = sorted({place for places in self.tokens for place in places} - kept)
        regions = self.regions.only(acting)
        return replace(
            self, canvas=regions.canvas(), strengths=tuple(self.strengths[i] for i in acting),
            tokens=tuple(self.tokens[i] for i in acting), windows=(),
            free=tuple(sorted({*self.free, *(place for place in gone if place < self.appended)})),
            unseen=tuple(place for place in gone if place >= self.appended), regions=regions,
        )  # fmt: skip

    def now(self, sampling: Any, sigma: float) -> PromptRegions:
        """Those that act at a noise level."""
        return self.only(self.acting(sampling, sigma))

    def keys(self, count: int, place: TextPlace, length: int) -> Tensor:
        """T: whose every text token is, [count, regions].

        place: where the prompt is in them. length: its tokens now, with what other nodes have put behind it.
        """
        members = torch.zeros(self.length, len(self.tokens))
        for region, places in enumerate(self.tokens):
            members[list(places), region] = 1
        return _placed(members, count, place, length)

    def free_tokens(self, count: int, place: TextPlace, length: int) -> Tensor:
        """Which text tokens are of no region: [count]; place, length: as in `keys`."""
        free = torch.zeros(self.length, 1)
        free[list(self.free)] = 1
        return _placed(free, count, place, length)[:, 0]

    def hidden(self, count: int, place: TextPlace, length: int, steered: bool = False) -> Tensor:
        """Which text tokens nobody may see: [count]; place, length: as in `keys`. steered: whether those of acting
        regions are to be seen."""
        hidden = torch.arange(self.length) >= self.appended
        if steered:
            hidden = torch.isin(torch.arange(self.length), torch.tensor(self.unseen, dtype=torch.long))
        return _placed(hidden.float()[:, None], count, place, length)[:, 0]


def regions_of(row: Row) -> PromptRegions | None:
    """The regions of a row's prompt; None for a prompt that stands where it does not belong.

    ComfyUI copies a prompt with an area to the guider's other lists, its marks included.
    """
    mark = row.marks.get(MARK)
    return mark if mark is not None and row.original and mark.negative == row.negative else None


def _placed(tokens: Tensor, count: int, place: TextPlace, length: int) -> Tensor:
    """What is known of a prompt's tokens [n, c] for all text tokens of a call: [count, c], 0 for those of others."""
    start, own = place.of(count, length)
    tokens = tokens[:length] if length else tokens  # what is cut off a call is not in it
    tokens = torch.cat([tokens, tokens.new_zeros(max(0, own - len(tokens)), tokens.shape[1])])
    rest = max(0, count - start)
    if rest % len(tokens) == 0:
        tokens = tokens.repeat(rest // len(tokens), 1)
    else:
        tokens = torch.cat([tokens, tokens.new_zeros(max(0, rest - len(tokens)), tokens.shape[1])])[:rest]
    return torch.cat([tokens.new_zeros(count - rest, tokens.shape[1]), tokens])
