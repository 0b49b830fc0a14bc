"""The generator's report card: held-out prompts, the host's own sampler, judged by the reader.

`python -m tools.studies.generator.quality` writes output/eval/shapesworld.json and a sheet of unpicked pictures.
Resumable: every batch is kept, by the weights and the settings.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ...comfy.host import ROOT
from ...comfy.pack import load_packages
from ...shapesworld import judge, sets
from .. import record

SHOWN = 64  # pictures on the sheet


def sample(
    model, clip, vae, captions: list[str], seed: int, steps: int, cfg: float, sampler: str, scheduler: str
) -> torch.Tensor:
    """Pictures [B, 256, 256, 3] through the host's sampling path."""
    positive, negative = encoded(clip, captions), encoded(clip, [""] * len(captions))
    return sample_encoded(model, vae, positive, negative, len(captions), seed, steps, cfg, sampler, scheduler)


def sample_encoded(
    model: Any, vae: Any, positive: list, negative: list, count: int, seed: int, steps: int, cfg: float,
    sampler: str = "euler", scheduler: str = "normal", start: torch.Tensor | None = None, denoise: float = 1.0,
) -> torch.Tensor:  # fmt: skip
    """The same from CONDITIONING. start: latents [B, 4, 32, 32] to begin with, of which `denoise` is made anew."""
    import comfy.sample

    latent = torch.zeros(count, 4, 32, 32) if start is None else start
    noise = comfy.sample.prepare_noise(latent, seed)
    return vae.decode(comfy.sample.sample(
        model, noise, steps, cfg, sampler, scheduler, positive, negative, latent, denoise=denoise, disable_pbar=True,
        seed=seed,
    ))  # fmt: skip


def encoded(clip: Any, captions: list[str]) -> list:
    """CONDITIONING of a batch: a caption for each picture."""
    return joined([clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in captions])


def joined(conditionings: list[list]) -> list:
    """CONDITIONINGs of one picture each as that of a batch; they have the same parts, in the same windows."""
    found = []
    for parts in zip(*conditionings, strict=True):
        features, pooled = zip(*((part[0], part[1]["pooled_output"]) for part in parts))
        found.append([torch.cat(features), {**parts[0][1], "pooled_output": torch.cat(pooled)}])
    return found


def summarise(rows: list[dict]) -> dict:
    """Means per number of objects with bootstrap 95 % intervals over prompts."""
    rng = np.random.default_rng(0)
    table: dict[str, Any] = {}
    for count in sorted({r["count"] for r in rows}):
        part = [r for r in rows if r["count"] == count]
        table[str(count)] = {"n": len(part)}
        for key in ("all_right", "exact", "share_right"):
            values = np.array([r[key] for r in part])
            draws = values[rng.integers(len(values), size=(2000, len(values)))].mean(1)
            table[str(count)][key] = [round(float(x), 4) for x in (values.mean(), *np.quantile(draws, (0.025, 0.975)))]
    table["background_right"] = round(float(np.mean([r["background_right"] for r in rows])), 4)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--sampler", default="euler")
    parser.add_argument("--scheduler", default="normal")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--demo", type=Path, default=record.DEMO, help="folder of the shipped files")
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "eval")
    args = parser.parse_args()

    load_packages()
    from PIL import Image

    from fovea.models.shapesworld import loader as demo_model

    torch.set_grad_enabled(False)
    args.out.mkdir(parents=True, exist_ok=True)
    model, clip, vae, reader = (
        f(args.demo) for f in (demo_model.load_model, demo_model.load_clip, demo_model.load_vae, demo_model.load_reader)
    )
    prompts = sets.report_prompts(args.prompts)
    how = (args.steps, args.cfg, args.sampler, args.scheduler)
    folder = args.out / "shapesworld" / record.weights_and((*how, args.batch), demo=args.demo)
    rows: list[dict] = []
    shown: list[np.ndarray] = []
    seconds = 0.0

    def judged(i: int, part: list, strip: Path) -> dict[str, Any]:
        """A batch of prompts from the i-th on: rows, seconds; and the pictures in a row."""
        started = time.time()
        pictures = sample(model, clip, vae, [caption for _, caption in part], i, *how)
        found = [
            {"index": i + k, "seed": i, "count": len(scene.things), "caption": caption, "read": reading.describe(),
             **judge.score(scene, reading)}
            for k, ((scene, caption), reading) in enumerate(zip(part, judge.read(reader, pictures)))
        ]  # fmt: skip
        seconds = time.time() - started
        strip.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(list((pictures * 255).round().byte().cpu().numpy()), 1)).save(strip)
        return {"rows": found, "seconds": seconds}

    for i in tqdm(range(0, len(prompts), args.batch), desc="report set"):
        part, path = prompts[i : i + args.batch], folder / f"{i:04d}.json"
        batch = record.kept(path, partial(judged, i, part, path.with_suffix(".png")))
        rows, seconds = rows + batch["rows"], seconds + batch["seconds"]
        if len(part) == args.batch and len(shown) * args.batch < SHOWN:
            shown.append(np.array(Image.open(path.with_suffix(".png"))))
    grid = np.concatenate(shown, 0)
    Image.fromarray(grid).resize((grid.shape[1] // 2, grid.shape[0] // 2)).save(args.out / "shapesworld.png")
    report = {
        "settings": {k: getattr(args, k) for k in ("prompts", "steps", "cfg", "sampler", "scheduler", "batch")},
        **record.source(demo=args.demo),
        "device": str(model.load_device),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "seconds_per_picture": round(seconds / len(prompts), 3),
        "table": summarise(rows),
        "rows": rows,
    }
    (args.out / "shapesworld.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: report[k] for k in ("settings", "seconds_per_picture", "table")}, indent=1))


if __name__ == "__main__":
    main()
