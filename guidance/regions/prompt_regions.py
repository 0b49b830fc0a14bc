"""What an encoded prompt carries along: its regions, which tokens are whose, and the settings of its node.

A prompt is steered by the node that made it, whatever other region nodes the model has been through.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...attention.conds import Row
from ..schedule import inside
from .control import RegionControl
from .masks import Region

MARK = "fovea_regions"  # key of a cond dict that holds its PromptRegions


@dataclass(frozen=True, eq=False)
class PromptRegions:
    """Regions tied to an encoded prompt.

    canvas: [n, regions, height, width], see Regions.canvas. strengths: one per region. tokens: per region the places
    of its words in the prompt. length: tokens of the prompt. appended: place of the first token that is there for a
    region only, not seen where regions do not steer; `length` if there is none. free: places of tokens that belong
    to no region. negative: of a negative prompt. windows: per region in percent of the schedule as fractions; (): all
    act always. unseen: places of appended tokens whose regions do not act now. items: the regions themselves.
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
    items: tuple[Region, ...] = ()

    def acting(self, sampling: Any, sigma: float) -> tuple[int, ...]:
        """Which regions' windows a noise level lies in."""
        windows = self.windows or ((0.0, 1.0),) * len(self.tokens)
        return tuple(i for i, (start, end) in enumerate(windows) if inside(sampling, sigma, start, end))

    def only(self, acting: tuple[int, ...]) -> PromptRegions:
        """As if the other regions were not there: their places are nobody's, and so are their words, which are not seen
        where they stand for a region only."""
        if len(acting) == len(self.tokens):
            return self
        kept = {place for i in acting for place in self.tokens[i]}
        gone = sorted({place for places in self.tokens for place in places} - kept)
        return replace(
            self, canvas=self.canvas[:, list(acting)], strengths=tuple(self.strengths[i] for i in acting),
            tokens=tuple(self.tokens[i] for i in acting), windows=(),
            free=tuple(sorted({*self.free, *(place for place in gone if place < self.appended)})),
            unseen=tuple(place for place in gone if place >= self.appended),
            items=tuple(self.items[i] for i in acting) if self.items else (),
        )  # fmt: skip

    def now(self, sampling: Any, sigma: float) -> PromptRegions:
        """Those that act at a noise level."""
        return self.only(self.acting(sampling, sigma))

    def keys(self, count: int, own: int = 0, start: int = 0) -> Tensor:
        """T: whose every text token is, [count, regions]. ComfyUI repeats a prompt to the length of a longer one.

        own: tokens of the prompt now, with what other nodes have put behind it. start: tokens of others before it.
        """
        members = torch.zeros(self.length, len(self.tokens))
        for region, places in enumerate(self.tokens):
            members[list(places), region] = 1
        return _repeat_or_pad(members, count, own, start)

    def free_tokens(self, count: int, own: int = 0, start: int = 0) -> Tensor:
        """Which text tokens are of no region: [count]; own, start: as in `keys`."""
        free = torch.zeros(self.length, 1)
        free[list(self.free)] = 1
        return _repeat_or_pad(free, count, own, start)[:, 0]

    def hidden(self, count: int, own: int = 0, steered: bool = False, start: int = 0) -> Tensor:
        """Which text tokens nobody shall see: [count]; own, start: as in `keys`. steered: whether those of acting
        regions are to be seen."""
        hidden = torch.arange(self.length) >= self.appended
        if steered:
            hidden = torch.isin(torch.arange(self.length), torch.tensor(self.unseen, dtype=torch.long))
        return _repeat_or_pad(hidden.float()[:, None], count, own, start)[:, 0]


def regions_of(row: Row) -> PromptRegions | None:
    """The regions of a row's prompt; None for a prompt that stands where it does not belong.

    ComfyUI copies a prompt with an area to the guider's other lists, its marks included.
    """
    mark = row.marks.get(MARK)
    return mark if mark is not None and row.original and mark.negative == row.negative else None


def _repeat_or_pad(tokens: Tensor, count: int, own: int, start: int) -> Tensor:
    """[length, c] as [count, c]: followed by zeros up to its own length, repeated if count is a multiple of that, else
    followed by zeros; after `start` zeros."""
    if start:
        rest = _repeat_or_pad(tokens, max(0, count - start), own, 0)
        return torch.cat([tokens.new_zeros(min(start, count), tokens.shape[1]), rest])
    tokens = torch.cat([tokens, tokens.new_zeros(max(0, own - len(tokens)), tokens.shape[1])])
    if count % len(tokens) == 0:
        return tokens.repeat(count // len(tokens), 1)
    return torch.cat([tokens, tokens.new_zeros(max(0, count - len(tokens)), tokens.shape[1])])[:count]
