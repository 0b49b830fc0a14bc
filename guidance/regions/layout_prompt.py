"""Regions as the layouts that newer models read from the prompt themselves: a box and a description for each.

Formats. Elements: ComfyUI's Create Bounding Boxes. FLUX 3: docs.bfl.ai/flux_3/flux3_image_bounding_boxes and
black-forest-labs/flux-3-image-klein, src/flux3/bbox.py. Ideogram 4: docs.ideogram.ai/prompting/json-prompting and
ComfyUI's Build JSON Prompt (Ideogram). MOSS-Image: ComfyUI's help page of MOSS-Image Layout Prompt; its JSON keys as
the package moss-image-mlx 0.2.0 checks them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .box_formats import MOSS_ORDER, MOSS_SPACE
from .masks import Regions
from .prompt_encoding import compose
from .sources import Box

GRID = 1000
_UNCITED = r"(?!\s*<obj_\d+>)"
_QUOTED = re.compile(r'"([^"]*[^"\s][^"]*)"')


class Placed(NamedTuple):
    """A region's number, counted from 1 as the regions come, and its box."""

    number: int
    box: Box

    @property
    def id(self) -> str:
        """As words cite it in FLUX 3's prompts: <obj_1>."""
        return f"obj_{self.number}"

    @property
    def words(self) -> str:
        """What is to be written there: what the description has in double quotes, a line for each; "" for nothing."""
        return "\n".join(found.strip() for found in _QUOTED.findall(self.box.prompt))


def place(regions: Regions) -> tuple[list[Placed], list[str]]:
    """The boxes around the regions, in paint order, and what there is to say about regions that got none."""
    placed: list[Placed] = []
    notes = [] if len(regions) else regions.idle()
    for number, region in enumerate(regions.items, 1):
        if not region.prompt:
            notes.append(f"region {number} has no prompt: a layout has nothing to say about its place.")
        elif idle := Regions((region,)).idle():  # by itself: what others cover is behind them, and still there
            notes += idle
        else:
            placed.append(Placed(number, mask_box(region.mask, region.prompt, region.color)))
    return placed, notes


def mask_box(mask: Tensor, prompt: str = "", color: tuple[float, float, float] | None = None) -> Box:
    """The box around a mask [n, height, width], of the first of several that is not black.

    A pixel that the edge cuts counts in part, so this is what box_mask made it of. Pixels of less than half of the
    largest value are outside.
    """
    lit = [one for one in mask if float(one.max()) > 0]
    if not lit:
        return Box(0.0, 0.0, 0.0, 0.0, prompt, color)
    top, bottom = _extent(lit[0].amax(dim=1))
    left, right = _extent(lit[0].amax(dim=0))
    return Box(left, top, right, bottom, prompt, color)


def _extent(profile: Tensor) -> tuple[float, float]:
    """Where a row of values 0..1 begins and ends, as fractions of its length."""
    values = (profile.double() / profile.max()).clamp(0, 1).tolist()
    inside = [i for i, value in enumerate(values) if value >= 0.5]
    first, last = inside[0], inside[-1]
    if first == last:  # both edges may lie in it
        return first / len(values), (last + 1) / len(values)
    before = values[first - 1] if first else 0.0
    after = values[last + 1] if last + 1 < len(values) else 0.0
    start, stop = first + 1 - values[first] - before, last + values[last] + after
    return max(0.0, start / len(values)), min(1.0, stop / len(values))


def elements(placed: Sequence[Placed]) -> list[dict[str, Any]]:
    """As ComfyUI's Create Bounding Boxes gives them: type, bbox [ymin, xmin, ymax, xmax] of 1000, desc."""
    made = []
    for one in placed:
        element: dict[str, Any] = {"type": "text" if one.words else "obj", "bbox": thousandths(one.box)}
        if one.words:
            element["text"] = one.words
        element["desc"] = one.box.prompt
        if one.box.color is not None:
            element["color_palette"] = ["#" + "".join(f"{round(255 * c):02X}" for c in one.box.color)]
        made.append(element)
    return made


def thousandths(box: Box) -> list[int]:
    """Top, left, bottom, right of 1000, inside of the picture and at least 2 apart: 0, 0, 1, 1 reads as fractions."""
    top, bottom = _apart(box.top * GRID, box.bottom * GRID, 0, GRID, 2)
    left, right = _apart(box.left * GRID, box.right * GRID, 0, GRID, 2)
    return [top, left, bottom, right]


