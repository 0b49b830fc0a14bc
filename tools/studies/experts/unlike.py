"""Two unlike models as experts: the flow transformer, which reads words for places and decides where it is noisy what
goes where, and the UNet below a noise level, which never read a place.

eDiff-I's experts begin as one model. ComfyUI's users join what they have: models of other architectures, on other
noise schedules, in one latent space. Prompts name places; the UNet is told the same scene without them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...shapesworld import judge, sets
from ...shapesworld.world import Scene, caption, placed_caption
from .. import metrics, record
from ..demo_setup import DemoSetup
from ..plotting import picture as draw
from ..plotting import pyplot, save
from ..sampling import as_bytes, encoded, sample, sample_encoded

BATCH, STEPS, CFG = 8, 20, 4.0
BORDERS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.4, 0.0)  # flow levels below which the UNet acts; 1: it alone, 0: never
MEASURED = ("places_right", "share_right", "all_right", "background_right")
NAMES = {1.0: "the UNet alone", 0.0: "the flow transformer alone"}


def table(folder: Path, flow: DemoSetup, unet: DemoSetup, count: int) -> dict[str, Any]:
    """Per border the means of MEASURED with 95 % bootstrap intervals over prompts of one to four objects."""
    parts = record.kept_batches(folder, count, BATCH, partial(_batch, flow, unet), "unlike experts")
    found = np.concatenate([part["found"] for part in parts], axis=1)  # [borders, prompts, measures]
    rows = [
        {"name": NAMES.get(border, f"the UNet below {border:g}"),
         **{key: metrics.mean(values[:, k]) for k, key in enumerate(MEASURED)}}
        for border, values in zip(BORDERS, found)
    ]  # fmt: skip
    return {"n": count, "rows": rows}


def _batch(flow: DemoSetup, unet: DemoSetup, start: int) -> dict[str, np.ndarray]:
    scenes = sets.scenes("report", start, BATCH)
    found, shown = [], []
    for border in BORDERS:
        made = pictures(flow, unet, border, scenes, start)
        readings = judge.read(flow.reader, made)
        scores = [{**judge.score(scene, reading), "places_right": float(np.mean(judge.places(scene, reading)))}
                  for scene, reading in zip(scenes, readings)]  # fmt: skip
        found.append([[float(score[key]) for key in MEASURED] for score in scores])
        shown.append(as_bytes(made[:, ::2, ::2] if start == 0 else made[:0]))
    return {"found": np.array(found), "shown": np.stack(shown)}


def pictures(flow: DemoSetup, unet: DemoSetup, border: float, scenes: list[Scene], seed: int) -> Tensor:
    """A picture for each scene, [n, 256, 256, 3], the UNet acting below a flow level."""
    from fovea.guidance.experts.expert_guider import Expert
    from fovea.guidance.experts.model_patch import ExpertSwitch
    from fovea.guidance.noise_levels import half_log_snr

    plain, empty = [caption(scene) for scene in scenes], [""] * len(scenes)
    if border == 1.0:
        return sample(unet, plain, seed, STEPS, CFG)
    placed = encoded(flow.clip, [placed_caption(scene) for scene in scenes])
    model = flow.model
    if border > 0:
        own = encoded(unet.clip, plain), encoded(unet.clip, empty)
        expert = Expert(unet.model, half_log_snr(border, flow=True), None, *own)
        model = ExpertSwitch.of(model, [expert]).patched(model)
    return sample_encoded(model, flow.vae, placed, encoded(flow.clip, empty), len(scenes), seed, STEPS, CFG)


def sheet(folder: Path, path: Path) -> None:
    """The first prompts, unpicked, a row per border."""
    shown = np.load(folder / "0000.npz")["shown"]
    figure, axes = pyplot().subplots(*shown.shape[:2], figsize=(1.15 * shown.shape[1] + 0.9, 1.15 * len(shown)), dpi=90)
    for border, line, made in zip(BORDERS, axes, shown):
        for axis, each in zip(line, made):
            draw(axis, each)
        line[0].set_ylabel({1.0: "UNet alone", 0.0: "flow alone"}.get(border, f"UNet\nbelow {border:g}"), fontsize=7)
    save(figure, path)
