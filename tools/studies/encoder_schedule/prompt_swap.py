"""When does the prompt act? Another prompt from some step on: what of either is in the picture (eDiff-I's probe)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...shapesworld import judge, sets
from ...shapesworld.world import caption
from .. import metrics, record
from ..demo_setup import DemoSetup
from ..sampling import as_bytes, encoded, sample_encoded

BATCH, STEPS, CFG = 8, 20, 4.0
SWAPS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 19, STEPS)  # steps with the first prompt
SECOND = 2000  # of the report set: where the second prompts begin


def table(folder: Path, demo: DemoSetup, count: int) -> dict[str, Any]:
    """Per number of steps with the first prompt: share of objects of the first and of the second prompt that are there,
    and how far the picture is from that of the first prompt alone (root mean square of colors, 0..1)."""
    found = record.kept_batches(folder, count, BATCH, partial(_batch, demo), "prompt swap")
    whole = {key: np.concatenate([part[key] for part in found], axis=1) for key in ("first", "second", "far")}
    return {
        "steps": STEPS, "swaps": list(SWAPS), "n": count,
        **{key: metrics.rounded(values.mean(1)) for key, values in whole.items()},
    }  # fmt: skip


def border(swap: int) -> float:
    """Percent of the schedule between step number `swap` and the one before (at a step, both prompts would act).

    The scheduler "normal" puts step i of n at i / (n - 1)."""
    return (swap - 0.5) / (STEPS - 1)


def _batch(demo: DemoSetup, start: int) -> dict[str, np.ndarray]:
    scenes = [sets.scenes("report", first + start, BATCH) for first in (0, SECOND)]
    conds = [encoded(demo.clip, [caption(scene) for scene in part])[0] for part in scenes]
    negative = encoded(demo.clip, [""] * BATCH)
    made = []
    for swap in SWAPS:
        percent = border(swap)
        parts = [[conds[0][0], {**conds[0][1], "end_percent": percent}] if swap < STEPS else conds[0]] if swap else []
        if swap < STEPS:
            parts.append([conds[1][0], {**conds[1][1], "start_percent": percent}] if swap else conds[1])
        made.append(sample_encoded(demo.model, demo.vae, parts, negative, BATCH, start, STEPS, CFG))
    readings = [judge.read(demo.reader, pictures) for pictures in made]
    shares = [[[judge.score(scene, reading)["share_right"] for scene, reading in zip(part, line)] for line in readings]
              for part in scenes]  # fmt: skip
    far = [(pictures - made[-1]).square().mean((1, 2, 3)).sqrt().numpy() for pictures in made]
    shown = np.stack([as_bytes(pictures[0]) for pictures in made])
    return {"first": np.array(shares[0]), "second": np.array(shares[1]), "far": np.stack(far), "shown": shown}


def strip(folder: Path) -> np.ndarray:
    """The first picture under every swap, side by side [256, 256 * n, 3]."""
    return np.concatenate(list(np.load(folder / "0000.npz")["shown"]), axis=1)
