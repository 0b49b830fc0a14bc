"""What is in a picture, by the reader: found objects and the background, compared with what was asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from .world import (
    BACKGROUND_NAMES,
    COLOUR_NAMES,
    N_CLASSES,
    N_OBJECT_CLASSES,
    SHAPES,
    SIZE,
    Scene,
    Thing,
    place,
    relation,
)

MIN_PIXELS = 60  # of 128x128; the smallest star of the world covers about 200
MIN_SHARE = 0.3  # of a connected patch: two touching objects are both found, a mottled one is found once


@dataclass(frozen=True)
class Reading:
    objects: tuple[int, ...]  # classes, color * 6 + shape, one entry per object found
    background: str
    centers: tuple[tuple[float, float], ...] = ()  # of the objects, x and y in pixels of a 256-pixel picture

    def describe(self) -> str:
        names = [f"{COLOUR_NAMES[c // len(SHAPES)]} {SHAPES[c % len(SHAPES)]}" for c in self.objects]
        return ", ".join(names) + f" on {self.background}"


@torch.no_grad()
def read(reader: nn.Module, pictures: Tensor) -> list[Reading]:
    """pictures [B, H, W, 3] in 0..1 (ComfyUI's IMAGE layout, any size) -> one reading each."""
    return [interpret(classes) for classes in reader(small(pictures))[0].argmax(1).cpu().numpy()]


def small(pictures: Tensor) -> Tensor:
    """pictures [B, H, W, 3] as networks that judge take them: [B, 3, 128, 128]."""
    return F.interpolate(pictures.movedim(-1, 1).float(), size=(128, 128), mode="area")


def interpret(classes: np.ndarray) -> Reading:
    """Class map [128, 128] -> objects and background."""
    patches, count = ndimage.label(classes < N_OBJECT_CLASSES)
    found: list[tuple[int, tuple[float, float]]] = []
    for i in range(1, count + 1):
        votes = Counter(classes[patches == i].tolist())
        total = votes.total()
        kept = [c for c, n in votes.items() if n >= max(MIN_PIXELS, MIN_SHARE * total)]
        found += [(c, _center((patches == i) & (classes == c))) for c in kept]
    found.sort()
    grounds = np.bincount(classes.ravel(), minlength=N_CLASSES)[N_OBJECT_CLASSES:]
    return Reading(tuple(c for c, _ in found), BACKGROUND_NAMES[int(np.argmax(grounds))], tuple(at for _, at in found))


def _center(mask: np.ndarray) -> tuple[float, float]:
    """Of the box around it: where the painter's center is, nearer than the mean of its pixels."""
    scale = SIZE / len(mask)
    y, x = ((at.min() + at.max() + 1) / 2 * scale for at in np.nonzero(mask))
    return float(x), float(y)


def score(scene: Scene, reading: Reading) -> dict[str, float]:
    """`all_right`: every object asked for is there in its color and shape; `exact`: and nothing else is."""
    wanted, found = Counter(t.label for t in scene.things), Counter(reading.objects)
    return {
        "all_right": float(not wanted - found),
        "exact": float(wanted == found),
        "share_right": sum((wanted & found).values()) / wanted.total(),
        "background_right": float(reading.background == scene.background),
    }


def places(scene: Scene, reading: Reading) -> list[float]:
    """Of every object of the scene, whether one of its kind was found in its field of the picture."""
    fields = ((place(thing.x, thing.y), {place(*at) for at in _found(thing, reading)}) for thing in scene.things)
    return [float(wanted in found) for wanted, found in fields]


def related(thing: Thing, other: Thing, reading: Reading) -> float:
    """Whether both were found, and the first where it stands as seen from the other."""
    wanted = relation(thing, other)
    pairs = product(_found(thing, reading), _found(other, reading))
    moved = ((replace(thing, x=a[0], y=a[1]), replace(other, x=b[0], y=b[1])) for a, b in pairs)
    return float(any(relation(*pair) == wanted for pair in moved))


def _found(thing: Thing, reading: Reading) -> list[tuple[float, float]]:
    return [at for c, at in zip(reading.objects, reading.centers, strict=True) if c == thing.label]
