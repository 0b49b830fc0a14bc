"""Places in words: a layout as lines such as "left third: a lamp", as people and language models write it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .box_formats import find_layout, fractions, parse_boxes, unfenced
from .sources import Box

Span = tuple[float, float]  # where something begins and ends, as fractions of a side
WHOLE: Span = (0.0, 1.0)
SIDES = {"left": "x", "right": "x", "top": "y", "bottom": "y"}
SAME = {"upper": "top", "lower": "bottom", "centre": "center", "middle": "center", "central": "center"}
COUNTS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
PARTS = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6}
STRIPS = {"column": "x", "row": "y"}
EVERYWHERE = frozenset({"background", "everywhere", "whole", "all", "full"})
FILLERS = frozenset(
    ("the", "of", "in", "at", "on", "a", "an", "to", "and", "side", "hand", "part", "area", "corner")
    + ("picture", "image", "frame", "canvas")
)
POSSIBLE = (
    "Possible are: left, right third, bottom half, top left quarter, left 30%, center, middle third column, row 2 of "
    "3, a box 0.1,0.2,0.5,0.9 (left, top, right, bottom), background; and over several prompts: columns, rows, grid 2x3"
)
_JSON = re.compile(r"\s*(?:\{|\[\s*[\[{\]])")
_BOX = re.compile(r"(?:box\s*)?[\[(]?([\d.,\s%]+)[\])]?")
_STRIP = re.compile(r"(column|row)\s+(\d{1,4})\s*(?:of|/)\s*(\d{1,4})\b")
_SPLIT = re.compile(r"(columns|rows|grid)\b\s*(.*)")
_GRID = re.compile(r"(\d{1,4})\s*(?:x|\*|by)\s*(\d{1,4})")
_BULLET = re.compile(r"(?:[-*]|\d+[.)])\s+")
_SIZE = re.compile(r"\b(?:(\d{1,4})/(\d{1,4})\b|(\d{1,4}(?:\.\d{1,9})?)\s?(?:%|percent\b))")


def parse_layout(text: str, width: int, height: int) -> list[Box]:
    """Boxes in drawing order, of lines "place: prompt", or of JSON as parse_boxes reads it, wherever in the text.

    Lines without words, and those that begin with #, do not matter; nor do bullets, numbers and code fences. A line
    that begins with | goes on with the one before. width, height: of the picture, for JSON with boxes in pixels.
    Raises ValueError that names the line and what is possible.
    """
    layout = find_layout(text)
    text = unfenced(text)
    if layout is not None or _JSON.match(text):
        return parse_boxes(text if layout is None else layout, width, height)
    boxes: list[Box] = []
    for number, line in _lines(text):
        try:
            boxes += _parse_line(line)
        except ValueError as why:
            raise ValueError(f"Line {number}, {line[:80]!r}: {why}") from None
    if not boxes:
        raise ValueError("There are no places: write a line such as 'left third: a lamp' for each.")
    return boxes


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that say something, with their numbers; those that begin with | behind the one before."""
    number, said = 0, ""
    for at, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith(("#", "```")):
            continue
        if line.startswith("|") and said:
            said += (line[1:] or " ") if said.endswith(":") else line
            continue
        if said:
            yield number, said
        number, said = at, _BULLET.sub("", line, count=1) if _BULLET.match(line) else line
    if said:
        yield number, said


def _parse_line(line: str) -> list[Box]:
    where, colon, prompt = line.partition(":")
    where, prompt = where.strip(" *").lower(), prompt.strip(" *")
    if not colon or not where:
        raise ValueError(f"it should look like 'left third: a lamp'. {POSSIBLE}.")
    if not prompt.strip(" |"):
        raise ValueError("there are no words behind the colon: say what is there.")
    split = _SPLIT.fullmatch(where)
    if split is None:
        (left, right), (top, bottom) = parse_place(where)
        return [Box(left, top, right, bottom, prompt)]
    prompts = [part.strip() for part in prompt.split("|")]
    cells = _cells(split[1], split[2].strip(), len(prompts))
    return [Box(x[0], y[0], x[1], y[1], words) for (x, y), words in zip(cells, prompts) if words]


