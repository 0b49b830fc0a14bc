"""What each text encoder of the two does: CLIP alone, T5 alone, both, weights by noise level, and who is attended to.

The model is one, trained with each encoder left out by itself; "alone" gives the other an empty prompt.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...shapesworld import sets, t5_words, words
from .. import metrics
from ..demo_setup import DemoSetup
from ..experts.quality import Way
from ..picture_sets import PictureSets
from ..sampling import joined, sample

TOKENS = 77  # of CLIP, before T5's
GROUPS = ("CLIP words", "CLIP rest", "T5 words", "T5 rest")


@dataclass(frozen=True)
class Reading:
    """A way to give a prompt: weights of CLIP and of T5 over the schedule, as Encoder Schedule takes them."""

    name: str
    curves: tuple[str, str]
    prompted: bool = True
    cfg: float = 4.0

    def patch(self, model: Any) -> Any:
        return model

    def encode(self, clip: Any, captions: list[str]) -> list:
        from fovea.nodes.encoder_schedule import CUSTOM, FoveaEncoderSchedule

        return joined([
            FoveaEncoderSchedule.execute(clip, text, "", "", CUSTOM, *self.curves, segments=16, guidance=0.0).result[0]
            for text in captions
        ])  # fmt: skip


def readings() -> list[Reading]:
    """Encoder Schedule's presets."""
    from fovea.guidance.encoder_schedule.curves import PRESETS

    order = ("both", "CLIP only", "T5 only", "eDiff-I", "T5 first")
    return [Reading(name, PRESETS[name]) for name in order]


def pictures(folder: Path, one: DemoSetup, two: DemoSetup, count: int) -> list[dict]:
    """A row per reading, against both encoders; the model before it had two, first."""
    before, made = PictureSets(folder / "before", one), PictureSets(folder, two)
    base = before.run(Way("base", ()), "report", count)
    found = {reading.name: made.run(reading, "report", count) for reading in readings()}
    return made.compared({"before: one encoder": base, **found}, "both")


def attended(two: DemoSetup, count: int = 16, steps: int = 20) -> dict[str, Any]:
    """How much of cross-attention goes to CLIP's words, to T5's words and to the rest, per step, in the mean over
    layers, heads, places and prompts."""
    found: dict[float, list[np.ndarray]] = defaultdict(list)
    for i, text in enumerate(sets.captions("tune", 0, count)):
        clip_words = int(words.ends(words.encode(text)[None])[0])
        t5_end = int((t5_words.encode(text) == 1).argmax())
        groups = torch.zeros(4, TOKENS + t5_words.LONGEST)  # GROUPS
        groups[0, 1:clip_words] = 1
        groups[1, :TOKENS] = 1 - groups[0, :TOKENS]
        groups[2, TOKENS : TOKENS + t5_end] = 1
        groups[3, TOKENS:] = 1 - groups[2, TOKENS:]

        def watch(attend: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, groups: Tensor = groups,
                  **named: Any) -> Tensor:  # fmt: skip
            options = named.get("transformer_options") or {}
            if k.shape[1] == groups.shape[1]:
                split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k)]
                weights = (split[0] @ split[1].mT / split[0].shape[-1] ** 0.5).softmax(-1)
                each = weights.mean((1, 2)).float().cpu() @ groups.T
                rows = each.cpu().unflatten(0, (len(options["cond_or_uncond"]), -1))[options["cond_or_uncond"].index(0)]
                found[float(options["sigmas"][0])].append(rows.mean(0).numpy())
            return attend(q, k, v, heads, *args, **named)

        patched = two.model.clone()
        patched.model_options["transformer_options"]["optimized_attention_override"] = watch
        sample(two, [text], i, steps, 4.0, model=patched)
    levels = sorted(found, reverse=True)
    shares = np.array([np.mean(found[level], axis=0) for level in levels])
    table = {name: metrics.rounded(shares[:, k].tolist()) for k, name in enumerate(GROUPS)}
    return {"sigma": metrics.rounded(levels), "prompts": count, **table}
