"""The region painter's drawing: rows with colors and prompts, the whole prompt, and a small PNG of who owns a pixel.

Its text travels in workflows and comes from anybody, so everything is checked, and nothing is decoded before its size
is known. The format is docs/painting.schema.json.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .masks import MAX_REGIONS
from .prompt_encoding import compose
from .sources import PALETTE

VERSION = 1
MAX_TEXT_LENGTH, MAX_PROMPT_LENGTH, MAX_WHOLE_LENGTH = 8_000_000, 1000, 20_000  # letters
MIN_SIDE, MAX_SIDE = 16, 4096  # pixels
MAX_VALUES = 2**28  # of all masks together
_PREFIX = "data:image/png;base64,"
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


class BadDrawing(ValueError):
    """A drawing that is not as it should be; the text names the field and what is expected."""


@dataclass(frozen=True)
class Row:
    """A prompt and its color. id: the map's value where this row is painted."""

    id: int
    color: str
    prompt: str
    strength: float
    hidden: bool


@dataclass(frozen=True, eq=False)
class Drawing:
    """index: [height, width], the id of the row that owns a pixel, 0 for nobody; None without a map."""

    rows: tuple[Row, ...] = ()
    prompt: str = ""
    index: Tensor | None = None

    @property
    def shown(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.hidden)


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
    if data.get("version", VERSION) != VERSION:
        raise BadDrawing(f"version: {VERSION} is known, not {str(data['version'])[:20]}. Update Fovea.")
    rows = _rows(data.get("regions", []))
    prompt = _text(data.get("prompt", ""), "prompt", MAX_WHOLE_LENGTH)
    drawn = data.get("map", "")
    if not isinstance(drawn, str):
        raise BadDrawing(f"map: should be a PNG as a data URL, not {_kind(drawn)}.")
    if not drawn:
        return Drawing(rows, prompt)
    width, height = (_side(data.get(name), name) for name in ("width", "height"))
    return Drawing(rows, prompt, _index(drawn, width, height))


def _rows(data: Any) -> tuple[Row, ...]:
    if not isinstance(data, Sequence) or isinstance(data, str):
        raise BadDrawing(f"regions: should be a list, not {_kind(data)}.")
    if len(data) > MAX_REGIONS:
        raise BadDrawing(f"regions: {len(data)} are too many, {MAX_REGIONS} at most.")
    rows = tuple(_row(entry, i) for i, entry in enumerate(data))
    ids = [row.id for row in rows]
    twice = next((row_id for row_id in ids if ids.count(row_id) > 1), None)
    if twice is not None:
        raise BadDrawing(f"regions: id {twice} is there twice.")
    return rows


def _row(entry: Any, i: int) -> Row:
    name = f"regions[{i}]"
    if not isinstance(entry, Mapping):
        raise BadDrawing(f"{name}: should be an object, not {_kind(entry)}.")
    row_id = entry.get("id", i + 1)
    if isinstance(row_id, bool) or not isinstance(row_id, int) or not 1 <= row_id <= 255:
        raise BadDrawing(f"{name}.id: should be a whole number from 1 to 255, not {str(row_id)[:20]!r}.")
    color = entry.get("color", PALETTE[i % len(PALETTE)])
    if not isinstance(color, str) or not _COLOUR.fullmatch(color):
        raise BadDrawing(f"{name}.color: should look like #e6194b, not {str(color)[:20]!r}.")
    strength = entry.get("strength", 1.0)
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 10:  # nor NaN
        raise BadDrawing(f"{name}.strength: should be a number from 0 to 10, not {str(strength)[:20]!r}.")
    hidden = entry.get("hidden", False)
    if not isinstance(hidden, bool):
        raise BadDrawing(f"{name}.hidden: should be true or false, not {str(hidden)[:20]!r}.")
    prompt = _text(entry.get("prompt", ""), f"{name}.prompt", MAX_PROMPT_LENGTH)
    return Row(row_id, color.lower(), prompt.strip(), float(strength), hidden)


def _text(value: Any, name: str, longest: int) -> str:
    if not isinstance(value, str):
        raise BadDrawing(f"{name}: should be a text, not {_kind(value)}.")
    if len(value) > longest:
        raise BadDrawing(f"{name}: {len(value)} letters are too many, {longest} at most.")
    return value


def _side(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not MIN_SIDE <= value <= MAX_SIDE:
        raise BadDrawing(f"{name}: should be a whole number from {MIN_SIDE} to {MAX_SIDE}, not {str(value)[:20]!r}.")
    return value


def _index(url: str, width: int, height: int) -> Tensor:
    """The map [height, width] of ids. The PNG's header tells its size before anything of it is decoded."""
    if not url.startswith(_PREFIX):
        raise BadDrawing(f"map: should begin with {_PREFIX}.")
    try:
        data = base64.b64decode(url[len(_PREFIX) :], validate=True)
    except (binascii.Error, ValueError):
        raise BadDrawing("map: its base64 is damaged.") from None
    if len(data) < 26 or data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        raise BadDrawing("map: holds no PNG.")
    if data[24] != 8 or data[25] == 3:  # bits, and the kind that has a palette
        raise BadDrawing("map: should be a PNG of 8-bit gray or colors, without a palette.")
    size = struct.unpack(">II", data[16:24])
    if size != (width, height):
        raise BadDrawing(f"map: is {size[0]} x {size[1]} pixels, width and height say {width} x {height}.")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            values = np.array(picture.convert("RGBA"))  # gray values are ids; of colors red is; clear is nobody's
    except Exception as why:  # whatever a damaged file makes the decoder say
        raise BadDrawing(f"map: the PNG is damaged ({type(why).__name__}).") from None
    return torch.from_numpy(np.where(values[..., 3] < 128, 0, values[..., 0]).astype(np.uint8))


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(
        type(value), "a number"
    )


def masks(drawing: Drawing, width: int, height: int) -> Tensor:
    """A mask per shown row, [rows, height, width], 0 or 1; the map is stretched where sizes differ. Raises BadDrawing
    where they would not fit into memory."""
    if len(drawing.shown) * width * height > MAX_VALUES:
        count = f"{len(drawing.shown)} of {width} x {height} pixels"
        raise BadDrawing(f"regions: {count} are too many: use a smaller size.")
    if drawing.index is None:
        return torch.zeros(len(drawing.shown), height, width)
    index = drawing.index[None, None].float()
    if index.shape[-2:] != (height, width):
        index = F.interpolate(index, size=(height, width), mode="nearest-exact")
    ids = torch.tensor([row.id for row in drawing.shown], dtype=torch.float32)
    return (index[0] == ids[:, None, None]).float()


def prompt_of(drawing: Drawing) -> str:
    """The prompt of the whole picture; where it has none, those of the rows."""
    return drawing.prompt.strip() or compose(row.prompt for row in drawing.shown)
