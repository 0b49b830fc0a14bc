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
from tqdm import tqdm

from .. import metrics

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


class Studio:
    """The model with a style vector, and the judges."""

    def __init__(self, folder: Path, work: Path) -> None:
        from fovea.models.shapesworld import loader as demo_model

        from ...shapesworld import train_style

        self.folder = folder
        self.model, self.clip, self.vae = demo_model.load_dual(), demo_model.load_dual_clip(), demo_model.load_vae()
        self.vision, self.reader = demo_model.load_clip_vision(), demo_model.load_reader()
        self.judge = train_style.load(work)

    def run(self, way: Transfer, count: int) -> dict[str, np.ndarray]:
        """style [n]: the style of the reference is there; right [n], share [n]: what the prompt says is there."""
        parts = []
        for start in tqdm(range(0, count, BATCH), desc=way.name, mininterval=5):
            parts.append(metrics.kept(self.folder / way.name / f"{start:04d}.npz", partial(self.batch, way, start)))
        return {key: np.concatenate([part[key] for part in parts]) for key in ("style", "right", "share")}

    def batch(self, way: Transfer, start: int) -> dict[str, np.ndarray]:
        from fovea.guidance.style.model_patch import StyleGuidance

        from ...shapesworld import judge, sets, train_style
        from ...shapesworld.world import STYLES, caption, render
        from ..generator.quality import encoded, sample_encoded

        turn = start // BATCH
        style = STYLES[turn % 4]
        reference = replace(sets.scene("report", FIRST_REFERENCE + turn), style=style)
        scenes = [sets.scene("report", i, 1 + i % 4) for i in range(start, start + BATCH)]
        unstyled = [caption(scene).removesuffix(f", {scene.style} style") for scene in scenes]
        captions = [f"{text}, {style} style" for text in unstyled] if way.word else unstyled
        plain = encoded(self.clip, captions)
        seen = self.vision.encode_image(painted([render(reference)[0]]))
        vector = {"clip_vision_output": seen, "strength": 1.0, "noise_augmentation": 0.0}
        styled = [[plain[0][0], {**plain[0][1], "unclip_conditioning": [vector]}]]
        latents = None
        if way.denoise < 1:
            others = [STYLES[(turn + 1 + k % 3) % 4] for k in range(BATCH)]
            first = [render(replace(scene, style=other))[0] for scene, other in zip(scenes, others)]
            latents = self.vae.encode(painted(first))
        model = self.model if not way.scale else StyleGuidance(plain, way.scale, way.start, 1.0).patched(self.model)
        positive = plain if way.scale == 0 else styled
        made = sample_encoded(model, self.vae, positive, encoded(self.clip, [""] * BATCH), BATCH, start, STEPS, CFG,
                              start=latents, denoise=way.denoise)  # fmt: skip
        found = train_style.styles_of(self.judge, made)
        scores = [judge.score(scene, reading) for scene, reading in zip(scenes, judge.read(self.reader, made))]
        return {
            "style": np.array([one == style for one in found], float),
            "right": np.array([score["all_right"] for score in scores]),
            "share": np.array([score["share_right"] for score in scores]),
            "shown": (made[:2] * 255).round().byte().numpy(),
            "reference": render(reference)[0],
        }


def painted(pictures: list[np.ndarray]) -> torch.Tensor:
    """uint8 pictures as the host's IMAGE."""
    return torch.from_numpy(np.stack(pictures)).float() / 255


def judge_on_painted(work: Path) -> float:
    """How often the judge of style names the style of held-out painted pictures."""
    from ...shapesworld import data, train_style

    held_out = data.Dataset(work / "data" / "held_out")
    pictures, styles = train_style.pictures_of(held_out, np.arange(len(held_out)))
    with torch.no_grad():
        return round(float((train_style.load(work)(pictures).argmax(1) == styles).float().mean()), 4)


def table(folder: Path, work: Path, count: int) -> dict[str, Any]:
    studio, rows = Studio(folder, work), []
    for way in TRANSFERS:
        found = studio.run(way, count)
        row: dict[str, Any] = {"name": way.name, "n": count, "references": count // BATCH}
        for key, values in found.items():
            means = values.reshape(-1, BATCH).mean(1)  # pictures of one reference are no independent samples
            row[key] = metrics.rounded(metrics.mean_interval(means))
        rows.append(row)
    return {"judge": judge_on_painted(work), "rows": rows}
