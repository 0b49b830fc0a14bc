"""Do experts by noise level help on ShapesWorld? Loss per noise level, and pictures, against training on as before.

Needs what `python -m tools.shapesworld.train --stage experts --minutes 81` trains. The control saw all noise for the
time of the two experts together; three experts had a quarter more than that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...comfy.host import ROOT
from .. import metrics

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

        from ...shapesworld.train_experts import EXPERTS

        first, *later = [with_change(model, part, self.whole) for part in self.parts] or [model]
        if not later:
            return first
        sigmas = ModelSamplingDiscrete().sigmas
        below = [noise_levels.half_log_snr(float(sigmas[EXPERTS[part].low]), False) for part in self.parts]
        return ExpertSwitch.of(first, [Expert(*each) for each in zip(later, below)]).patched(first)

    def encode(self, clip: Any, captions: list[str]) -> list:
        from ..generator.quality import encoded

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

    from ...shapesworld.train_experts import base, lora, trained

    if not whole:
        return comfy.sd.load_lora_for_models(model, None, lora(WORK, part), 1.0, 0.0)[0]
    after, clone = trained(WORK, part), model.clone()
    clone.add_patches({f"diffusion_model.{key}": (after[key] - value,) for key, value in base().items()})
    return clone


def held_out_latents(folder: Path) -> tuple[Tensor, list[str]]:
    """Encoded held-out pictures [n, 4, 32, 32] at the model's scale, and their captions."""
    from fovea.models.shapesworld import loader as demo_model

    from ...shapesworld import data
    from ...shapesworld.world import caption

    path = folder / "held_out.npy"
    pictures = data.build(WORK / "data" / "held_out", "held_out", 1024)
    if not path.exists():
        vae = demo_model.load_vae()
        batches = [vae.encode(torch.from_numpy(np.array(pictures.pictures[i : i + 16])).float() / 255)
                   for i in tqdm(range(0, SAMPLES, 16), desc="encoding")]  # fmt: skip
        np.save(path, torch.cat(batches).numpy())
    scale = demo_model.manifest()["latents"]["scale_factor"]
    return torch.from_numpy(np.load(path)) * scale, [caption(scene) for scene in pictures.scenes[:SAMPLES]]


def per_level(predict: Callable[[Tensor, Tensor, Tensor], Tensor], latents: Tensor, contexts: Tensor) -> np.ndarray:
    """v-prediction's mean squared error [BINS, n]: each picture once per tenth of the timesteps, same noise for all."""
    from ...shapesworld.train_unet import alphas_bar

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


def losses(folder: Path) -> dict[str, Any]:
    """Loss per tenth of the timesteps, and each trained part less the shipped model, paired, with 95 % intervals."""
    from fovea.models.shapesworld import generator as shapesworld
    from fovea.models.shapesworld import loader as demo_model

    from ...shapesworld.train_experts import EXPERTS, base, trained
    from ..generator.quality import encoded

    latents, captions = held_out_latents(folder)
    contexts = encoded(demo_model.load_clip(), captions)[0][0].float()
    network, kept = shapesworld.unet(), {}
    for name in ("base", *EXPERTS):
        path = folder / f"losses_{name}.npy"
        if not path.exists():
            network.load_state_dict(base() if name == "base" else trained(WORK, name))
            np.save(path, per_level(lambda x, t, c: network(x, t, context=c), latents, contexts))
        kept[name] = np.load(path)
    table: dict[str, Any] = {"timesteps": [part * 1000 // BINS for part in range(BINS + 1)], "n": len(latents)}
    for name, values in kept.items():
        table[name] = metrics.rounded(values.mean(1), 5)
        if name != "base":
            table[f"{name} less base"] = [with_interval(row) for row in values - kept["base"]]
    for name in set(EXPERTS) - {"expert_control"}:
        table[f"{name} less control"] = [with_interval(row) for row in kept[name] - kept["expert_control"]]
    return table


def with_interval(row: np.ndarray) -> list[float]:
    """Mean and 95 % interval over pictures."""
    return metrics.rounded(metrics.mean_interval(row), 5)


def pictures(folder: Path, count: int) -> list[dict]:
    """A row per way, against the shipped model."""
    from ..sag.quality import Studio, measure

    studio = Studio(folder)
    real, rows = studio.real("report", 1024), []
    plain = studio.run(WAYS[0], "report", count)
    for way in WAYS:
        made = studio.run(way, "report", count)
        rows.append({"name": way.name, "n": count, **measure(made, plain, real, True)})
    return rows
