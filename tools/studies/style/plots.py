"""Pictures of every way to take a style from a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..plotting import picture, pyplot, save
from .quality import BATCH, TRANSFERS


def transfers(folder: Path, path: Path) -> None:
    """The first picture of the first eight references, unpicked, per way."""
    ways = [None, *TRANSFERS]
    count = min(8, len(list((folder / TRANSFERS[0].name).glob("*.npz"))))
    figure, axes = pyplot().subplots(len(ways), count, figsize=(0.5 + 1.12 * count, 1.2 * len(ways)), dpi=90)
    for line, way in zip(axes, ways):
        for turn, axis in enumerate(line):
            kept = np.load(folder / (way or TRANSFERS[0]).name / f"{turn * BATCH:04d}.npz")
            picture(axis, kept["shown"][0] if way else kept["reference"])
        said = way.name if way else "reference"
        line[0].set_ylabel(said.replace(", ", ",\n").replace(" 8", "\n8"), fontsize=6)
    save(figure, path)