def _cells(kind: str, sizes: str, count: int) -> list[tuple[Span, Span]]:
    """The places of "columns 3", "rows 1,2,1", "grid 2x3" (rows x columns, row by row), as many as there are prompts.

    Raises ValueError where there are more or fewer.
    """
    if kind == "grid":
        match = _GRID.fullmatch(sizes)
        if match is None or int(match[1]) * int(match[2]) == 0:
            raise ValueError("a grid is written as rows x columns: grid 2x3.")
        _check_count(f"grid {match[1]}x{match[2]}", int(match[1]) * int(match[2]), count)
        return [(x, y) for y in _shares([1.0] * int(match[1])) for x in _shares([1.0] * int(match[2]))]
    weights = _weights(kind, sizes, count)
    return [(span, WHOLE) if kind == "columns" else (WHOLE, span) for span in _shares(weights)]


def _weights(kind: str, sizes: str, count: int) -> list[float]:
    """How wide columns, or how high rows, are to each other. sizes: "" as many as prompts, "3" three alike, "1,2,1"."""
    try:
        numbers = [float(number) for number in re.split(r"[,\s]+", sizes)] if sizes else [float(count)]
    except ValueError:
        numbers = []
    alike = len(numbers) == 1
    if not numbers or not all(0 < number < 1e6 for number in numbers) or (alike and numbers[0] % 1):
        raise ValueError(f"{kind} take how many there are, {kind} 3, or their proportions, {kind} 1,2,1.")
    wanted = int(numbers[0]) if alike else len(numbers)
    _check_count(f"{kind} {sizes}".strip(), wanted, count)
    return [1.0] * wanted if alike else numbers


def _check_count(name: str, wanted: int, count: int) -> None:
    if wanted != count:
        raise ValueError(
            f"{name} take {wanted} prompts with | between them, there are {count}. A place stays empty where nothing "
            "stands between two |."
        )


def _shares(weights: Sequence[float]) -> list[Span]:
    """Spans side by side, in proportion to the weights."""
    total, edges = sum(weights), [0.0]
    for weight in weights:
        edges.append(edges[-1] + weight / total)
    return list(zip(edges[:-1], [*edges[1:-1], 1.0]))


def parse_place(where: str) -> tuple[Span, Span]:
    """Where a place in words is: its spans across and down. Raises ValueError that tells what is possible."""
    where = where.strip().lower()
    numbers = _BOX.fullmatch(where)
    if numbers is not None:
        return _numbered(numbers[1])
    strips = _STRIP.findall(where)
    rest = _STRIP.sub(" ", where).replace(",", " ").split()
    if strips and all(word in FILLERS for word in rest):
        return _strips(strips)
    return _in_words(where)


def _numbered(text: str) -> tuple[Span, Span]:
    edges = fractions([part for part in re.split(r"[,\s]+", text.replace(" %", "%")) if part])
    if edges is None:
        raise ValueError(
            "a box has four numbers: left, top, right and bottom, from 0 to 1 (0.1,0.2,0.5,0.9) or in percent "
            "(10%,20%,50%,90%)."
        )
    left, top, right, bottom = edges
    if left >= right or top >= bottom:
        raise ValueError("a box has left, top, right and bottom in this order, and right and bottom are the larger.")
    return (left, right), (top, bottom)


def _strips(strips: Sequence[tuple[str, str, str]]) -> tuple[Span, Span]:
    """Of "column 2 of 3" and "row 1 of 2", each at most once."""
    spans = {"x": WHOLE, "y": WHOLE}
    for kind, at, count in strips:
        if not 1 <= int(at) <= int(count):
            raise ValueError(f"{kind} {at} of {count} is none: they count from 1 to {count}.")
        spans[STRIPS[kind]] = ((int(at) - 1) / int(count), int(at) / int(count))
    if len({kind for kind, _, _ in strips}) < len(strips):
        raise ValueError("a place has one column and one row at most.")
    return spans["x"], spans["y"]


class _Side(NamedTuple):
    name: str  # left, right, top, bottom, center
    size: float | None


