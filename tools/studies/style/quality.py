"""Style from a picture: does the picture take the style of the reference, and does it still show what the prompt says?

Every batch of prompts has one reference: a painted picture of another scene, its style in turn. A classifier that is
trained apart (`--stage style`) judges the style, the reader the content. Prompts do not name a style.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...shapesworld import data, judge, sets, train_style
from ...shapesworld.world import STYLES, caption, render
from .. import metrics, record
from ..demo_setup import DemoSetup
from ..sampling import as_bytes, encoded, painted, sample_encoded

BATCH, STEPS, CFG = 4, 20, 4.0
FIRST_REFERENCE = 5000  # of the report set: none of its prompts


@dataclass(frozen=True)
class Transfer:
    """word: the prompt names the style instead. scale: of Style Guidance from `start`; None: the styled prompt as
    positive, plain CFG; 0 is no style. denoise below 1: from a painted picture of the prompt in another style."""

    name: str
    scale: float | None = 0.0
    start: float = 0.0
    word: bool = False
    denoise: float = 1.0


TRANSFERS = (
    Transfer("no style"),
    Transfer("style's word in the prompt", word=True),
    Transfer("style in the prompt, CFG 4", None),
    Transfer("Style Guidance 8", 8.0),
    Transfer("Style Guidance 8 from 0.3", 8.0, 0.3),
    Transfer("start picture, no style", denoise=0.6),
    Transfer("start picture, Style Guidance 8", 8.0, denoise=0.6),
)


def batch(demo: DemoSetup, style_judge: nn.Module, way: Transfer, start: int) -> dict[str, np.ndarray]:
    """style [n]: the style of the reference is there; right [n], share [n]: what the prompt says is there."""
    from fovea.guidance.style.model_patch import StyleGuidance

    turn = start // BATCH
    style = STYLES[turn % 4]
    reference = replace(sets.scene("report", FIRST_REFERENCE + turn), style=style)
    scenes = sets.scenes("report", start, BATCH)
    unstyled = [caption(scene).removesuffix(f", {scene.style} style") for scene in scenes]
    captions = [f"{text}, {style} style" for text in unstyled] if way.word else unstyled
    plain = encoded(demo.clip, captions)
    seen = demo.vision.encode_image(painted([render(reference)[0]]))
    vector = {"clip_vision_output": seen, "strength": 1.0, "noise_augmentation": 0.0}
    styled = [[plain[0][0], {**plain[0][1], "unclip_conditioning": [vector]}]]
    latents = None
    if way.denoise < 1:
        others = [STYLES[(turn + 1 + k % 3) % 4] for k in range(BATCH)]
        first = [render(replace(scene, style=other))[0] for scene, other in zip(scenes, others)]
        latents = demo.vae.encode(painted(first))
    model = demo.model if not way.scale else StyleGuidance(plain, way.scale, way.start, 1.0).patched(demo.model)
    positive = plain if way.scale == 0 else styled
    made = sample_encoded(model, demo.vae, positive, encoded(demo.clip, [""] * BATCH), BATCH, start, STEPS, CFG,
                          start=latents, denoise=way.denoise)  # fmt: skip
    found = train_style.styles_of(style_judge, made)
    scores = [judge.score(scene, reading) for scene, reading in zip(scenes, judge.read(demo.reader, made))]
    return {
        "style": np.array([one == style for one in found], float),
        "right": np.array([score["all_right"] for score in scores]),
        "share": np.array([score["share_right"] for score in scores]),
        "shown": as_bytes(made[:2]),
        "reference": render(reference)[0],
    }


def judge_on_painted(work: Path, style_judge: nn.Module) -> float:
    """How often the judge of style names the style of held-out painted pictures."""
    held_out = data.Dataset(work / "data" / "held_out")
    pictures, styles = train_style.pictures_of(held_out, np.arange(len(held_out)))
    with torch.no_grad():
        return round(float((style_judge(pictures).argmax(1) == styles).float().mean()), 4)


def table(folder: Path, demo: DemoSetup, work: Path, count: int) -> dict[str, Any]:
    style_judge, rows = train_style.load(work), []
    for way in TRANSFERS:
        made = record.kept_batches(folder / way.name, count, BATCH, partial(batch, demo, style_judge, way), way.name)
        row: dict[str, Any] = {"name": way.name, "n": count, "references": count // BATCH}
        for key in ("style", "right", "share"):
            row[key] = metrics.mean([part[key].mean() for part in made])  # pictures of one reference are one sample
        rows.append(row)
    return {"judge": judge_on_painted(work, style_judge), "rows": rows}
