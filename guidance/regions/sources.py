"""Masks from what people have: pictures of flat colors, boxes with descriptions; and regions as a picture again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import Region, Regions, token_shares

# Told apart by eye and by color-blind eyes; regions beyond take them again.
PALETTE = ("#e6194b", "#4363d8", "#ffe119", "#3cb44b", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#9a6324", "#808000")
NOBODYS = 0.85  # the gray of places that no region has
MAX_SIDE = 1024  # pixels of a mask: whatever the picture, no token grid is finer
_LINE = re.compile(r"^\s*#?([0-9a-fA-F]{6})\s*[:=]\s*(.*?)\s*$")


class Color(NamedTuple):
    """A painted color 0..1 and its prompt."""

    rgb: tuple[float, float, float]
    prompt: str


def parse_colors(text: str) -> list[Color]:
    """Lines such as "#ff0000: a red star"; empty lines do not matter. Raises ValueError that names the wrong line."""
    colors: list[Color] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.match(line)
        if match is None:
            raise ValueError(f"Line {number} should look like '#ff0000: a red star', but is {line.strip()!r}.")
        color = Color(rgb(match[1]), match[2])
        if any(color.rgb == other.rgb for other in colors):
            raise ValueError(f"Line {number}: #{match[1]} is listed twice; give every region a color of its own.")
        colors.append(color)
    if not colors:
        raise ValueError("No colors are given: write a line such as '#ff0000: a red star' for each.")
    return colors


def rgb(hexadecimal: str) -> tuple[float, float, float]:
    """A color such as "ff0000" or "#ff0000" as red, green, blue 0..1."""
    digits = hexadecimal.lstrip("#")
    red, green, blue = (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


def color_masks(picture: Tensor, colors: Sequence[Color], tolerance: float) -> Tensor:
    """Which pixels have which color: [colors, n, height, width] of pictures [n, height, width, channels], 0 or 1; of
    larger ones, reduced to MAX_SIDE, means. Frame by frame, so that a film's masks never exist at their full size.

    Each pixel goes to the nearest color, so soft edges of a brush leave no gaps; pixels farther than `tolerance` (a
    share of the distance from black to white) from all of them go to none, and so do NaN. Fewer than three channels
    are gray, with transparency.
    """
    palette = torch.tensor([color.rgb for color in colors])
    places = range(len(colors))
    found = [_nearest(frame, palette, tolerance * 3**0.5) for frame in picture[..., :3]]
    return torch.stack([torch.stack([_reduced(nearest == i) for nearest in found]) for i in places])


def _nearest(picture: Tensor, palette: Tensor, distance: float) -> Tensor:
    """Which color of a palette [colors, 3] each pixel of [height, width, channels] is nearest to, -1 beyond this
    distance: [height, width]."""
    channels = picture if picture.shape[-1] == 3 else picture[..., :1].expand(*picture.shape[:-1], 3)
    # By a matrix product, equal colors would not be at a distance of 0.
    exactly = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(channels.float().cpu().flatten(0, -2), palette, compute_mode=exactly)
    nearest = distances.argmin(dim=1).to(torch.int16)
    nearest[~(distances.amin(dim=1) <= distance)] = -1
    return nearest.reshape(picture.shape[:-1])


class Box(NamedTuple):
    """Edges as fractions of the picture, what is in it, and its color, 0..1 each, where one is given."""

    left: float
    top: float
    right: float
    bottom: float
    prompt: str
    color: tuple[float, float, float] | None = None


WHOLE = Box(0.0, 0.0, 1.0, 1.0, "")


def box_mask(box: Box, width: int, height: int) -> Tensor:
    """The box as a mask [1, height, width]; pixels at its edges count in part."""

    def along(start: float, stop: float, count: int) -> Tensor:
        pixels = torch.arange(count, dtype=torch.float64)
        return ((pixels + 1).clamp(max=stop * count) - pixels.clamp(min=start * count)).clamp(0, 1).float()

    return (along(box.top, box.bottom, height)[:, None] * along(box.left, box.right, width))[None]


def region_picture(regions: Regions) -> Tensor:
    """What is whose in colors: [n, height, width, 3]; gray where nothing is."""
    canvas = regions.canvas()
    return colored(canvas.movedim(1, -1))


def grid_picture(regions: Regions, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """What a layer with this token grid sees of the regions, drawn at `size`: [height, width, 3]."""
    canvas = regions.canvas()[:1]
    shares = token_shares(canvas, grid, size, size)[0].reshape(*grid, -1)
    rows = torch.arange(size[0]) * grid[0] // size[0]
    columns = torch.arange(size[1]) * grid[1] // size[1]
    return colored(shares[rows][:, columns])


def colored(shares: Tensor, colors: Tensor | None = None) -> Tensor:
    """Shares [..., regions] as colors [..., 3]; gray where nobody is. colors: [regions, 3], else the palette's."""
    if colors is None:
        colors = torch.tensor([rgb(PALETTE[i % len(PALETTE)]) for i in range(shares.shape[-1])]).reshape(-1, 3)
    return shares @ colors + (1 - shares.sum(dim=-1, keepdim=True)).clamp(0, 1) * NOBODYS


def painted(places: Sequence[Tensor] | Tensor, colors: Sequence[tuple[float, float, float]]) -> Tensor:
    """Masks [height, width] in colors 0..1, each over those before: [height, width, 3]; gray where nothing is."""
    picture = torch.full((*places[0].shape, 3), NOBODYS)
    for place, color in zip(places, colors):
        picture = torch.lerp(picture, torch.tensor(color), place[..., None])
    return picture


def _reduced(mask: Tensor) -> Tensor:
    """A copy of a mask [height, width] as float32, without NaN; a larger one reduced to means of its parts."""
    mask = torch.nan_to_num(mask.float(), nan=0.0, posinf=1.0, neginf=0.0)
    height, width = mask.shape
    scale = MAX_SIDE / max(height, width)
    if scale >= 1:
        return mask.clone()
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(mask[None, None], size=size, mode="area")[0, 0]


def region(
    mask: Tensor, prompt: str, strength: float = 1.0, negative_prompt: str = "", conditioning: Any = None,
    **more: Any,
) -> Region:  # fmt: skip
    """A region of its own copy of a mask [height, width] or [n, height, width], at most MAX_SIDE pixels wide and high.

    Frame by frame, so that a film's masks never exist twice at their full size. more: as Region has it.
    """
    frames = mask.detach().reshape(-1, *mask.shape[-2:])
    frames = frames if len(frames) else frames.new_zeros(1, *mask.shape[-2:])  # a batch of no masks is no place
    mask = torch.stack([_reduced(frame.cpu()) for frame in frames])
    given = None if conditioning is None else tuple(conditioning)
    return Region(mask, prompt.strip(), strength, negative_prompt.strip(), given, **more)
