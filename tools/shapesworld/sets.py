"""Which scenes belong to which set. Seeds never overlap: nothing is tuned or trained on what is reported."""

from __future__ import annotations

import numpy as np

from .world import Scene, caption, sample_scene

SEEDS = {
    "train": 1_000_000_000, "held_out": 2_000_000_000, "tune": 3_000_000_000, "report": 4_000_000_000,
    "overlap": 5_000_000_000, "twins": 6_000_000_000, "reference": 7_000_000_000,
}  # fmt: skip
REFERENCE = "other scenes"  # what painted pictures show that made ones are compared with; reports say so


def rng_for(name: str, index: int) -> np.random.Generator:
    return np.random.default_rng(SEEDS[name] + index)


def scene(name: str, index: int, count: int | None = None) -> Scene:
    """Scene `index` of a set; reproducible anywhere."""
    return sample_scene(rng_for(name, index), count)


def scenes(name: str, start: int, count: int) -> list[Scene]:
    """Scenes of a set from the start-th on: 1, 2, 3 and 4 objects in turn."""
    return [scene(name, i, 1 + i % 4) for i in range(start, start + count)]


def captions(name: str, start: int, count: int) -> list[str]:
    """Those scenes in canonical wording."""
    return [caption(each) for each in scenes(name, start, count)]
