"""Which parts of a picture a scorer looks at: squares, all over it or where it is salient."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from kornia.contrib import connected_components
from torch import Tensor

SIDE_POWER = 0.3  # DOODL's: sides are (U ** 0.3) between the least and the whole
COARSE = 64  # cells per side on which components are looked for


RESIZE = ("antialiased", "average pooling")


class View(NamedTuple):
    """A square of a picture, in pixels, and what part of the loss it is."""

    top: int
    left: int
    side: int
    weight: float = 1.0


def whole(height: int, width: int) -> list[View]:
    """The whole of a square picture, of another several squares from end to end of its longer side."""
    side, longest = min(height, width), max(height, width)
    count = math.ceil(longest / side)
    starts = [round(i * (longest - side) / max(1, count - 1)) for i in range(count)]
    places = [(start, 0) if height > width else (0, start) for start in starts]
    return [View(top, left, side, 1 / count) for top, left in places]


def cutouts(height: int, width: int, count: int, least: int, generator: torch.Generator) -> list[View]:
    """Random squares as DOODL has them, least: their smallest side."""
    views = []
    for u, v, w in torch.rand(count, 3, generator=generator).tolist():
        side = _side(w, height, width, least)
        views.append(View(int(u * (height - side + 1)), int(v * (width - side + 1)), side, 1 / count))
    return views


def salient_cutouts(saliency: Tensor, count: int, least: int, generator: torch.Generator) -> list[View]:
    """Random squares whose centers are drawn from a saliency map [height, width]; none where all of it is zero."""
    height, width = saliency.shape
    density = _density(saliency).flatten().cpu().double()  # where the generator is
    if not density.sum() > 0:
        return []
    centers = torch.multinomial(density, count, replacement=True, generator=generator).tolist()
    sides = torch.rand(count, generator=generator).tolist()
    return [
        _around(at // width, at % width, _side(w, height, width, least), height, width, 1 / count)
        for at, w in zip(centers, sides)
    ]


def salient_parts(saliency: Tensor, quantile: float, least: int, most: int = 4) -> list[View]:
    """Squares around the connected parts of a map [height, width] above a quantile of its values, the heaviest `most`.

    Weighted by how much saliency they hold; no smaller than `least`. None where all of the map is zero.
    """
    height, width = saliency.shape
    density = _density(saliency)
    scale = max(1.0, max(height, width) / COARSE)
    grid = (max(1, round(height / scale)), max(1, round(width / scale)))
    small = F.adaptive_avg_pool2d(density[None, None], grid)[0, 0]
    if not small.sum() > 0:
        return []
    mask = (small >= torch.quantile(small, quantile)) & (small > 0)
    labels = connected_components(mask[None, None].float(), num_iterations=max(grid))[0, 0]
    parts = []
    for label in labels[mask].unique().tolist():
        part = (labels == label) & mask  # older kornia gives the background the label that the first cell has alone
        at = part.nonzero()
        (top, left), (bottom, right) = at.amin(0).tolist(), (at.amax(0) + 1).tolist()
        side = max(round((bottom - top) * height / grid[0]), round((right - left) * width / grid[1]), least)
        y, x = (top + bottom) / 2 * height / grid[0], (left + right) / 2 * width / grid[1]
        parts.append(_around(y, x, side, height, width, float(small[part].sum())))
    parts = sorted(parts, key=lambda view: -view.weight)[:most]
    total = sum(view.weight for view in parts)
    return [view._replace(weight=view.weight / total) for view in parts]


def look(picture: Tensor, views: list[View], size: int, resize: str = RESIZE[0]) -> Tensor:
    """Views of one picture [3, height, width] at a scorer's size: [views, 3, size, size]. Differentiable.

    resize: "antialiased" is bilinear, "average pooling" the means over cells, as DOODL has it.
    """
    parts = [picture[None, :, v.top : v.top + v.side, v.left : v.left + v.side] for v in views]
    if resize == "average pooling":
        return torch.cat([F.adaptive_avg_pool2d(part, (size, size)) for part in parts])
    return torch.cat([F.interpolate(part, size=(size, size), mode="bilinear", antialias=True) for part in parts])


def letterbox(picture: Tensor, size: int) -> Tensor:
    """All of a picture [3, height, width] in a black square [1, 3, size, size], as the program of HPS v2 does: the
    longer side fitted, bicubic, in the middle. Differentiable."""
    height, width = picture.shape[-2:]
    scale = size / max(height, width)
    fitted = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = F.interpolate(picture[None], size=fitted, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (size - fitted[0]) // 2, (size - fitted[1]) // 2
    return F.pad(small, (left, size - fitted[1] - left, top, size - fitted[0] - top))


def _side(u: float, height: int, width: int, least: int) -> int:
    most = min(height, width)
    least = min(least, most)
    return int(u**SIDE_POWER * (most - least)) + least


def _around(y: float, x: float, side: int, height: int, width: int, weight: float) -> View:
    """The square with this center, moved into the picture."""
    side = min(side, height, width)
    top = min(max(round(y - side / 2), 0), height - side)
    left = min(max(round(x - side / 2), 0), width - side)
    return View(top, left, side, weight)


def _density(saliency: Tensor) -> Tensor:
    return torch.nan_to_num(saliency.detach().float(), nan=0.0, posinf=0.0, neginf=0.0).clamp_min(0)
