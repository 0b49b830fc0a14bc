"""Which scenes belong to which set. Seeds never overlap: nothing is tuned or trained on what is reported."""

from __future__ import annotations

import numpy as np

from .world import Scene, caption, sample_scene

SEEDS = {"train": 1_000_000_000, "held_out": 2_000_000_000, "tune": 3_000_000_000, "report": 4_000_000_000}


def rng_for(name: str, index: int) -> np.random.Generator:
    return np.random.default_rng(SEEDS[name] + index)


def scene(name: str, index: int, count: int | None = None) -> Scene:
    """Scene `index` of a set; reproducible anywhere."""
    return sample_scene(rng_for(name, index), count)


def report_prompts(total: int = 500) -> list[tuple[Scene, str]]:
    """The fixed report set: 1, 2, 3 and 4 objects in turn, canonical wording."""
    scenes = [scene("report", i, 1 + i % 4) for i in range(total)]
    return [(s, caption(s)) for s in scenes]
