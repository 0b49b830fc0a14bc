"""What an encoded prompt carries along: its regions, which tokens are whose, and the settings of its node.

A prompt is steered by the node that made it, whatever other region nodes the model has been through.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...attention.conds import Row
from .control import RegionControl

MARK = "fovea_regions"  # key of a cond dict that holds its PromptRegions


@dataclass(frozen=True, eq=False)
class PromptRegions:
    """Regions tied to an encoded prompt.

    canvas: [n, regions, height, width], see Regions.canvas. strengths: one per region. tokens: per region the places
    of its words in the prompt. length: tokens of the prompt. appended: place of the first token that is there for a
    region only, not seen where regions do not steer; `length` if there is none. free: places of tokens that belong
    to no region. negative: of a negative prompt.
    """

    control: RegionControl
    canvas: Tensor = field(repr=False)
    strengths: tuple[float, ...]
    tokens: tuple[tuple[int, ...], ...]
    length: int
    appended: int
    free: tuple[int, ...] = ()
    negative: bool = False

    def keys(self, count: int, own: int = 0) -> Tensor:
        """T: whose every text token is, [count, regions]. ComfyUI repeats a prompt to the length of a longer one.

        own: tokens of the prompt now, with what other nodes have put behind it.
        """
        members = torch.zeros(self.length, len(self.tokens))
        for region, places in enumerate(self.tokens):
            members[list(places), region] = 1
        return _repeat_or_pad(members, count, own)

    def free_tokens(self, count: int, own: int = 0) -> Tensor:
        """Which text tokens are of no region: [count]; own: as in `keys`."""
        free = torch.zeros(self.length, 1)
        free[list(self.free)] = 1
        return _repeat_or_pad(free, count, own)[:, 0]

    def hidden(self, count: int, own: int = 0) -> Tensor:
        """Which text tokens are appended: [count]; own: as in `keys`."""
        return _repeat_or_pad((torch.arange(self.length) >= self.appended).float()[:, None], count, own)[:, 0]


def regions_of(row: Row) -> PromptRegions | None:
    """The regions of a row's prompt; None for a prompt that stands where it does not belong.

    ComfyUI copies a prompt with an area to the guider's other lists, its marks included.
    """
    mark = row.marks.get(MARK)
    return mark if mark is not None and row.original and mark.negative == row.negative else None


def _repeat_or_pad(tokens: Tensor, count: int, own: int) -> Tensor:
    """[length, c] as [count, c]: followed by zeros up to its own length, repeated if count is a multiple of that, else
    followed by zeros."""
    tokens = torch.cat([tokens, tokens.new_zeros(max(0, own - len(tokens)), tokens.shape[1])])
    if count % len(tokens) == 0:
        return tokens.repeat(count // len(tokens), 1)
    return torch.cat([tokens, tokens.new_zeros(max(0, count - len(tokens)), tokens.shape[1])])[:count]
