"""Do experts by noise level help on ShapesWorld? Loss per noise level, and pictures, against training on as before.

`python -m tools.eval.experts` needs what `python -m tools.shapesworld.train --stage experts` trains, and writes
output/eval/experts/report.json. The control saw all noise for the time of both experts together. Resumable.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .. import record
from ..host import ROOT
from ..pack import load_packages
from . import metrics

FOLDER, WORK = ROOT / "output" / "eval" / "experts", ROOT / "output" / "shapesworld"
BINS, SAMPLES, BATCH = 10, 512, 32
PICTURES = 256


@dataclass(frozen=True)
class Way:
    """A way to sample. parts: none is the shipped model, one what was trained on, two experts from high noise to low."""

    name: str
    parts: tuple[str, ...]
    whole: bool = False  # the trained weights themselves instead of their low rank
    prompted: bool = True
    cfg: float = 4.0

    def patch(self, model: Any) -> Any:
        from comfy.model_sampling import ModelSamplingDiscrete

        from fovea.guidance import noise_levels
        from fovea.guidance.host_experts import Expert, ExpertSwitch

        from ..shapesworld.train_experts import SPLIT

        changed = [with_change(model, part, self.whole) for part in self.parts]
        if not changed:
            return model
        if len(changed) == 1:
            return changed[0]
        below = noise_levels.half_log_snr(float(ModelSamplingDiscrete().sigmas[SPLIT]), False)
        return ExpertSwitch.of(changed[0], [Expert(changed[1], below)]).patched(changed[0])


WAYS = (
    Way("base", ()),
    Way("trained on", ("expert_control",), whole=True),
    Way("2 experts", ("expert_high", "expert_low"), whole=True),
    Way("2 experts as LoRA", ("expert_high", "expert_low")),
)


def with_change(model: Any, part: str, whole: bool) -> Any:
    """The shipped model with a trained change: all of it, or what ships of it."""
    import comfy.sd

    from ..shapesworld.train_experts import base, lora

    if not whole:
        return comfy.sd.load_lora_for_models(model, None, lora(WORK, part), 1.0, 0.0)[0]
    trained = torch.load(WORK / f"{part}.pt", map_location="cpu", weights_only=True)["ema"]
    before = base()
    clone = model.clone()
    clone.add_patches({f"diffusion_model.{key}": (trained[f"unet.{key}"] - before[key],) for key in before})
    return clone


def held_out_latents() -> tuple[Tensor, list[str]]:
    """Encoded held-out pictures [n, 4, 32, 32] at the model's scale, and their captions."""
    from fovea.models import demo

    from ..shapesworld import data
    from ..shapesworld.world import caption

    path = FOLDER / "held_out.npy"
    pictures = data.build(WORK / "data" / "held_out", "held_out", 1024)
    if not path.exists():
        vae = demo.load_vae()
        batches = [vae.encode(torch.from_numpy(np.array(pictures.pictures[i : i + 16])).float() / 255)
                   for i in tqdm(range(0, SAMPLES, 16), desc="encoding")]  # fmt: skip
        np.save(path, torch.cat(batches).numpy())
    scale = demo.manifest()["latents"]["scale_factor"]
    return torch.from_numpy(np.load(path)) * scale, [caption(scene) for scene in pictures.scenes[:SAMPLES]]


def losses(predict: Callable[[Tensor, Tensor, Tensor], Tensor], latents: Tensor, contexts: Tensor) -> np.ndarray:
    """v-prediction's mean squared error [BINS, n]: each picture once per tenth of the timesteps, same noise for all."""
    from ..shapesworld.train_unet import alphas_bar

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


def loss_table() -> dict[str, Any]:
    """Loss per tenth of the timesteps, and each trained part less the shipped model, paired, with 95 % intervals."""
    from fovea.models import demo, shapesworld

    from ..shapesworld.train_experts import EXPERTS, base

    latents, captions = held_out_latents()
    clip = demo.load_clip()
    encoded = [clip.encode_from_tokens(clip.tokenize(text)) for text in tqdm(captions, desc="captions")]
    contexts = torch.cat(encoded).float()
    network, kept = shapesworld.unet(), {}
    for name in ("base", *EXPERTS):
        path = FOLDER / f"losses_{name}.npy"
        if not path.exists():
            state = base() if name == "base" else {
                key.removeprefix("unet."): value for key, value in
                torch.load(WORK / f"{name}.pt", map_location="cpu", weights_only=True)["ema"].items()}  # fmt: skip
            network.load_state_dict(state)
            np.save(path, losses(lambda x, t, c: network(x, t, context=c), latents, contexts))
        kept[name] = np.load(path)
    table: dict[str, Any] = {"timesteps": [part * 1000 // BINS for part in range(BINS + 1)], "n": len(latents)}
    for name, values in kept.items():
        table[name] = metrics.rounded(values.mean(1), 5)
        if name != "base":
            less = values - kept["base"]
            table[f"{name} less base"] = [
                metrics.rounded((row.mean(), *metrics.bootstrap(lambda i, row=row: float(row[i].mean()), len(row))), 5)
                for row in less
            ]
    for name in ("expert_high", "expert_low"):
        less = kept[name] - kept["expert_control"]
        table[f"{name} less control"] = [
            metrics.rounded((row.mean(), *metrics.bootstrap(lambda i, row=row: float(row[i].mean()), len(row))), 5)
            for row in less
        ]
    return table


def picture_table(count: int) -> list[dict]:
    from .sag import Studio, measure

    trained = sorted(path.stat().st_mtime_ns for path in WORK.glob("expert_*.pt"))
    studio = Studio(FOLDER / record.weights_and(("experts", *trained)))
    real, rows, plain = studio.real("report", 1024), [], None
    for way in WAYS:
        made = studio.run(way, "report", count)
        plain = made if plain is None else plain
        rows.append({"way": way.name, "n": count, **measure(made, plain, real, True)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=PICTURES, help="per way; 0: losses only")
    args = parser.parse_args()
    load_packages()
    torch.set_grad_enabled(False)
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "report.json"
    report = {"commit": record.commit(), "losses": loss_table()}
    if args.pictures:
        report["pictures"] = picture_table(args.pictures)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
