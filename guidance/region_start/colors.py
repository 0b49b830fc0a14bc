"""Colors in words: which color a prompt gives a thing, and which the background."""

from __future__ import annotations

import re

from PIL import ImageColor

RGB = tuple[float, float, float]
# Words that are hardly ever anything but a color: "salmon", "chocolate" and "rose" are things first.
NAMES = (
    "red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white", "gray", "grey", "black", "tan",
    "brown", "beige", "turquoise", "teal", "navy", "maroon", "magenta", "violet", "indigo", "lime", "olive", "crimson",
    "gold", "golden", "silver",
)  # fmt: skip
_SHADES = {"light": (1.0, 0.5), "pale": (1.0, 0.5), "dark": (0.0, 0.5), "deep": (0.0, 0.3)}  # towards what, how far
_SHADE, _NAME = "|".join(_SHADES), "|".join(NAMES)
_COLOR = re.compile(rf"\b(?:({_SHADE})[ -])?({_NAME})\b", re.IGNORECASE)
# "a white background", "a white studio background", "the background is white".
_BACKGROUND = (
    re.compile(rf"\b(?:({_SHADE})[ -])?({_NAME})\b(?: [a-z-]+)? background\b", re.IGNORECASE),
    re.compile(rf"\bbackground(?: is|:| in)? (?:({_SHADE})[ -])?({_NAME})\b", re.IGNORECASE),
)


def is_number(text: str) -> bool:
    """Whether a text is meant as a color in numbers, "#dc2626" or "rgb(220, 38, 38)", right or wrong."""
    return re.match(r"#|(?:rgb|hsl|hsv)a?\(", text.strip(), re.IGNORECASE) is not None


def named(text: str) -> RGB | None:
    """The color of a text that is nothing but a color word, "dark red"; None for all others."""
    words = _COLOR.fullmatch(text.strip())
    return None if words is None else _color(words)


def parse(text: str) -> RGB:
    """A color as people write it, "#dc2626", "rgb(220, 38, 38)" or "dark red", 0..1. Raises ValueError."""
    word = named(text)
    if word is not None:
        return word
    try:
        red, green, blue = ImageColor.getrgb(text.strip())[:3]
    except ValueError:
        raise ValueError(f"{text.strip()!r} is no color: write #dc2626, or a name such as red or dark blue.") from None
    return red / 255, green / 255, blue / 255


def named_in(prompt: str) -> RGB | None:
    """The first color word of a prompt, as of "a dark red star"; None without one."""
    words = _COLOR.search(prompt)
    return None if words is None else _color(words)


def background_of(prompt: str) -> RGB | None:
    """The color that a prompt gives the background; None where it gives none."""
    words = next((found for pattern in _BACKGROUND if (found := pattern.search(prompt)) is not None), None)
    return None if words is None else _color(words)


def _color(words: re.Match[str]) -> RGB:
    """The color of a match (shade or None, name)."""
    name = {"golden": "gold"}.get(words[2].lower(), words[2].lower())
    red, green, blue = (value / 255 for value in ImageColor.getrgb(name)[:3])
    towards, share = _SHADES[words[1].lower()] if words[1] else (0.0, 0.0)
    return tuple(value + share * (towards - value) for value in (red, green, blue))  # type: ignore[return-value]