def _apart(start: float, stop: float, lowest: int, highest: int, gap: int) -> tuple[int, int]:
    """Both rounded, within the limits, and at least a gap apart."""
    first = min(max(round(start), lowest), highest - gap)
    return first, max(min(round(stop), highest), first + gap)


def flux3(prompt: str, placed: Sequence[Placed]) -> str:
    """The prompt, whose words cite the boxes, a space, and the boxes as a JSON table."""
    if not placed:
        return prompt
    rows = [{"id": one.id, "bbox": thousandths(one.box), "desc": one.box.prompt} for one in placed]
    return f"{cite(prompt, placed)} {json.dumps(rows, ensure_ascii=False)}"


def cite(prompt: str, placed: Sequence[Placed]) -> str:
    """The prompt with <obj_N> behind the words of every box that it does not cite yet.

    Words that it lacks are appended; an empty prompt is made of them.
    """
    missing = [one for one in placed if f"<{one.id}>" not in prompt]
    taken = [span for one in placed for span in _spans(prompt, one.box.prompt, rf"(?=\s*<{one.id}>)")]
    cited: list[tuple[int, str]] = []
    appended = []
    for one in sorted(missing, key=lambda one: -len(one.box.prompt)):  # "a red star" before the "star" in it
        spans = _spans(prompt, one.box.prompt, _UNCITED)
        free = next((span for span in spans if all(span[1] <= start or span[0] >= stop for start, stop in taken)), None)
        if free is None:
            appended.append(one)
        else:
            taken.append(free)
            cited.append((free[1], one.id))
    for stop, name in sorted(cited, reverse=True):
        prompt = f"{prompt[:stop]} <{name}>{prompt[stop:]}"
    added = compose(f"{one.box.prompt} <{one.id}>" for one in missing if one in appended)
    prompt = prompt.strip()
    return f"{prompt.rstrip('.,')}, {added}" if prompt and added else prompt or added


def _spans(text: str, phrase: str, behind: str) -> list[tuple[int, int]]:
    """Where a phrase stands in the text, as whole words. behind: a pattern of what follows."""
    pattern = r"\s+".join(re.escape(word) for word in phrase.split())
    found = re.finditer(rf"(?<!\w){pattern}(?!\w){behind}", text, re.IGNORECASE)
    return [match.span() for match in found]


def moss_image(
    prompt: str, placed: Sequence[Placed], width: int, height: int, characters: frozenset[int] = frozenset()
) -> str:
    """JSON with the prompt as summary and an item per box, in pixels from the center of a width x height picture.

    characters: numbers of the regions that are characters rather than objects.
    """
    if not placed:
        return prompt
    items = []
    for one in placed:
        item: dict[str, Any] = {"label": "character" if one.number in characters else "object"}
        if one.words:
            item = {"label": "text", "text": one.words}
        items.append({**item, "caption": one.box.prompt, "bbox": centered(one.box, width, height)})
    caption = prompt.strip() or compose(one.box.prompt for one in placed)
    layout = {
        "summary": {"caption": caption}, "items": items, "bbox_format": MOSS_ORDER, "bbox_coord_space": MOSS_SPACE,
    }  # fmt: skip
    return json.dumps(layout, ensure_ascii=False)


def centered(box: Box, width: int, height: int) -> list[int]:
    """Top, left, bottom, right in pixels from the center of the picture, y down, at least 1 apart."""
    spans = []
    for start, stop, size in ((box.top, box.bottom, height), (box.left, box.right, width)):
        low = -(size // 2)
        spans.append(_apart(start * size - size / 2, stop * size - size / 2, low, low + size, 1))
    (top, bottom), (left, right) = spans
    return [top, left, bottom, right]


def ideogram4(prompt: str, placed: Sequence[Placed], background: str = "") -> str:
    """JSON with the prompt as description of the whole, the background and the elements."""
    caption: dict[str, Any] = {"high_level_description": prompt.strip()} if prompt.strip() else {}
    caption["compositional_deconstruction"] = {"background": background.strip(), "elements": elements(placed)}
    return json.dumps(caption, ensure_ascii=False, separators=(",", ":"))
