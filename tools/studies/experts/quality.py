"""Do experts by noise level help on ShapesWorld? Loss per noise level, and pictures, against training on as before.

Needs what `python -m tools.shapesworld.train --stage experts --minutes 81` trains. The control saw all noise for the
time of the two experts together; three experts had a quarter more than that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...comfy.host import ROOT
from ...shapesworld import data
from ...shapesworld.train_experts import EXPERTS, base, lora, trained
from ...shapesworld.train_unet import alphas_bar
from ...shapesworld.world import caption
from .. import metrics, record
from ..demo_setup import DemoSetup
from ..picture_sets import PictureSets
from ..sampling import encoded, painted

WORK = ROOT / "output" / "shapesworld"
BINS, SAMPLES, BATCH = 10, 512, 32


@dataclass(frozen=True)
class Way:
    """A way to sample. parts: none is the shipped model, one a trained one, two are experts from high noise to low."""

    name: str
    parts: tuple[str, ...]
    whole: bool = False  # the trained weights themselves instead of their low rank
    prompted: bool = True
    cfg: float = 4.0

    def patch(self, model: Any) -> Any:
        from comfy.model_sampling import ModelSamplingDiscrete

        from fovea.guidance import noise_levels
        from fovea.guidance.experts.model_patch import Expert, ExpertSwitch

        first, *later = [with_change(model, part, self.whole) for part in self.parts] or [model]
        if not later:
            return first
        sigmas = ModelSamplingDiscrete().sigmas
        below = [noise_levels.half_log_snr(float(sigmas[EXPERTS[part].low]), False) for part in self.parts]
        return ExpertSwitch.of(first, [Expert(*each) for each in zip(later, below)]).patched(first)

    def encode(self, clip: Any, captions: list[str]) -> list:
        return encoded(clip, captions)


WAYS = (
    Way("base", ()),
    Way("trained on", ("expert_control",), whole=True),
    Way("2 experts", ("expert_high", "expert_low"), whole=True),
    Way("2 experts as LoRA", ("expert_high", "expert_low")),
    Way("3 experts", ("expert_top", "expert_high", "expert_low"), whole=True),
)


def with_change(model: Any, part: str, whole: bool) -> Any:
    """The shipped model with a trained change: all of it, or what ships of it."""
    import comfy.sd

    if not whole:
        return comfy.sd.load_lora_for_models(model, None, lora(WORK, part), 1.0, 0.0)[0]
    after, clone = trained(WORK, part), model.clone()
    clone.add_patches({f"diffusion_model.{key}": (after[key] - value,) for key, value in base().items()})
    return clone


def held_out_latents(folder: Path, demo: DemoSetup) -> tuple[Tensor, list[str]]:
    """Encoded held-out pictures [n, 4, 32, 32] at the model's scale, and their captions."""
    pictures = data.build(WORK / "data" / "held_out", "held_out", 1024)

    def made() -> np.ndarray:
        starts = tqdm(range(0, SAMPLES, 16), desc="encoding")
        return torch.cat([demo.vae.encode(painted(pictures.pictures[i : i + 16])) for i in starts]).numpy()

    scale = demo.loader.manifest()["latents"]["scale_factor"]
    latents = torch.from_numpy(record.kept_array(folder / "held_out.npy", made)) * scale
    return latents, [caption(scene) for scene in pictures.scenes[:SAMPLES]]


def per_level(predict: Callable[[Tensor, Tensor, Tensor], Tensor], latents: Tensor, contexts: Tensor) -> np.ndarray:
    """v-prediction's mean squared error [BINS, n]: each picture once per tenth of the timesteps, same noise for all."""
    abar, found = alphas_bar(torch.device("cpu")), np.zeros((BINS, len(latents)))
    for part in range(BINS):
        generator = torch.Generator().manual_seed(part)
        t = torch.randint(part * 1000 // BINS, (part + 1) * 1000 // BINS, (len(latents),), generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        a = abar[t].view(-1, 1, 1, 1)
        target = a.sqrt() * noise - (1 - a).sqrt() * latents
        x = a.sqrt() * latents + (1 - a).sqrt() * noise
        for start in range(0, len(latents), BATCH):
            rows = slice(start, start + BATCH)
            out = predict(x[rows], t[rows], contexts[rows])
            found[part, rows] = (out - target[rows]).square().mean((1, 2, 3)).numpy()
    return found


def losses(folder: Path, demo: DemoSetup) -> dict[str, Any]:
    """Loss per tenth of the timesteps, and each trained part less the shipped model, paired, with 95 % intervals."""
    from fovea.models.shapesworld import generator

    latents, captions = held_out_latents(folder, demo)
    contexts = encoded(demo.clip, captions)[0][0].float()
    network = generator.unet()

    def made(name: str) -> np.ndarray:
        network.load_state_dict(base() if name == "base" else trained(WORK, name))
        return per_level(lambda x, t, c: network(x, t, context=c), latents, contexts)

    names = ("base", *EXPERTS)
    kept = {name: record.kept_array(folder / f"losses_{name}.npy", partial(made, name)) for name in names}
    table: dict[str, Any] = {"timesteps": [part * 1000 // BINS for part in range(BINS + 1)], "n": len(latents)}
    for name, values in kept.items():
        table[name] = metrics.rounded(values.mean(1), 5)
        if name != "base":
            table[f"{name} less base"] = [metrics.difference(row, 5) for row in values - kept["base"]]
    for name in set(EXPERTS) - {"expert_control"}:
        table[f"{name} less control"] = [metrics.difference(row, 5) for row in kept[name] - kept["expert_control"]]
    return table


def pictures(folder: Path, demo: DemoSetup, count: int) -> list[dict]:
    """A row per way, against the shipped model."""
    sets = PictureSets(folder, demo)
    return sets.compared({way.name: sets.run(way, "report", count) for way in WAYS}, "base")