def _in_words(where: str) -> tuple[Span, Span]:
    words = _words(where)
    if words and all(word in EVERYWHERE for word in words):
        return WHOLE, WHOLE
    strips = {STRIPS[word] for word in words if word in STRIPS}
    sides = _sized([word for word in words if word not in STRIPS])
    spans: dict[str, Span] = {}
    for side in sides:
        if side.name in SIDES:
            _put(spans, SIDES[side.name], side, strips)
    centers = [side for side in sides if side.name == "center"]
    for side, axis in zip(centers, _center_axes(centers, spans, strips)):
        _put(spans, axis, side, strips)
    if [side.name for side in sides] == ["center"] and not strips:
        spans["y"] = spans["x"]
    if not spans or len(strips) > 1 or (strips and spans.keys() != strips):
        raise ValueError(f"no such place. {POSSIBLE}.")
    return spans.get("x", WHOLE), spans.get("y", WHOLE)


def _center_axes(centers: Sequence[_Side], spans: dict[str, Span], strips: set[str]) -> list[str]:
    """Which side every "center" is of: the one that the other words leave."""
    free = [axis for axis in ("x", "y") if axis not in spans]
    if len(centers) > len(free):
        raise ValueError(f"no such place. {POSSIBLE}.")
    if len(centers) == 1 and len(free) == 2:
        if strips:
            return list(strips)[:1]
        if centers[0].size is not None:
            raise ValueError(
                "this may be a column or a row: write 'middle third column' or 'middle third row', and 'center middle "
                "third' for the middle of both."
            )
    return free[: len(centers)]


def _put(spans: dict[str, Span], axis: str, side: _Side, strips: set[str]) -> None:
    if axis in spans:
        raise ValueError(f"it cannot be on two sides at once. {POSSIBLE}.")
    size = side.size if side.size is not None else 1 / 3 if strips else 1 / 2
    start = {"left": 0.0, "top": 0.0, "center": (1 - size) / 2}.get(side.name, 1 - size)
    spans[axis] = (start, min(1.0, start + size))


def _words(where: str) -> list[str]:
    """The words that matter, one spelling each; sizes such as "two thirds", "1/3" and "30 %" as "=0.333"."""
    where = _SIZE.sub(lambda match: f" ={_size(match)} ", where.replace("-", " ").replace("_", " "))
    count, words = 0, []
    for raw in where.replace(",", " ").split():
        word = SAME.get(raw, raw)
        part = PARTS.get(word) or PARTS.get(word.removesuffix("s"))
        if word in COUNTS:
            count = COUNTS[word]
        elif part is not None:
            words.append(f"={(count or 1) / part}")
            count = 0
        elif word.startswith("=") or word in SIDES or word == "center" or word in STRIPS or word in EVERYWHERE:
            words.append(word)
        elif word not in FILLERS:
            raise ValueError(f"{raw!r} is no place. {POSSIBLE}.")
    if count:
        raise ValueError(f"no such place. {POSSIBLE}.")
    return words


def _size(match: re.Match[str]) -> float:
    """Of "1/3" or "30%". 0 where it is none."""
    if match[3] is not None:
        return float(match[3]) / 100
    return int(match[1]) / int(match[2]) if int(match[2]) else 0.0


def _sized(words: Sequence[str]) -> list[_Side]:
    """Sides with their sizes: a size is of the sides before it, else of those behind. Raises ValueError."""
    sides: list[_Side] = []
    pending: list[str] = []
    size: float | None = None
    for word in words:
        if not word.startswith("="):
            pending.append(word)
            continue
        if not 0 < float(word[1:]) <= 1 or (not pending and (size is not None or sides)):
            raise ValueError(f"a size is more than nothing, at most all, and once for every side. {POSSIBLE}.")
        if pending:
            sides += _alike(pending, float(word[1:]))
            pending = []
        else:
            size = float(word[1:])
    if size is not None and not pending:
        raise ValueError(f"no such place. {POSSIBLE}.")
    return sides + _alike(pending, size)


def _alike(names: Sequence[str], size: float | None) -> list[_Side]:
    """Sides of one size. A quarter of the picture in a corner is half of both sides."""
    corner = len(names) == 2 and all(name in SIDES for name in names)
    return [_Side(name, 0.5 if corner and size == 0.25 else size) for name in names]
