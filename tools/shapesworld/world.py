"""The world: what a scene is, how it is worded and how it is painted. Pure numpy, deterministic for a seed."""

from __future__ import annotations

import re
from bisect import bisect
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

SIZE = 256
COLOURS = {
    "red": (220, 38, 38),
    "orange": (246, 140, 28),
    "yellow": (246, 220, 48),
    "green": (46, 168, 70),
    "cyan": (56, 206, 216),
    "blue": (44, 84, 216),
    "purple": (134, 58, 186),
    "pink": (246, 128, 186),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
TEXTURES = ("plain", "striped", "dotted")
BACKGROUNDS = {"white": (243, 243, 240), "gray": (140, 143, 148), "black": (28, 28, 32), "tan": (198, 166, 126)}
STYLES = ("flat", "outlined", "shaded", "glowing")
COLOUR_NAMES, BACKGROUND_NAMES = tuple(COLOURS), tuple(BACKGROUNDS)
N_OBJECT_CLASSES = len(COLOURS) * len(SHAPES)
N_CLASSES = N_OBJECT_CLASSES + len(BACKGROUNDS)
"""Pixel classes: color * 6 + shape for objects, then one class per background."""

PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("at the left", "in the middle", "at the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)
"""What a caption calls the nine fields of a picture, row by row."""
FIELD_BORDERS = (96, 160)  # pixels: fields in which objects of all sizes stand about equally often
RELATIONS = ("left of", "right of", "above", "below")

_RADIUS = {1: (40, 70), 2: (36, 56), 3: (32, 48), 4: (28, 42)}


@dataclass(frozen=True)
class Thing:
    """One object; x, y and radius in pixels of a 256-pixel picture, angles in radians."""

    texture: str
    color: str
    shape: str
    x: float
    y: float
    radius: float
    angle: float
    grain: float  # direction of the stripes / dot grid

    @property
    def phrase(self) -> str:
        return f"a {self.texture} {self.color} {self.shape}"

    @property
    def label(self) -> int:
        return COLOUR_NAMES.index(self.color) * len(SHAPES) + SHAPES.index(self.shape)


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    background: str
    style: str  # "": not told

    @property
    def background_label(self) -> int:
        return N_OBJECT_CLASSES + BACKGROUND_NAMES.index(self.background)


def sample_scene(rng: np.random.Generator, count: int | None = None) -> Scene:
    """Draw a scene of `count` objects (1-4, uniform when None) that do not touch; no two share color and shape."""
    count = int(rng.integers(1, 5)) if count is None else count
    kinds = rng.choice(N_OBJECT_CLASSES, size=count, replace=False)
    places = _sample_places(rng, count)
    things = tuple(
        Thing(
            texture=TEXTURES[rng.integers(len(TEXTURES))],
            color=COLOUR_NAMES[kind // len(SHAPES)],
            shape=SHAPES[kind % len(SHAPES)],
            x=x,
            y=y,
            radius=r,
            angle=float(rng.uniform(-0.2, 0.2)),
            grain=float(rng.uniform(0, np.pi)),
        )
        for kind, (x, y, r) in zip(kinds, places, strict=True)
    )
    return Scene(things, BACKGROUND_NAMES[rng.integers(len(BACKGROUNDS))], STYLES[rng.integers(len(STYLES))])


def _sample_places(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    while True:  # restart when the first circles leave no room for the last
        placed: list[tuple[float, float, float]] = []
        for _ in range(60):
            r = float(rng.uniform(*_RADIUS[count]))
            x, y = rng.uniform(r + 5, SIZE - r - 5, size=2)
            if all(np.hypot(x - a, y - b) > r + s + 7 for a, b, s in placed):
                placed.append((float(x), float(y), r))
            if len(placed) == count:
                return placed


def caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """Word a scene. With `rng` the wording varies (order, optional parts); without, the full canonical sentence.

    Grammar: [a picture of] a [texture] color shape {, ...} and ... [on a B background][, S style]; no texture: plain.
    """
    return worded(scene, rng)[0]


def worded(scene: Scene, rng: np.random.Generator | None) -> tuple[str, list[Thing]]:
    """A caption and the objects in the order in which it names them."""
    things = list(scene.things)
    if rng is None:
        return _sentence([t.phrase for t in things], scene.background, scene.style), things
    things = [things[i] for i in rng.permutation(len(things))]
    phrases = [t.phrase.replace("plain ", "") if rng.random() < 0.4 else t.phrase for t in things]
    background = scene.background if rng.random() < 0.9 else None
    style = scene.style if rng.random() < 0.75 else None
    prefix = "a picture of " if rng.random() < 0.15 else ""
    return prefix + _sentence(phrases, background, style), things


def place(x: float, y: float) -> str:
    """The name of the field in which a point stands."""
    column, row = (bisect(FIELD_BORDERS, at) for at in (x, y))
    return PLACES[row][column]


def relation(thing: Thing, other: Thing) -> str:
    """Where an object stands as seen from another: along the axis on which their centers lie further apart."""
    dx, dy = thing.x - other.x, thing.y - other.y
    if abs(dx) > abs(dy):
        return RELATIONS[0] if dx < 0 else RELATIONS[1]
    return RELATIONS[2] if dy < 0 else RELATIONS[3]


def placed_caption(scene: Scene, rng: np.random.Generator | None = None) -> str:
    """A caption that says where objects stand; its wording varies as that of `caption`. Without `rng`: all of them.

    Grammar: an object is followed by one of PLACES, or two are joined by one of RELATIONS in place of the comma.
    """
    if rng is None:
        phrases = [f"{t.phrase} {place(t.x, t.y)}" for t in scene.things]
        return _sentence(phrases, scene.background, scene.style)
    text, things = worded(scene, rng)
    pair = int(rng.integers(len(things) - 1)) if len(things) > 1 and rng.random() < 0.3 else None
    always = int(rng.integers(len(things)))
    for i, thing in enumerate(things):
        if pair is not None and i in (pair, pair + 1):
            continue
        if i == always or rng.random() < 0.6:
            text = _after(text, thing, f" {place(thing.x, thing.y)}")
    if pair is None:
        return text
    first, second = things[pair], things[pair + 1]
    joint = re.compile(rf"({first.color} {first.shape})(?:, | and )")
    return joint.sub(rf"\1 {relation(first, second)} ", text, count=1)


def related_caption(scene: Scene) -> str:
    """The full sentence, in which the first two objects are told by where the first stands as seen from the second."""
    first, second, *rest = scene.things
    joint = f"{first.phrase} {relation(first, second)} {second.phrase}"
    return _sentence([joint, *(t.phrase for t in rest)], scene.background, scene.style)


def _after(text: str, thing: Thing, words: str) -> str:
    kind = f"{thing.color} {thing.shape}"  # no two objects of a scene share it
    return text.replace(kind, kind + words, 1)


def _sentence(phrases: list[str], background: str | None, style: str | None) -> str:
    text = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    return text + (f" on a {background} background" if background else "") + (f", {style} style" if style else "")


def confused(scene: Scene, rng: np.random.Generator) -> Scene:
    """A near miss for contrastive training: two objects swap an attribute, or one attribute is another one."""
    things = list(scene.things)
    part = ("color", "shape", "texture")[rng.choice(3, p=(0.45, 0.35, 0.2))]
    if len(things) > 1 and rng.random() < 0.7:
        i, j = rng.choice(len(things), 2, replace=False)
        a, b = getattr(things[i], part), getattr(things[j], part)
        swapped = _with(things[i], part, b), _with(things[j], part, a)
        if {t.phrase for t in swapped} != {things[i].phrase, things[j].phrase}:
            things[i], things[j] = swapped
            return replace(scene, things=tuple(things))
    names = {"color": COLOUR_NAMES, "shape": SHAPES, "texture": TEXTURES}[part]
    i = rng.integers(len(things))
    others = [n for n in names if n != getattr(things[i], part)]
    things[i] = _with(things[i], part, others[rng.integers(len(others))])
    return replace(scene, things=tuple(things))


def _with(thing: Thing, part: str, name: str) -> Thing:
    change: dict[str, Any] = {part: name}
    return replace(thing, **change)


def render(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Paint a scene -> (picture uint8 [256, 256, 3], class map uint8 [256, 256] with values below N_CLASSES)."""
    picture = np.empty((SIZE, SIZE, 3), np.float32)
    picture[:] = np.array(BACKGROUNDS[scene.background], np.float32)
    labels = np.full((SIZE, SIZE), scene.background_label, np.uint8)
    for thing in scene.things:
        _paint(picture, labels, thing, scene)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), labels


def _paint(picture: np.ndarray, labels: np.ndarray, thing: Thing, scene: Scene) -> None:
    reach = thing.radius * (1.45 if scene.style in ("glowing", "shaded") else 1.0) + 4
    x0, x1 = max(0, int(thing.x - reach)), min(SIZE, int(thing.x + reach) + 1)
    y0, y1 = max(0, int(thing.y - reach)), min(SIZE, int(thing.y + reach) + 1)
    dx = np.arange(x0, x1, dtype=np.float32)[None, :] + np.float32(0.5 - thing.x)
    dy = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - thing.y)
    window = picture[y0:y1, x0:x1]
    base = np.array(COLOURS[thing.color], np.float32)

    distance = signed_distance(thing, dx, dy)
    if scene.style == "shaded":
        offset = thing.radius * 0.14
        shadow = np.clip(0.5 - signed_distance(thing, dx - offset, dy - offset) / 10, 0, 1) * 0.42
        window *= 1 - shadow[..., None]
    elif scene.style == "glowing":
        glow = np.exp(-np.maximum(distance, 0) / (0.14 * thing.radius)) * 0.75
        window += glow[..., None] * (base * 0.6 + 102 - window)

    fill = _texture(thing, dx, dy, base)
    if scene.style == "shaded":
        light = np.hypot(dx + 0.35 * thing.radius, dy + 0.35 * thing.radius) / thing.radius
        fill = fill * np.clip(1.18 - 0.42 * light, 0.5, 1.1)[..., None] + 70 * np.clip(1 - light * 1.6, 0, 1)[..., None]
    elif scene.style == "outlined":
        ink = np.float32(235 if scene.background == "black" else 18)
        line = np.clip(distance + 4.5, 0, 1)[..., None]
        fill = fill * (1 - line) + ink * line
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    window += cover * (fill - window)
    labels[y0:y1, x0:x1][distance < 0] = thing.label


def _texture(thing: Thing, dx: np.ndarray, dy: np.ndarray, base: np.ndarray) -> np.ndarray:
    if thing.texture == "plain":
        return np.broadcast_to(base, (*np.broadcast_shapes(dx.shape, dy.shape), 3)).astype(np.float32)
    # Light colors get a darker second tone, dark ones a lighter: visible on every color, hue kept.
    light = float(base @ np.array([0.3, 0.59, 0.11], np.float32)) > 140
    second = base * 0.52 if light else base * 0.38 + 255 * 0.62
    c, s = np.cos(thing.grain), np.sin(thing.grain)
    u, v = c * dx + s * dy, c * dy - s * dx
    if thing.texture == "striped":
        period = 19.0
        amount = np.clip(0.5 + (np.abs((u / period) % 1 - 0.5) - 0.25) * period, 0, 1)
    else:
        period = 21.0
        du, dv = (u / period) % 1 - 0.5, (v / period) % 1 - 0.5
        amount = np.clip(0.5 + (0.30 - np.hypot(du, dv)) * period, 0, 1)
    return base + amount[..., None] * (second - base)


def signed_distance(thing: Thing, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Signed distance in pixels to the outline (negative inside) at offsets dx, dy from the center."""
    c, s = np.float32(np.cos(thing.angle)), np.float32(np.sin(thing.angle))
    r = np.float32(thing.radius)
    x, y = (c * dx + s * dy) / r, (c * dy - s * dx) / r
    return _OUTLINES[thing.shape](x, y) * r


def _circle(x, y):
    return np.hypot(x, y) - 0.9


def _box(x, y, w, h):
    qx, qy = np.abs(x) - w, np.abs(y) - h
    return np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0)


def _square(x, y):
    return _box(x, y, 0.74, 0.74)


def _cross(x, y):
    return np.minimum(_box(x, y, 0.92, 0.30), _box(x, y, 0.30, 0.92))


def _half_planes(x, y, angles, offset):
    return np.max([np.cos(a) * x + np.sin(a) * y for a in angles], axis=0) - offset


def _triangle(x, y):
    return _half_planes(x, y + np.float32(-0.18), np.pi / 2 + np.arange(3) * 2 * np.pi / 3, 0.53)


def _star(x, y):
    """Five points: fold the plane into one tenth, then the distance to one edge line."""
    angle = np.arctan2(x, -y)
    fold = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    rho = np.hypot(x, y)
    px, py = rho * np.cos(fold), rho * np.sin(fold)
    tip, notch = np.array([1.0, 0.0]), 0.46 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    normal = np.array([notch[1], tip[0] - notch[0]])
    normal /= np.hypot(*normal)
    return (px - tip[0]) * normal[0] + (py - tip[1]) * normal[1]


def _heart(x, y):
    """A square on its corner and a disc on each of its upper sides; symmetric in x."""
    x, y = np.abs(x), -y - 0.04
    side = 1.02
    half = side / np.sqrt(8)  # the middle of an upper side lies at (half, half)
    return np.minimum((x + np.abs(y)) / np.sqrt(2) - side / 2, np.hypot(x - half, y - half) - side / 2)


_OUTLINES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
}
