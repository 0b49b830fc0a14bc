"""Two unlike models as experts: the flow transformer, which reads words for places and decides where it is noisy what
goes where, and the UNet below a noise level, which never read a place.

eDiff-I's experts begin as one model. ComfyUI's users join what they have: models of other architectures, other
parameterizations and other text encoders, in one latent space. Prompts name places; the UNet is told the same scene
without them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...shapesworld import judge, sets
from ...shapesworld.train_dit import unplaced
from ...shapesworld.world import placed_caption
from .. import metrics, record
from ..demo_setup import DemoSetup
from ..sampling import as_bytes, encoded, sample, sample_encoded

BATCH, STEPS, CFG = 8, 20, 4.0
BORDERS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.4, 0.0)  # flow levels below which the UNet acts; 0: never
MEASURED = ("places_right", "share_right", "all_right", "background_right")


def table(folder: Path, flow: DemoSetup, unet: DemoSetup, count: int) -> dict[str, Any]:
    """Per border the means of MEASURED with 95 % bootstrap intervals over prompts of one to four objects."""
    parts = record.kept_batches(folder, count, BATCH, partial(_batch, flow, unet), "unlike experts")
    found = np.concatenate([part["found"] for part in parts], axis=1)  # [borders, prompts, measures]
    rows = [{key: metrics.mean(found[i, :, k]) for k, key in enumerate(MEASURED)} for i in range(len(BORDERS))]
    return {"n": count, "borders": list(BORDERS), "rows": rows}


def _batch(flow: DemoSetup, unet: DemoSetup, start: int) -> dict[str, np.ndarray]:
    scenes = sets.scenes("report", start, BATCH)
    captions = [placed_caption(scene) for scene in scenes]
    found, shown = [], []
    for border in BORDERS:
        pictures = picture(flow, unet, border, captions, start)
        readings = judge.read(flow.reader, pictures)
        scores = [{**judge.score(scene, reading), "places_right": float(np.mean(judge.places(scene, reading)))}
                  for scene, reading in zip(scenes, readings)]  # fmt: skip
        found.append([[float(score[key]) for key in MEASURED] for score in scores])
        shown.append(as_bytes(pictures))
    return {"found": np.array(found), "shown": np.stack(shown)}


def picture(flow: DemoSetup, unet: DemoSetup, border: float, captions: list[str], seed: int) -> Tensor:
    """A picture for each caption, [n, 256, 256, 3], the UNet acting below a flow level."""
    from fovea.guidance.experts.expert_guider import Expert
    from fovea.guidance.experts.model_patch import ExpertSwitch
    from fovea.guidance.noise_levels import half_log_snr

    plain = [unplaced(text) for text in captions]
    if border == 1.0:
        return sample(unet, plain, seed, STEPS, CFG)
    positive, negative = encoded(flow.clip, captions), encoded(flow.clip, [""] * len(captions))
    model = flow.model
    if border > 0:
        own = encoded(unet.clip, plain), encoded(unet.clip, [""] * len(captions))
        expert = Expert(unet.model, half_log_snr(border, flow=True), None, *own)
        model = ExpertSwitch.of(model, [expert]).patched(model)
    return sample_encoded(model, flow.vae, positive, negative, len(captions), seed, STEPS, CFG)
