"""Heat maps as pictures: colors, overlays, labeled sheets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from .fonts import drawable

# Dark blue over red to pale yellow, evenly rising in lightness, so that it also reads in gray.
_ANCHORS = torch.tensor(
    [
        [8, 8, 40],
        [52, 16, 96],
        [112, 24, 112],
        [172, 44, 96],
        [222, 80, 64],
        [248, 136, 40],
        [252, 196, 72],
        [252, 252, 180],
    ]
)
LABEL, GAP = 22, 4  # pixels
PAPER, INK = 255, 30
FONT_SIZE = 13


def colors(heat: Tensor) -> Tensor:
    """Values 0..1 [..., height, width] as colors 0..1 [..., height, width, 3]."""
    place = heat.clamp(0, 1) * (len(_ANCHORS) - 1)
    low = place.floor().long().clamp(max=len(_ANCHORS) - 2)
    part = (place - low).unsqueeze(-1)
    anchors = _ANCHORS.to(heat) / 255
    return anchors[low] * (1 - part) + anchors[low + 1] * part


def spread(heat: Tensor) -> Tensor:
    """Each map of [n, height, width] from its smallest to its largest value onto 0..1; a flat map becomes 0."""
    low, high = heat.amin(dim=(-2, -1), keepdim=True), heat.amax(dim=(-2, -1), keepdim=True)
    return (heat - low) / (high - low).clamp_min(1e-12)


def enlarge(heat: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [n, height, width] at another size, every value a rectangle."""
    return F.interpolate(heat.unsqueeze(1), size=size, mode="nearest").squeeze(1)


def overlay(heat: Tensor, picture: Tensor, strength: float = 0.65) -> Tensor:
    """Colors of a map 0..1 [height, width] over a grayed picture [height, width, 3] of the same size."""
    gray = picture.mean(dim=-1, keepdim=True).expand_as(picture)
    return colors(heat) * strength + gray * (1 - strength)


def sheet(rows: Sequence[tuple[str, Sequence[Tensor]]], columns: Sequence[str]) -> Tensor:
    """Pictures 0..1 [height, width, 3] of one size, in labeled rows and columns, as one picture.

    A row whose name cannot be drawn has its number.
    """
    height, width = rows[0][1][0].shape[:2]
    names = [drawable(name, str(i + 1), FONT_SIZE) for i, (name, _) in enumerate(rows)]
    side = 8 + max(int(font.getlength(name)) + 4 for name, font in names)
    size = (side + len(columns) * (width + GAP), LABEL + len(rows) * (height + GAP))
    image = Image.new("RGB", size, (PAPER,) * 3)
    draw = ImageDraw.Draw(image)
    for j, column in enumerate(columns):
        name, font = drawable(column, str(j + 1), FONT_SIZE)
        draw.text((side + j * (width + GAP) + width // 2, LABEL // 2), name, (INK,) * 3, font, anchor="mm")
    for i, ((name, font), (_, pictures)) in enumerate(zip(names, rows)):
        top = LABEL + i * (height + GAP)
        draw.text((4, top + height // 2), name, (INK,) * 3, font, anchor="lm")
        for j, picture in enumerate(pictures):
            tile = (picture.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
            image.paste(Image.fromarray(tile), (side + j * (width + GAP), top))
    return torch.from_numpy(np.array(image).astype(np.float32) / 255)


def legend(picture: Tensor, names: Sequence[str], colors: Sequence[str]) -> Tensor:
    """A picture with a line per name below it, each with its color (hexadecimal; they repeat).

    A name that cannot be drawn is told by its number.
    """
    height, width = picture.shape[:2]
    image = Image.new("RGB", (width, height + LABEL * len(names) + GAP), (PAPER,) * 3)
    draw = ImageDraw.Draw(image)
    image.paste(Image.fromarray((picture.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()))
    for i, given in enumerate(names):
        name, font = drawable(given, str(i + 1), FONT_SIZE)
        top = height + i * LABEL
        draw.rectangle([GAP, top + 3, GAP + LABEL - 6, top + LABEL - 3], fill=colors[i % len(colors)])
        draw.text((GAP + LABEL, top + LABEL // 2), name, (INK,) * 3, font, anchor="lm")
    return torch.from_numpy(np.array(image).astype(np.float32) / 255)
