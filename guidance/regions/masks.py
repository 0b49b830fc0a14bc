"""Regions: painted places and what should be there, and how much of each lies in every token of a layer."""

from __future__ import annotations

import math
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attention.conds import Window

MAX_REGIONS = 64  # regions that a model call can serve: each takes a column beside every head's channels
OVERLAPS = ("top", "share")
MAX_TOGETHER = 64  # masks of a canvas of regions that have different numbers of them, if none has more


@dataclass(frozen=True, eq=False)
class Lora:
    """A LoRA file's tensors by name, and how strongly they act on the model and on the text encoder."""

    name: str
    weights: Mapping[str, Tensor] = field(repr=False)
    model: float = 1.0
    clip: float = 1.0


@dataclass(frozen=True, eq=False)
class Region:
    """A place and its prompt.

    mask: [n, height, width] on the CPU, 0..1; one for all pictures, or one per picture of a batch or frame of a video.
    strength: how much of a node's effect this region gets. negative_prompt: what the negative
    prompt says in this place, "" for nothing. conditioning: an encoded prompt to use instead of the prompt. color: of
    what is there, 0..1 each. painted_in: the color that it was painted in, which may mean nothing. start,
    end: window in percent of the schedule as fractions; outside of it the region is as if it were not there. loras: of
    what is there. origin: the same in whatever a region is made into (cropped, given a LoRA), and in copies of it.
    """

    mask: Tensor = field(repr=False)
    prompt: str = ""
    strength: float = 1.0
    negative_prompt: str = ""
    conditioning: tuple | None = field(default=None, repr=False)
    color: tuple[float, float, float] | None = None
    painted_in: tuple[float, float, float] | None = None
    start: float = 0.0
    end: float = 1.0
    loras: tuple[Lora, ...] = ()
    origin: uuid.UUID = field(default_factory=uuid.uuid4, repr=False)

    @property
    def window(self) -> tuple[float, float]:
        return self.start, self.end


