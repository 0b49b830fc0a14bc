"""Draws the contact sheet: one band per graph, one column per saved result, labeled with seed and settings."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

TILE, GAP, MARGIN, LINE = 224, 6, 24, 20
INK, FAINT, PAPER = (28, 28, 32), (110, 110, 118), (250, 249, 246)


@dataclass(frozen=True)
class Column:
    """One saved result: a heading, its images, `per_line` of them side by side, small print below."""

    heading: str
    notes: str
    images: Sequence[Path]
    per_line: int = 2


@dataclass(frozen=True)
class Band:
    """One graph: a heading, small print, and its results side by side."""

    heading: str
    notes: str
    columns: Sequence[Column]


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def column_size(column: Column) -> tuple[int, int]:
    width = column.per_line * (TILE + GAP) - GAP
    return width, (2 + len(wrapped(column.notes, width))) * LINE + picture_lines(column) * (TILE + GAP)


def picture_lines(column: Column) -> int:
    return math.ceil(len(column.images) / column.per_line)


def wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(20, width // 7))


def band_size(band: Band) -> tuple[int, int]:
    sizes = [column_size(column) for column in band.columns]
    width = sum(size[0] for size in sizes) + MARGIN * max(0, len(sizes) - 1)
    return width, LINE + max((size[1] for size in sizes), default=LINE) + len(wrapped(band.notes, width)) * LINE


def draw_column(sheet: Image.Image, column: Column, left: int, top: int) -> None:
    draw, width = ImageDraw.Draw(sheet), column_size(column)[0]
    draw.text((left, top), column.heading, fill=INK, font=font(15))
    top += LINE
    for index, path in enumerate(column.images):
        with Image.open(path) as image:
            tile = image.convert("RGB")
        tile.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
        y, x = divmod(index, column.per_line)
        sheet.paste(tile, (left + x * (TILE + GAP), top + y * (TILE + GAP)))
    top += picture_lines(column) * (TILE + GAP)
    for line in wrapped(column.notes if column.images else f"no image. {column.notes}", width):
        draw.text((left, top), line, fill=FAINT, font=font(12))
        top += LINE - 3


def draw_sheet(title: str, bands: Sequence[Band], target: Path) -> None:
    """Write the sheet as a PNG."""
    sizes = [band_size(band) for band in bands]
    width = max([size[0] for size in sizes] + [480]) + 2 * MARGIN
    sheet = Image.new("RGB", (width, sum(size[1] + MARGIN for size in sizes) + 3 * MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, fill=INK, font=font(20))
    top = 3 * MARGIN
    for band, (_, height) in zip(bands, sizes):
        y = top
        draw.line((MARGIN, y - 8, width - MARGIN, y - 8), fill=(214, 212, 206))
        draw.text((MARGIN, y), band.heading, fill=INK, font=font(17))
        y += LINE + 4
        for line in wrapped(band.notes, width - 2 * MARGIN):
            draw.text((MARGIN, y), line, fill=FAINT, font=font(13))
            y += LINE
        left = MARGIN
        for column in band.columns:
            draw_column(sheet, column, left, y + 4)
            left += column_size(column)[0] + MARGIN
        top += height + MARGIN
    sheet.save(target)
