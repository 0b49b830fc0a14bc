"""The region painter's drawing: rows with colors and prompts, the whole prompt, and each row's place: shapes, and a
small PNG of what is painted.

Its text travels in workflows and comes from anybody, so everything is checked, and nothing is decoded before its size
is known. The format is docs/painting.schema.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import painter_png
from .masks import MAX_REGIONS
from .painter_png import BadPng
from .prompt_encoding import compose
from .sources import PALETTE

VERSION, FIRST_VERSION = 2, 2  # of a drawing that says none: the first, whatever comes later
MAX_TEXT_LENGTH, MAX_PROMPT_LENGTH, MAX_WHOLE_LENGTH = 8_000_000, 1000, 20_000  # letters
MIN_SIDE, MAX_SIDE = 16, 4096  # pixels
MAX_VALUES = 2**28  # of all masks together
MAX_SHAPES, MAX_LORAS = 64, 8  # of a row
MAX_LORA_LENGTH, MAX_LORA_STRENGTH = 300, 20
MAX_EDGE = 4  # how far a shape may lie beyond the picture, in pictures
KINDS = ("rectangle", "ellipse")
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


class BadDrawing(ValueError):
    """A drawing that is not as it should be; the text names the field and what is expected."""


@dataclass(frozen=True)
class Shape:
    """A rectangle, or the ellipse in it: left, top, width and height as fractions of the picture."""

    kind: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Row:
    """A region. is_color_of_object: what is here has the row's color. loras: names of files and their strengths. mask:
    [height, width], 0..255, what is painted; None for nothing."""

    id: int
    color: str
    prompt: str
    strength: float
    hidden: bool
    negative_prompt: str = ""
    start_percent: float = 0.0
    end_percent: float = 1.0
    is_color_of_object: bool = False
    loras: tuple[tuple[str, float], ...] = ()
    shapes: tuple[Shape, ...] = ()
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Drawing:
    """Rows from back to front."""

    rows: tuple[Row, ...] = ()
    prompt: str = ""

    @property
    def shown(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.hidden)


# --- reading ----------------------------------------------------------------------------------------------------------


def parse(text: str) -> Drawing:
    """A drawing from its JSON text; "" is an empty one. Raises BadDrawing."""
    if not text.strip():
        return Drawing()
    if len(text) > MAX_TEXT_LENGTH:
        raise BadDrawing(f"the text is {len(text)} letters long, {MAX_TEXT_LENGTH} are the most.")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as why:
        raise BadDrawing(f"the text is no JSON ({why}).") from None
    if not isinstance(data, Mapping):
        raise BadDrawing(f"the text should be a JSON object, not {_kind(data)}.")
    version = data.get("version", FIRST_VERSION)
    if isinstance(version, bool) or version not in range(FIRST_VERSION, VERSION + 1):
        raise BadDrawing(f"version: {VERSION} is the newest known, not {str(version)[:20]}. Update Fovea.")
    return Drawing(_rows(data.get("regions", []), data), _text(data, "prompt", "", MAX_WHOLE_LENGTH))


def _rows(entries: Any, drawing: Mapping[str, Any]) -> tuple[Row, ...]:
    """drawing: where the size of masks is."""
    _refuse_other_than_objects(entries, "regions", MAX_REGIONS)
    size = None
    painted = sum(1 for entry in entries if entry.get("mask", "") != "")
    if painted:
        size = (_side(drawing, "width"), _side(drawing, "height"))
        if painted * size[0] * size[1] > MAX_VALUES:
            raise BadDrawing(f"regions: {painted} masks of {size[0]} x {size[1]} pixels are too many.")
    rows = tuple(_row(entry, i, size) for i, entry in enumerate(entries))
    ids = [row.id for row in rows]
    twice = next((row_id for row_id in ids if ids.count(row_id) > 1), None)
    if twice is not None:
        raise BadDrawing(f"regions: id {twice} is there twice.")
    return rows


def _row(entry: Mapping[str, Any], i: int, size: tuple[int, int] | None) -> Row:
    name = f"regions[{i}]"
    row_id = entry.get("id", i + 1)
    if isinstance(row_id, bool) or not isinstance(row_id, int) or not 1 <= row_id <= 255:
        raise BadDrawing(f"{name}.id: should be a whole number from 1 to 255, not {str(row_id)[:20]!r}.")
    color = entry.get("color", PALETTE[i % len(PALETTE)])
    if not isinstance(color, str) or not _COLOR.fullmatch(color):
        raise BadDrawing(f"{name}.color: should look like #e6194b, not {str(color)[:20]!r}.")
    return Row(
        id=row_id,
        color=color.lower(),
        prompt=_text(entry, "prompt", name, MAX_PROMPT_LENGTH).strip(),
        strength=_number(entry, "strength", name, 1.0, 0, 10),
        hidden=_flag(entry, "hidden", name),
        negative_prompt=_text(entry, "negative_prompt", name, MAX_PROMPT_LENGTH).strip(),
        start_percent=_number(entry, "start_percent", name, 0.0, 0, 1),
        end_percent=_number(entry, "end_percent", name, 1.0, 0, 1),
        is_color_of_object=_flag(entry, "is_color_of_object", name),
        loras=_list(entry, "loras", name, MAX_LORAS, _lora),
        shapes=_list(entry, "shapes", name, MAX_SHAPES, _shape),
        mask=None if size is None else _mask(entry.get("mask", ""), f"{name}.mask", size),
    )


def _lora(entry: Mapping[str, Any], name: str) -> tuple[str, float]:
    if not (lora := _text(entry, "name", name, MAX_LORA_LENGTH)):
        raise BadDrawing(f"{name}.name: should be that of a file.")
    return lora, _number(entry, "strength", name, 1.0, -MAX_LORA_STRENGTH, MAX_LORA_STRENGTH)


def _shape(entry: Mapping[str, Any], name: str) -> Shape:
    kind = entry.get("kind")
    if kind not in KINDS:
        raise BadDrawing(f"{name}.kind: should be {' or '.join(KINDS)}, not {str(kind)[:20]!r}.")
    x, y = (_number(entry, field, name, None, -MAX_EDGE, MAX_EDGE) for field in ("x", "y"))
    width, height = (_number(entry, field, name, None, 0, MAX_EDGE) for field in ("width", "height"))
    return Shape(kind, (x, y, width, height))


# --- the kinds of fields ----------------------------------------------------------------------------------------------


def _text(entry: Mapping[str, Any], field: str, name: str, longest: int) -> str:
    value, name = entry.get(field, ""), f"{name}.{field}" if name else field
    if not isinstance(value, str):
        raise BadDrawing(f"{name}: should be a text, not {_kind(value)}.")
    if len(value) > longest:
        raise BadDrawing(f"{name}: {len(value)} letters are too many, {longest} at most.")
    return value


def _number(entry: Mapping[str, Any], field: str, name: str, usual: float | None, low: float, high: float) -> float:
    """usual: where the field is missing; None: it must not be."""
    value = entry.get(field, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:  # nor NaN
        raise BadDrawing(f"{name}.{field}: should be a number from {low:g} to {high:g}, not {str(value)[:20]!r}.")
    return float(value)


def _flag(entry: Mapping[str, Any], field: str, name: str) -> bool:
    value = entry.get(field, False)
    if not isinstance(value, bool):
        raise BadDrawing(f"{name}.{field}: should be true or false, not {str(value)[:20]!r}.")
    return value


def _refuse_other_than_objects(values: Any, name: str, longest: int) -> None:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise BadDrawing(f"{name}: should be a list, not {_kind(values)}.")
    if len(values) > longest:
        raise BadDrawing(f"{name}: {len(values)} are too many, {longest} at most.")
    for i, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise BadDrawing(f"{name}[{i}]: should be an object, not {_kind(value)}.")


def _list(
    entry: Mapping[str, Any], field: str, name: str, longest: int, read: Callable[[Mapping[str, Any], str], Any]
) -> tuple[Any, ...]:
    values, name = entry.get(field, []), f"{name}.{field}"
    _refuse_other_than_objects(values, name, longest)
    return tuple(read(value, f"{name}[{i}]") for i, value in enumerate(values))


def _side(data: Mapping[str, Any], name: str) -> int:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not MIN_SIDE <= value <= MAX_SIDE:
        raise BadDrawing(f"{name}: should be a whole number from {MIN_SIDE} to {MAX_SIDE}, not {str(value)[:20]!r}.")
    return value


def _mask(url: Any, name: str, size: tuple[int, int]) -> Tensor | None:
    if url == "":
        return None
    if not isinstance(url, str):
        raise BadDrawing(f"{name}: should be a PNG as a data URL, not {_kind(url)}.")
    try:
        return torch.from_numpy(painter_png.gray(url, size))
    except BadPng as why:
        raise BadDrawing(f"{name}: {why}") from None


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(
        type(value), "a number"
    )


# --- places -----------------------------------------------------------------------------------------------------------


def masks(drawing: Drawing, width: int, height: int) -> Tensor:
    """A mask per shown row, [rows, height, width], 0..1; what is painted is stretched where sizes differ. In front of
    others or behind: a mask tells nothing of it. Raises BadDrawing where they would not fit into memory."""
    rows = drawing.shown
    if len(rows) * width * height > MAX_VALUES:
        raise BadDrawing(f"regions: {len(rows)} of {width} x {height} pixels are too many: use a smaller size.")
    made = torch.zeros(len(rows), height, width)
    for place, row in zip(made, rows):
        if row.mask is not None:
            place.copy_(_stretched(row.mask, width, height) / 255)
        for shape in row.shapes:
            place[_inside(shape, width, height)] = 1
    return made


def _stretched(values: Tensor, width: int, height: int) -> Tensor:
    values = values[None, None].float()
    if values.shape[-2:] == (height, width):
        return values[0, 0]
    return F.interpolate(values, size=(height, width), mode="nearest-exact")[0, 0]


def _inside(shape: Shape, width: int, height: int) -> Tensor:
    """Whose pixels a shape has [height, width], as web/js/painter/places.js has them: a rectangle up to the nearest
    edges of pixels, an ellipse the pixels with their middle inside."""
    x, y, w, h = shape.box
    left, top, right, bottom = x * width, y * height, (x + w) * width, (y + h) * height
    if shape.kind == "rectangle":
        columns, rows = torch.arange(width), torch.arange(height)
        across = (columns >= np.floor(left + 0.5)) & (columns < np.floor(right + 0.5))
        down = (rows >= np.floor(top + 0.5)) & (rows < np.floor(bottom + 0.5))
        return down[:, None] & across
    rx, ry = (right - left) / 2, (bottom - top) / 2
    if rx < 0.5 or ry < 0.5:
        return torch.zeros(height, width, dtype=torch.bool)
    dx = (torch.arange(width, dtype=torch.float64) + 0.5 - (left + right) / 2) / rx
    dy = (torch.arange(height, dtype=torch.float64) + 0.5 - (top + bottom) / 2) / ry
    return dx**2 + dy[:, None] ** 2 <= 1


def prompt_of(drawing: Drawing, before: Iterable[str] = ()) -> str:
    """The prompt of the whole picture; where it has none, those of the regions before it and of the rows."""
    return drawing.prompt.strip() or compose([*before, *(row.prompt for row in drawing.shown)])