@dataclass(frozen=True, eq=False)
class Regions:
    """Regions in paint order. overlap: where several claim a pixel, "top": the last has it; "share": all share it."""

    items: tuple[Region, ...] = ()
    overlap: str = "top"

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def acting(self) -> Regions:
        """Those that have a place and a strength: the others are as if they were not there. A place is taken from a
        region only by those that act whenever it acts."""
        at_all = [i for i, region in enumerate(self.items) if region.strength > 0 and region.start < region.end]
        placed: set[int] = set()
        for start, end in {self.items[i].window for i in at_all}:
            beside = [i for i in at_all if self.items[i].start <= start and end <= self.items[i].end]
            peaks = self.only(beside).peaks().tolist()
            placed |= {i for i, peak in zip(beside, peaks) if peak > 0 and self.items[i].window == (start, end)}
        return self if len(placed) == len(self) else self.only(sorted(placed))

    def only(self, places: Sequence[int]) -> Regions:
        """Those with these numbers, as if the others were not there."""
        return Regions(tuple(self.items[i] for i in places), self.overlap)

    def only_acting(self, acting: Collection[int]) -> Regions:
        """The same, but the others keep their numbers: their masks are black."""
        black = torch.zeros(1, 1, 1)
        items = (r if i in acting else replace(r, mask=black) for i, r in enumerate(self.items))
        return Regions(tuple(items), self.overlap)

    def peaks(self) -> Tensor:
        """The largest value that each region has anywhere, in pictures or frames: [regions]."""
        return torch.maximum(*(self.canvas(frames).amax(dim=(0, 2, 3)) for frames in (False, True)))

    def idle(self) -> list[str]:
        """What there is to say about regions that do not act, a line for each; one line where there is none at all."""
        reasons = [] if self.items else ["There is no region: none is connected, painted or found."]
        for i, region in enumerate(self.items):
            if all(region is not other for other in self.acting.items):
                why = "has no place (its mask is black or covered)"
                if region.strength <= 0:
                    why = "has strength 0"
                elif region.start >= region.end:
                    why = f"ends ({region.end:g}) before it begins ({region.start:g})"
                reasons.append(f"{region.prompt or f'region {i + 1}'!r} {why}: it is left out.")
        return reasons

    def wordless(self) -> list[str]:
        """What there is to say about regions that ask for nothing in their place, a line for each."""
        asks = (r.prompt.strip() or r.negative_prompt.strip() or r.conditioning or r.loras for r in self.items)
        silent = [i + 1 for i, asked in enumerate(asks) if not asked]
        return [f"region {number} has no prompt: nothing is asked of its place." for number in silent]

    def cropped(self, box: tuple[int, int, int, int], picture: tuple[int, int]) -> Regions:
        """As they are in a part of the picture. box: (x, y, width, height) in pixels of a picture (width, height)."""
        return Regions(tuple(replace(r, mask=_cropped(r.mask, box, picture)) for r in self.items), self.overlap)

    def canvas(self, frames: bool = False) -> Tensor:
        """What is whose: [n, regions, height, width] of the largest mask's size, 0..1, at most 1 in sum per pixel.

        Masks of other sizes are fitted. Where regions have different numbers of masks, those of pictures repeat, each
        region's by itself; those of a video's frames are spread over it evenly. Computed once: do not change it.
        """
        return self._of_frames if frames else self._of_pictures

    @cached_property
    def _of_pictures(self) -> Tensor:
        return self._merged([torch.arange(self._together) % len(region.mask) for region in self.items])

    @cached_property
    def _of_frames(self) -> Tensor:
        if len({len(region.mask) for region in self.items} - {1}) < 2:
            return self._of_pictures
        count = self._together
        return self._merged([torch.arange(count) * len(region.mask) // count for region in self.items])

    @property
    def _together(self) -> int:
        """Masks of the canvas: so many that all regions' begin anew together, if that is not too many to keep."""
        counts = [len(region.mask) for region in self.items]
        return min(math.lcm(*counts), max(MAX_TOGETHER, *counts))

    def _merged(self, chosen: Sequence[Tensor]) -> Tensor:
        """The canvas of masks with these numbers, of each region."""
        if not self.items:
            return torch.zeros(1, 0, 1, 1)
        height, width = (max(region.mask.shape[axis] for region in self.items) for axis in (-2, -1))
        fitted = [_fit(region.mask, height, width)[which] for region, which in zip(self.items, chosen)]
        masks = torch.stack(fitted, dim=1)
        if self.overlap == "share":
            return masks / masks.sum(dim=1, keepdim=True).clamp_min(1)
        above = torch.cumprod(1 - masks.flip(1), dim=1).flip(1)  # what a region and those painted after it leave free
        return masks * torch.cat([above[:, 1:], torch.ones_like(above[:, :1])], dim=1)


NO_REGIONS = Regions()


def _cropped(mask: Tensor, box: tuple[int, int, int, int], picture: tuple[int, int]) -> Tensor:
    """A part of a mask [n, h, w], about as fine as the mask is there; black beyond the picture."""
    x, y, width, height = box
    factors = []
    for pixels, side, whole, start in ((mask.shape[1], height, picture[1], y), (mask.shape[2], width, picture[0], x)):
        cells = max(1, round(pixels * side / whole))
        factors.append(_overlaps(cells, side / cells, pixels, whole, start))
    rows, columns = factors
    return torch.einsum("yh,nhw,xw->nyx", rows, mask.float(), columns)


def _fit(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask [n, h, w] at another size, 0..1, without NaN."""
    mask = torch.nan_to_num(mask.float(), nan=0.0, posinf=1.0, neginf=0.0).clamp(0, 1)
    if mask.shape[-2:] == (height, width):
        return mask
    return F.interpolate(mask[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0]


def token_shares(
    canvas: Tensor, grid: tuple[int, ...], extent: tuple[int, ...], size: tuple[int, ...],
    origin: tuple[int, ...] = (0, 0),
) -> Tensor:  # fmt: skip
    """How much of every token belongs to each region: [n, tokens, regions], rows sum to at most 1.

    canvas: [n, regions, height, width], stretched over the latent of `size` pixels (height, width). grid: tokens.
    extent: latent pixels that the grid spans from `origin` (y, x) on, maybe beyond size: a token at the border is
    judged by its part inside.
    The mean over each token's area, exact for any ratio of sizes. A region that is nowhere more than half a token
    keeps its strongest one, so thin shapes do not vanish on coarse grids.
    """
    cell = (extent[0] / grid[0], extent[1] / grid[1])
    shares = area_means(canvas, grid, cell, size, origin).flatten(1, 2)
    peaks, everywhere = canvas.amax(dim=(-2, -1)), shares
    if any(extent[axis] < size[axis] for axis in (0, 1)):  # a part may have no more than a sliver of a wide region
        whole = (math.ceil(size[0] / cell[0]), math.ceil(size[1] / cell[1]))
        everywhere = area_means(canvas, whole, cell, size).flatten(1, 2)
    large = (everywhere >= 0.5 * peaks[:, None]).sum(dim=1)
    return _rescued(shares, peaks, large)


def area_means(
    canvas: Tensor, grid: tuple[int, ...], cell: tuple[float, ...], size: tuple[int, ...],
    origin: tuple[int, ...] = (0, 0),
) -> Tensor:  # fmt: skip
    """Mean of every region over every token: [n, height, width, regions] of a grid of cells of this size."""
    rows, columns = (
        _overlaps(grid[axis], cell[axis], canvas.shape[axis - 2], size[axis], origin[axis]) for axis in (0, 1)
    )
    return torch.einsum("yh,nrhw,xw->nyxr", rows, canvas.float(), columns)


def _overlaps(cells: int, cell: float, pixels: int, size: int, origin: int = 0) -> Tensor:
    """Row i: how much of cell i each of `pixels` canvas pixels fills, which stretch over `size`. Rows sum to 1 or 0."""
    pixel = size / pixels
    starts = origin + torch.arange(cells, dtype=torch.float64)[:, None] * cell
    edges = torch.arange(pixels, dtype=torch.float64)[None] * pixel
    lengths = (torch.minimum(starts + cell, edges + pixel) - torch.maximum(starts, edges)).clamp_min(0)
    return (lengths / lengths.sum(dim=1, keepdim=True).clamp_min(1e-12)).float()


def _rescued(shares: Tensor, peaks: Tensor, large: Tensor) -> Tensor:
    """Give every region that is weak everywhere its strongest token. peaks [n, regions]: its largest canvas value;
    large [n, regions]: how many tokens it has half of that in, those outside of a part included.

    Regions that would be left without a large token share one evenly; the others keep the rest of it.
    """
    strongest, at = shares.max(dim=1)
    weak = (large == 0) & (strongest < 0.5 * peaks) & (strongest > 0)
    if not weak.any():
        return shares
    rescued = shares.clone()
    for n, token in sorted({(n, int(at[n, r])) for n, r in weak.nonzero().tolist()}):
        here = shares[n, token]
        only_here = (large[n] == 1) & (here >= 0.5 * peaks[n]) & (here > 0)
        claims = (weak[n] & (at[n] == token)) | only_here
        own = peaks[n] / claims.sum()
        rescued[n, token] = torch.where(claims, own, here * (1 - own[claims].sum()))
    return rescued


def vanishing(canvas: Tensor, grid: tuple[int, int]) -> list[int]:
    """Regions that keep only a rescued token on this grid, in any of the n masks."""
    size = canvas.shape[-2:]
    strongest = area_means(canvas, grid, (size[0] / grid[0], size[1] / grid[1]), size).amax(dim=(1, 2))
    weak = (strongest < 0.5 * canvas.amax(dim=(-2, -1))).any(dim=0)
    return weak.nonzero().flatten().tolist()


def is_video(frames: int | None, total: int) -> bool:
    """Whether masks are those of frames: many models of pictures have an axis for frames, too. total: of all frames,
    where the network sees a part of them, else 0."""
    return frames is not None and (frames > 1 or total > 1)


def of_batch(
    shares: Tensor, batch: int, frames: int | None, seen: tuple[int, ...] | None = None, total: int = 0
) -> Tensor:
    """Shares [n, tokens, regions] of pictures as those of a model batch: [batch, all tokens, regions].

    Without frames, or with one, the n masks repeat over the batch. With frames (video) they are spread over the frames,
    evenly where the numbers differ, the same for every video of the batch. seen: which pictures, or which of `total`
    frames, these are, if not all.
    """
    if frames is None or not is_video(frames, total):
        at = torch.arange(batch) if seen is None else torch.tensor(seen)[torch.arange(batch) % len(seen)]
        return shares[at % shares.shape[0]]
    seen, total = (tuple(range(frames)), frames) if seen is None else (seen, total)
    at = torch.tensor(seen)[(torch.arange(frames) * len(seen) / frames).long()]  # a token may span several frames
    picked = shares[(at * len(shares) / total).long()]
    return picked.flatten(0, 1)[None].expand(batch, math.prod(picked.shape[:2]), -1)


@dataclass(frozen=True)
class Part:
    """What part of a picture or video the network sees. size: (height, width) of all of it, origin: (y, x) of the part,
    in latent pixels. seen: which frames of `total`, or which pictures of the batch, None for all."""

    size: tuple[int, ...]
    origin: tuple[int, ...] = (0, 0)
    seen: tuple[int, ...] | None = None
    total: int = 0


def part_of(
    whole: tuple[int, ...], latent: tuple[int, ...], area: tuple[int, ...] | None, window: Window | None
) -> Part | None:
    """The part that a latent of this size is of the whole, None where neither area nor window explain it.

    area: sizes, then offsets, as ComfyUI keeps it: axes that it lacks lead, what it has too many end.
    """
    if len(whole) != len(latent):  # packed, or not known
        return Part(latent[-2:])
    axes = len(whole)
    sizes, offsets = list(whole), [0] * axes
    if area is not None:
        given = len(area) // 2
        lacking = max(0, axes - given)
        offsets = ([0] * lacking + list(area[given:]))[:axes]
        sizes = ([*whole[:lacking], *area[:given]])[:axes]
        sizes = [min(size, all_of_it - offset) for size, all_of_it, offset in zip(sizes, whole, offsets)]
    if tuple(sizes[-2:]) != latent[-2:]:
        return None
    seen, total = None, 0
    if window is not None and window.axis == 0 and (axes == 2 or whole[0] == 1):
        seen = window.seen
    elif axes == 3 and whole[0] > 1:
        if window is not None and window.axis == 2 and len(window.seen) == latent[0]:
            seen, total = window.seen, whole[0]
        elif window is None and sizes[0] == latent[0] < whole[0]:
            seen, total = tuple(range(offsets[0], offsets[0] + sizes[0])), whole[0]
    return Part(whole[-2:], tuple(offsets[-2:]), seen, total)
