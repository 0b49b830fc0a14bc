"""Layouts for the evaluation of regions: what shall be where, in boxes, blobs and thin shapes; and how well it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...shapesworld import judge, sets
from ...shapesworld.world import COLOUR_NAMES, N_OBJECT_CLASSES, SHAPES, SIZE, Scene, Thing, caption
from .. import clip_scores

CEILING = 0.574  # of iou: what true pictures have, on 48 tuning layouts; masks are not the shapes
OVERLAPPED = (0.2, 0.4, 0.6)  # of a box
FORMS = ("box", "blob", "thin")
TWIN_PIXELS = 60  # of 64 x 128: so much of a color is not a stray edge
MIN_SHARE = 0.15  # of a region: an object of the right color and shape that covers so much is there


@dataclass(frozen=True)
class Layout:
    """A scene whose objects have places: masks [objects, 256, 256], in the scene's order."""

    scene: Scene
    form: str
    masks: np.ndarray

    @property
    def caption(self) -> str:
        return caption(self.scene)


def layout(name: str, index: int) -> Layout:
    """Layout `index` of the set "tune" or "report": 2, 3, 4 objects in turn, every form with every number.

    Scenes are those of the sets from index 100,000 on, which no other evaluation uses.
    """
    things, form = scene(name, index), FORMS[index // 3 % 3]
    rng = _places(name, index)
    return Layout(things, form, np.stack([_mask(thing, form, rng) for thing in things.things]))


def _places(name: str, index: int) -> np.random.Generator:
    """What places are drawn with: of another stream than the scene, whose first draws they would repeat."""
    return sets.rng_for(name, 200_000 + index)


def scene(name: str, index: int) -> Scene:
    """The scene that layout `index` is made of."""
    return sets.scene(name, 100_000 + index, 2 + index % 3)


def twins(index: int) -> Layout:
    """Layout `index` of those with two objects of one shape in two colors, side by side, each in a box of its half."""
    rng = _places("twins", index)
    scene = sets.scene("twins", index, 2)
    first, second = scene.things
    colors = [name for name in COLOUR_NAMES if name != first.color]
    second = replace(second, shape=first.shape, color=str(rng.choice(colors)))
    radius = float(rng.uniform(40, 50))
    places = [(float(rng.uniform(*across)), float(rng.uniform(90, 166))) for across in ((60, 68), (188, 196))]
    things = tuple(replace(t, x=x, y=y, radius=radius) for t, (x, y) in zip((first, second), places))
    row, column = np.mgrid[:SIZE, :SIZE] + 0.5
    masks = np.stack([(np.abs(column - t.x) < radius) & (np.abs(row - t.y) < radius) for t in things])
    return Layout(replace(scene, things=things), "twins", masks)


@torch.no_grad()
def apart(reader: nn.Module, picture: Tensor, wanted: Layout) -> dict[str, float]:
    """Of a picture of twins: whether each has its color in its half; whether a color is where the other's should be."""
    x = F.interpolate(picture[None].movedim(-1, 1).float(), size=(128, 128), mode="area")
    classes = reader(x)[0].argmax(1).cpu().numpy()[0]
    seen: list[set[str]] = []
    for half in (classes[:, :64], classes[:, 64:]):
        counts = Counter(half[half < N_OBJECT_CLASSES].tolist())
        seen.append({COLOUR_NAMES[c // len(SHAPES)] for c, n in counts.items() if n >= TWIN_PIXELS})
    colors = [thing.color for thing in wanted.scene.things]
    own = [color in found for color, found in zip(colors, seen)]
    other = [color in found for color, found in zip(reversed(colors), seen)]
    return {"both": float(all(own)), "leak": float(any(other)), "apart": float(all(own) and not any(other))}


def overlapping(index: int) -> Layout:
    """Layout `index` of those in which two boxes overlap, by 20, 40 and 60 % of the smaller one in turn; the second one
    lies in front."""
    rng = _places("overlap", index)
    scene = sets.scene("overlap", index, 2)
    share, radius = OVERLAPPED[index % 3], float(rng.uniform(44, 52))
    angle = rng.uniform(0, 2 * np.pi)
    # Two squares of side 2r, moved against each other along one axis by (1 - share) of a side.
    step = 2 * radius * (1 - share)
    dx, dy = (step, 0.0) if abs(np.cos(angle)) > abs(np.sin(angle)) else (0.0, step)
    x, y = SIZE / 2 - dx / 2, SIZE / 2 - dy / 2
    ends = ((x, y), (x + dx, y + dy))
    if rng.random() < 0.5:
        ends = ends[::-1]
    things = tuple(replace(t, x=float(cx), y=float(cy), radius=radius) for t, (cx, cy) in zip(scene.things, ends))
    row, column = np.mgrid[:SIZE, :SIZE] + 0.5
    masks = np.stack([(np.abs(column - t.x) < radius) & (np.abs(row - t.y) < radius) for t in things])
    return Layout(replace(scene, things=things), "overlap", masks)


@torch.no_grad()
def in_front(reader: nn.Module, picture: Tensor, wanted: Layout) -> dict[str, float]:
    """Of a picture of an overlapping layout: whether the object in front owns most of what both boxes cover, of the
    pixels there that are any object's; whether each is there at all."""
    x = F.interpolate(picture[None].movedim(-1, 1).float(), size=(128, 128), mode="area")
    classes = reader(x)[0].argmax(1).cpu().numpy()[0]
    small = wanted.masks.reshape(2, 128, 2, 128, 2).mean((2, 4)) >= 0.5
    front = wanted.scene.things[1]
    seen = classes[small[0] & small[1]]
    objects = (seen < N_OBJECT_CLASSES).sum()
    (row,) = score(reader, picture[None], [wanted])
    owned = float((seen == front.label).sum() > 0.5 * objects) if objects else 0.0
    return {"front": owned, "there behind": row["there"][0], "there in front": row["there"][1]}


def _mask(thing: Thing, form: str, rng: np.random.Generator) -> np.ndarray:
    """A place as large as the object that the scene has there; it does not tell the object's shape."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    dx, dy, r = x - thing.x, y - thing.y, thing.radius
    if form == "box":
        width, height = rng.uniform(0.75, 1.0, 2) * r
        return (np.abs(dx) < width) & (np.abs(dy) < height)
    if form == "thin":
        angle = rng.uniform(0, np.pi)
        along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        return (np.abs(along) < r) & (np.abs(across) < 0.4 * r)
    angle, edge = np.arctan2(dy, dx), np.full_like(dx, 0.8)
    for wave in (2, 3, 4):
        edge += rng.uniform(-0.1, 0.1) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    return np.hypot(dx, dy) < edge * r


def clip_rows(clip_b: Any, pictures: Tensor, layouts: Sequence[Layout]) -> list[dict[str, Any]]:
    """Per picture: `global`, its fit to the caption; `local`, the fit of each region's surroundings to a caption of its
    object alone; `features`. CLIP B's cosines."""
    rows = []
    for picture, wanted in zip(pictures, layouts):
        crops = torch.stack([clip_scores.surroundings(picture, mask) for mask in wanted.masks])
        alone = [caption(replace(wanted.scene, things=(thing,))) for thing in wanted.scene.things]
        rows.append({
            "global": float(clip_scores.scores(clip_b, picture[None], [wanted.caption])),
            "local": clip_scores.scores(clip_b, crops, alone).tolist(),
            "features": clip_scores.image_vectors(clip_b, picture[None])[0].tolist(),
        })  # fmt: skip
    return rows


@torch.no_grad()
def score(reader: nn.Module, pictures: Tensor, layouts: list[Layout]) -> list[dict[str, list[float]]]:
    """Per picture [height, width, 3] and region: iou of the region with all pixels of its object's class; there:
    whether the object covers enough of it. Per picture: background, and whether all objects are right wherever they
    are; extra, how many objects there are that nobody asked for."""
    x = F.interpolate(pictures.movedim(-1, 1).float(), size=(128, 128), mode="area")
    classes = reader(x)[0].argmax(1).cpu().numpy()
    rows = []
    for found, wanted in zip(classes, layouts):
        reading = judge.interpret(found)
        right = judge.score(wanted.scene, reading)
        asked = Counter(thing.label for thing in wanted.scene.things)
        row: dict[str, list[float]] = {
            "iou": [], "there": [], "background": [right["background_right"]], "all right": [right["all_right"]],
            "extra": [float((Counter(reading.objects) - asked).total())],
        }  # fmt: skip
        for thing, mask in zip(wanted.scene.things, wanted.masks):
            small = mask.reshape(128, 2, 128, 2).mean((1, 3)) >= 0.5
            right = found == thing.label
            row["iou"].append(float((small & right).sum() / max(1, (small | right).sum())))
            row["there"].append(float((small & right).sum() >= MIN_SHARE * small.sum()))
        rows.append(row)
    return rows
