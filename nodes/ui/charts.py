"""Small charts as pictures: a curve over iterations, values as bars beside their box. Drawn with Pillow, no more."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .fonts import drawable

PAPER, INK, GRID = (255, 255, 255), (40, 40, 40), (225, 225, 225)
COLOURS = ((48, 99, 142), (209, 73, 91), (237, 174, 73), (0, 121, 107), (140, 90, 160), (110, 110, 110))
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 360, 64, 30, 16, 34  # of a chart and its margins, in pixels


def curves(series: Sequence[Sequence[float]], title: str, below: str) -> Tensor:
    """Lines over 0, 1, 2, ...: [height, width, 3] in 0..1. Values that are not finite leave gaps."""
    canvas = _Canvas(title, [v for line in series for v in line])
    longest = max((len(line) for line in series), default=1)
    x_of = lambda i: canvas.across(i / max(1, longest - 1))  # noqa: E731
    for number, line in enumerate(series):
        for i, (a, b) in enumerate(zip(line, line[1:])):
            if math.isfinite(a) and math.isfinite(b):
                ends = (x_of(i), canvas.up(a), x_of(i + 1), canvas.up(b))
                canvas.draw.line(ends, COLOURS[number % len(COLOURS)], 2)
        for i, value in enumerate(line):
            if math.isfinite(value) and len(line) < 80:
                canvas.dot(x_of(i), canvas.up(value), COLOURS[number % len(COLOURS)])
    for i in sorted({0, longest // 2, longest - 1}):
        canvas.text(x_of(i), HEIGHT - BOTTOM + 4, str(i))
    canvas.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, below)
    return canvas.tensor()


def bars(values: Sequence[float], names: Sequence[str], title: str) -> Tensor:
    """A bar per value, and beside them the box of all: quartiles, median, whiskers to the ends."""
    finite = [v for v in values if math.isfinite(v)]
    canvas = _Canvas(title, [*finite, 0.0] if min(finite, default=0) >= 0 else finite)
    slots = len(values) + 2
    width = (WIDTH - LEFT - RIGHT) / slots
    floor = canvas.up(max(canvas.low, min(canvas.high, 0.0)))
    for i, (value, name) in enumerate(zip(values, names)):
        left = LEFT + (i + 0.15) * width
        if math.isfinite(value):
            top = canvas.up(value)
            canvas.draw.rectangle((left, min(top, floor), left + 0.7 * width, max(top, floor)), COLOURS[0])
        if width > 14 or i % math.ceil(14 / width) == 0:
            canvas.text(left + 0.35 * width, HEIGHT - BOTTOM + 4, name)
    if finite:
        low, first, median, third, high = (canvas.up(float(v)) for v in np.quantile(finite, (0, 0.25, 0.5, 0.75, 1)))
        middle = LEFT + (len(values) + 1) * width
        half = min(0.4 * width, 22)
        canvas.draw.line((middle, low, middle, high), INK, 1)
        canvas.draw.rectangle((middle - half, third, middle + half, first), (200, 214, 226), INK)
        canvas.draw.line((middle - half, median, middle + half, median), COLOURS[1], 2)
        canvas.text(middle, HEIGHT - BOTTOM + 4, "all")
    return canvas.tensor()


class _Canvas:
    """Axes for values between the smallest and the largest."""

    def __init__(self, title: str, values: Sequence[float]) -> None:
        finite = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
        room = (max(finite) - min(finite)) * 0.06 or abs(finite[0]) * 0.1 or 1.0
        self.low, self.high = min(finite) - (room if min(finite) != 0 else 0), max(finite) + room
        self.image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
        self.draw, self.font = ImageDraw.Draw(self.image), ImageFont.load_default(12)
        for step in range(5):
            value = self.low + (self.high - self.low) * step / 4
            y = self.up(value)
            self.draw.line((LEFT, y, WIDTH - RIGHT, y), GRID)
            self.draw.text((LEFT - 6, y), f"{value:.4g}", INK, font=self.font, anchor="rm")
        title, font = drawable(title, title.partition(":")[0], 12)
        self.draw.text((LEFT, 8), title, INK, font=font)

    def up(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)

    def across(self, part: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * part

    def dot(self, x: float, y: float, color: tuple[int, int, int]) -> None:
        self.draw.ellipse((x - 3, y - 3, x + 3, y + 3), color)

    def text(self, x: float, y: float, text: str) -> None:
        self.draw.text((x, y), text, INK, font=self.font, anchor="mt")

    def tensor(self) -> Tensor:
        return torch.from_numpy(np.asarray(self.image).copy()).float() / 255
