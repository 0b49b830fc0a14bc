"""Draws the contact sheet: one band per graph, one column per saved result, labelled with seed and settings."""

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
    """One saved result: a heading, small print below it, its images."""

    heading: str
    notes: str
    images: Sequence[Path]


@dataclass(frozen=True)
class Band:
    """One graph: a heading, small print, and its results side by side."""

    heading: str
    notes: str
    columns: Sequence[Column]


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def across(column: Column) -> int:
    """Images per line of a column: as square a block as possible."""
    return max(1, math.ceil(math.sqrt(len(column.images))))


def column_size(column: Column) -> tuple[int, int]:
    per_line = across(column)
    lines = max(1, math.ceil(len(column.images) / per_line))
    width = per_line * TILE + (per_line - 1) * GAP
    return width, (2 + len(wrapped(column.notes, width))) * LINE + lines * (TILE + GAP)


def wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(20, width // 7))


def band_size(band: Band) -> tuple[int, int]:
    sizes = [column_size(column) for column in band.columns]
    width = sum(size[0] for size in sizes) + MARGIN * max(0, len(sizes) - 1)
    return width, 2 * LINE + max((size[1] for size in sizes), default=LINE) + len(wrapped(band.notes, width)) * LINE


def draw_column(sheet: Image.Image, column: Column, left: int, top: int) -> None:
    draw, width = ImageDraw.Draw(sheet), column_size(column)[0]
    draw.text((left, top), column.heading, fill=INK, font=font(15))
    top += LINE
    for line in wrapped(column.notes, width):
        draw.text((left, top), line, fill=FAINT, font=font(12))
        top += LINE
    per_line = across(column)
    for index, path in enumerate(column.images):
        with Image.open(path) as image:
            tile = image.convert("RGB")
        tile.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
        x, y = index % per_line, index // per_line
        sheet.paste(tile, (left + x * (TILE + GAP), top + y * (TILE + GAP)))
    if not column.images:
        draw.text((left, top), "no image", fill=FAINT, font=font(12))


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
