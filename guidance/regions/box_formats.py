"""Boxes with descriptions as nodes, detectors and language models write them, read as fractions of the picture."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .sources import Box, rgb

WRAPPERS = ("elements", "boxes", "objects", "regions", "items")  # keys under which lists of boxes lie
DESCRIPTIONS = ("desc", "prompt", "label", "caption", "description", "text")
MAX_THOUSANDTHS = 1020  # models pass 1000 by a little; 1024 is pixels
MOSS_SPACE, MOSS_ORDER = "abs_centralized", "yxyx"
_FENCE = re.compile(r"```\w*\s(.*?)```", re.DOTALL)
_OPENING = re.compile(r"[\[{]")
_KEY = re.compile(r'[\s,]*(?:\[\s*){0,2}\{\s*"[^"\\]*"\s*:')  # what only JSON begins with
_DECODER = json.JSONDecoder()
_BOX_KEYS = ({"bbox"}, {"box_2d"}, {"box"}, {"bboxes"}, {"x", "y", "width", "height"})
_HEX = re.compile(r"#?[0-9a-fA-F]{6}")
_FORMS = (
    "x, y, width and height in pixels, a bbox (top, left, bottom, right from 0 to 1000) or a box (left, top, right, "
    "bottom from 0 to 1, or in percent)"
)


def parse_boxes(data: Any, width: int, height: int) -> list[Box]:
    """Boxes in drawing order, from what nodes and models give.

    Elements {"bbox": [ymin, xmin, ymax, xmax] in thousandths, "desc": ...}, as "box_2d" too; boxes {"x", "y", "width",
    "height"} in pixels of a width x height picture, maybe with {"metadata": {"desc": ...}} or a "label"; {"box": [left,
    top, right, bottom]} in fractions or percent; lists of lists of them (frames: the first counts); Florence-2's
    {"bboxes": [[left, top, right, bottom] in pixels], "labels"}; the prompts that layout_prompt writes; or JSON text of
    any, with words or a code fence around. Raises ValueError that tells what was found instead.
    """
    if isinstance(data, str):
        data = _read_json(data)
    entries, centered = _entries(data)
    return [_box(entry, number, width, height, centered) for number, entry in enumerate(entries, 1)]


def _read_json(text: str) -> Any:
    """The layout in a text, else what the text is as a whole, for an error that says so."""
    layout = find_layout(text)
    if layout is not None:
        return layout
    text = unfenced(text).strip()
    try:
        return json.loads(text) if text else []
    except (ValueError, RecursionError) as why:
        raise _not_json(why) from None


def find_layout(text: str) -> Any:
    """The first JSON in a text that has boxes, in a code fence if there is one; words around it do not matter. None
    where there is none. Raises ValueError for JSON that breaks off, or goes on with more JSON: what can be read is a
    part of a layout."""
    found = _first_layout(unfenced(text))
    return _first_layout(text) if found is None else found


def _first_layout(text: str) -> Any:
    at, found = 0, None
    while opening := _OPENING.search(text, at):
        try:
            data, at = _DECODER.raw_decode(text, opening.start())
            is_layout = _has_boxes(data)
        except (ValueError, RecursionError) as why:
            if _KEY.match(text, opening.start()):
                raise _not_json(why) from None
            at = opening.end()  # words in brackets
            continue
        if is_layout and found is not None:
            raise _not_json("there is more behind the first box or list. Write one list of all boxes")
        if is_layout:
            found = data
            if not _KEY.match(text, at):  # words
                break
    return found


def _has_boxes(data: Any) -> bool:
    if isinstance(data, Mapping):
        return any(keys <= data.keys() for keys in _BOX_KEYS) or any(map(_has_boxes, data.values()))
    return _is_list(data) and any(map(_has_boxes, data))


def _not_json(why: object) -> ValueError:
    return ValueError(f"The boxes are no valid JSON: {why}.")


def unfenced(text: str) -> str:
    """What a text has between the first ```, with lines keeping their numbers; all of it where there are none."""
    fence = _FENCE.search(text)
    return "\n" * text.count("\n", 0, fence.start(1)) + fence[1] if fence else text


def _entries(data: Any) -> tuple[Sequence[Any], bool]:
    """The list of boxes in what was given, and whether their bbox is in pixels from the center, as MOSS-Image's are."""
    centered = False
    if isinstance(data, Mapping):
        if len(data) == 1 and isinstance(only := next(iter(data.values())), Mapping):  # {"<OD>": {...}} of Florence-2
            data = only
        if isinstance(caption := data.get("compositional_deconstruction"), Mapping):  # Ideogram 4
            data = caption
        centered = _is_centered(data)
        if _is_list(data.get("bboxes")):
            return _detections(data["bboxes"], data.get("labels")), False
        data = next((data[key] for key in WRAPPERS if _is_list(data.get(key))), [data])
    if _is_list(data) and data and _is_list(data[0]):
        data = data[0]
    if not _is_list(data):
        raise ValueError(f"Boxes are expected as a list, got {type(data).__name__}.")
    return data, centered


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _is_centered(data: Mapping[str, Any]) -> bool:
    """Whether this is a layout for MOSS-Image. Raises ValueError for one in other units than that model reads."""
    if "bbox_coord_space" not in data and "bbox_format" not in data:
        return False
    space, order = data.get("bbox_coord_space", MOSS_SPACE), data.get("bbox_format", MOSS_ORDER)
    if (space, order) != (MOSS_SPACE, MOSS_ORDER):
        raise ValueError(
            f"The layout has bbox_coord_space {space!r} and bbox_format {order!r}; only {MOSS_SPACE!r} and "
            f"{MOSS_ORDER!r} can be read."
        )
    return True


def _detections(boxes: Sequence[Any], labels: Any) -> list[dict[str, Any]]:
    """Florence-2's answer, whose boxes are left, top, right, bottom in pixels, as one entry per box."""
    labels = labels if _is_list(labels) else []
    made = []
    for i, box in enumerate(boxes):
        edges = _numbers(box)
        if edges is None:
            raise ValueError(f"Box {i + 1} of bboxes needs left, top, right and bottom in pixels, got {_short(box)}.")
        left, top, right, bottom = edges
        label = labels[i] if i < len(labels) else ""
        made.append({"x": left, "y": top, "width": right - left, "height": bottom - top, "label": label})
    return made


def _box(entry: Any, number: int, width: int, height: int, centered: bool) -> Box:
    edges = _edges(entry, number, width, height, centered) if isinstance(entry, Mapping) else None
    if edges is None:
        raise ValueError(f"Box {number} needs {_FORMS}; this is none: {_short(entry)}.")
    left, top, right, bottom = edges
    box = (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
    return Box(*box, _description(entry, centered), _color(entry))


def _edges(
    entry: Mapping[str, Any], number: int, width: int, height: int, centered: bool
) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom as fractions of the picture; None where there is no box."""
    if "bbox" in entry or "box_2d" in entry:
        values = _numbers(entry.get("bbox", entry.get("box_2d")))
        if values is None:
            return None
        top, left, bottom, right = values
        if centered:
            return left / width + 0.5, top / height + 0.5, right / width + 0.5, bottom / height + 0.5
        if 0 < max(values) <= 1 and min(values) >= 0:
            raise ValueError(f"Box {number}: a bbox counts from 0 to 1000. Fractions are written as box: left, top, "
                             f"right, bottom. Got {_short(entry)}.")  # fmt: skip
        if max(values) > MAX_THOUSANDTHS:
            raise ValueError(f"Box {number}: a bbox counts from 0 to 1000. Pixels are written as x, y, width and "
                             f"height. Got {_short(entry)}.")  # fmt: skip
        return left / 1000, top / 1000, right / 1000, bottom / 1000
    if "box" in entry:
        return fractions(entry["box"]) if _is_list(entry["box"]) else None
    values = _numbers([entry.get(key) for key in ("x", "y", "width", "height")])
    if values is None:
        return None
    x, y, wide, high = values
    return x / width, y / height, (x + wide) / width, (y + high) / height


def fractions(values: Sequence[Any]) -> tuple[float, float, float, float] | None:
    """Four edges written as fractions, 0.25, or all in percent, "25%"; None where they are not that."""
    texts = [str(value).strip() for value in values]
    percent = all(text.endswith("%") for text in texts)
    edges = _numbers([text[:-1] if percent else text for text in texts])
    if edges is None:
        return None
    left, top, right, bottom = (edge / 100 if percent else edge for edge in edges)
    return (left, top, right, bottom) if all(0 <= edge <= 1 for edge in (left, top, right, bottom)) else None


def _numbers(values: Any) -> tuple[float, float, float, float] | None:
    """Four numbers of a size that pixels may have, or None."""
    if not _is_list(values) or len(values) != 4 or any(isinstance(value, bool) for value in values):
        return None
    try:
        first, second, third, fourth = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        return None
    return (first, second, third, fourth) if all(abs(n) < 1e9 for n in (first, second, third, fourth)) else None


def _description(entry: Mapping[str, Any], centered: bool) -> str:
    """What is in the box. Lines to be written there that the description lacks follow it in quotes, each in its own."""
    metadata = entry.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    is_text = "text" in (entry.get("type"), metadata.get("type"), entry.get("label") if centered else None)
    # MOSS-Image's label is a kind of thing, not a description.
    keys = [key for key in DESCRIPTIONS if not (is_text and key == "text") and not (centered and key == "label")]
    said = next((text for part in (metadata, entry) for key in keys if (text := _text(part.get(key)))), "")
    words = (_text(entry.get("text")) or _text(metadata.get("text"))) if is_text else ""
    missing = [f'"{line.strip()}"' for line in words.splitlines() if line.strip() and line.strip() not in said]
    return " ".join([said, *missing]).strip()


def _text(value: Any) -> str:
    return str(value).strip() if isinstance(value, (str, int, float)) else ""


def _color(entry: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """The first color of the box's palette."""
    metadata = entry.get("metadata")
    palette = entry.get("color_palette") or (metadata.get("palette") if isinstance(metadata, Mapping) else None)
    first = palette[0] if palette and _is_list(palette) else None
    return rgb(first) if isinstance(first, str) and _HEX.fullmatch(first) else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
