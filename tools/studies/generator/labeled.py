"""The reader against a person: a committed sheet of generated pictures and what an eye saw in each.

`python -m tools.studies.generator.labeled --make` paints a new sheet (then label it); without, it prints the
agreement.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...comfy.host import ROOT
from ...comfy.pack import load_packages
from ...shapesworld import judge, sets
from ...shapesworld.judge import Reading
from ...shapesworld.world import COLOUR_NAMES, SHAPES
from ..demo_setup import DemoSetup
from ..sampling import as_bytes, sample

FOLDER = ROOT / "docs" / "reader_check"
TILE, SIDE = 128, 10


def tiles(path: Path) -> torch.Tensor:
    """The sheet as pictures [100, 128, 128, 3] in 0..1."""
    sheet = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).float() / 255
    return sheet.reshape(SIDE, TILE, SIDE, TILE, 3).transpose(1, 2).reshape(-1, TILE, TILE, 3)


def parse(label: str) -> Reading:
    """'red star, blue circle on white' -> what the reader should have said; objects an eye could not name are '?'."""
    objects, background = label.rsplit(" on ", 1)
    classes = []
    for name in filter(None, (o.strip() for o in objects.split(","))):
        color, shape = name.split()
        classes.append(COLOUR_NAMES.index(color) * len(SHAPES) + SHAPES.index(shape) if "?" not in name else -1)
    return Reading(tuple(classes), background)


def agreement(labels: list[Reading], readings: list[Reading]) -> dict[str, float]:
    """Share of objects on which both agree in color and shape; one that only one of them saw is a disagreement."""
    agreeing = objects = 0
    for label, reading in zip(labels, readings, strict=True):
        both = Counter(label.objects) & Counter(reading.objects)
        agreeing += both.total()
        objects += max(len(label.objects), len(reading.objects))
    return {"pictures": len(labels), "objects": objects, "agreeing": agreeing, "agreement": agreeing / objects}


def make(steps: int = 20) -> None:
    torch.set_grad_enabled(False)
    demo, captions = DemoSetup(), sets.captions("tune", 5000, SIDE * SIDE)
    pictures = torch.cat([sample(demo, captions[i : i + SIDE], i, steps, 4.0) for i in range(0, SIDE * SIDE, SIDE)])
    small = judge.small(pictures).movedim(1, -1)
    sheet = small.reshape(SIDE, SIDE, TILE, TILE, 3).transpose(1, 2).reshape(SIDE * TILE, SIDE * TILE, 3)
    FOLDER.mkdir(parents=True, exist_ok=True)
    Image.fromarray(as_bytes(sheet.clamp(0, 1))).save(FOLDER / "sheet.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--make", action="store_true", help="generate a new sheet")
    args = parser.parse_args()
    load_packages()
    if args.make:
        make()
        return
    labels = [parse(text) for text in json.loads((FOLDER / "labels.json").read_text())]
    readings = judge.read(DemoSetup().reader, tiles(FOLDER / "sheet.png"))
    for i, (label, reading) in enumerate(zip(labels, readings)):
        if Counter(label.objects) != Counter(reading.objects):
            eye = label.describe() if -1 not in label.objects else str(label)
            print(f"row {i // SIDE}, column {i % SIDE}: eye {eye}; reader {reading.describe()}")
    print(agreement(labels, readings))


if __name__ == "__main__":
    main()
