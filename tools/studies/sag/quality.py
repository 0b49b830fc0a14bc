"""SAG, blur guidance and PAG on ShapesWorld, with a prompt, beside CFG of the same effective scale, or without one.

`python -m tools.studies.sag.quality --prompts with` writes output/eval/sag/with.json and unpicked pictures. Resumable:
every batch is kept, by the model's weights and the settings. Scales are chosen on the tuning set, three trials per
method; the table is of the report set, with other seeds. PROFILE=full or a GPU takes 1024 pictures per cell instead of
256.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from ...comfy.host import ROOT
from ...comfy.node_values import arguments
from ...shapesworld import sets
from ...shapesworld.shipped_weights import DEMO
from .. import metrics, record
from ..demo_setup import DemoSetup
from ..picture_sets import BATCH, CFG, FIRST_SEED, STEPS, Patched, PictureSets, measure
from ..processes import begin
from ..sampling import encoded, sample

FOLDER = ROOT / "output" / "eval" / "sag"
TRIALS = {"blur": (0.25, 0.75, 1.5), "SAG": (0.25, 0.75, 1.5), "PAG": (0.5, 1.5, 3.0)}
TUNING_PICTURES = 64


@dataclass(frozen=True)
class Cell:
    """One way to sample. prompted: the report set's prompts, else none; cfg 1 evaluates no negative prompt."""

    method: str  # none, blur, SAG, PAG
    scale: float
    prompted: bool
    cfg: float
    BLUR: ClassVar[float] = 2.0

    @property
    def name(self) -> str:
        return f"{'prompt' if self.prompted else 'empty'}_cfg{self.cfg:g}_{self.method}{self.scale:g}"

    def patch(self, model: Any) -> Any:
        """The model with the method in it."""
        from comfy_extras.nodes_pag import PerturbedAttentionGuidance

        from fovea.nodes.sag import FoveaSelfAttentionGuidance

        if self.method == "none":
            return model
        if self.method == "PAG":
            return PerturbedAttentionGuidance.execute(model, self.scale).result[0]
        mode = "global" if self.method == "blur" else "threshold"
        return FoveaSelfAttentionGuidance.execute(**arguments(
            FoveaSelfAttentionGuidance, model=model, scale=self.scale, blur_sigma=self.BLUR, mask_mode=mode,
        )).result[0]  # fmt: skip

    def encode(self, clip: Any, captions: list[str]) -> list:
        return encoded(clip, captions)


def weights_and_settings(demo: DemoSetup) -> str:
    return record.weights_and((BATCH, STEPS, CFG, Cell.BLUR, demo.means), demo.more, demo.folder)


def effective_cfg(demo: DemoSetup, cell: Patched, pictures: int = 16) -> float:
    """The CFG whose pull away from the positive prediction is as strong as the cell's, in the mean over steps.

    Pull: |guided - cond| / |uncond - cond|, which for CFG w alone is w - 1 ("Guidance Matters", arXiv 2602.22570).
    """
    ratios: list[float] = []

    def watch(args: dict[str, Any]) -> torch.Tensor:
        pull, unit = args["denoised"] - args["cond_denoised"], args["uncond_denoised"] - args["cond_denoised"]
        ratios.extend((pull.flatten(1).norm(dim=1) / unit.flatten(1).norm(dim=1)).tolist())
        return args["denoised"]

    patched = cell.patch(demo.model).clone()
    patched.set_model_sampler_post_cfg_function(watch)
    for start in range(0, pictures, BATCH):
        captions = sets.captions("tune", start, BATCH)
        sample(demo, captions, FIRST_SEED["tune"] + start, STEPS, cell.cfg, model=patched)
    return round(1 + float(np.mean(ratios)), 2)


def methods(kind: str) -> list[str]:
    """What is compared. ComfyUI's PAG knows no other attention than the UNet's."""
    return [name for name in TRIALS if name != "PAG" or kind != "dit"]


def tune(made: PictureSets, pictures: int, prompted: bool) -> tuple[dict[str, float], list[dict]]:
    """Best scale of every method, by KID on the tuning set; and all trials."""
    real, trials = made.real(512), []
    for method in methods(made.demo.kind):
        for scale in TRIALS[method]:
            cell = Cell(method, scale, prompted, CFG if prompted else 1.0)
            found = made.run(cell, "tune", pictures)
            trials.append({
                "cell": cell.name, "method": method, "prompted": prompted, "scale": scale,
                "kid": round(metrics.kid(found["features"], real), 5), "right": round(found["right"].mean(), 3),
            })  # fmt: skip
    best = {method: min((t for t in trials if t["method"] == method), key=lambda t: t["kid"])["scale"]
            for method in methods(made.demo.kind)}  # fmt: skip
    return best, trials


def cells(demo: DemoSetup, best: dict[str, float], prompted: bool) -> list[Cell]:
    """The table's rows; with a prompt the last is plain CFG, as strong as SAG and CFG together."""
    cfg = CFG if prompted else 1.0
    found = [Cell("none", 0.0, prompted, cfg), *(Cell(method, scale, prompted, cfg) for method, scale in best.items())]
    if prompted:
        found.append(Cell("none", 0.0, True, effective_cfg(demo, Cell("SAG", best["SAG"], True, CFG))))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, help="per cell")
    parser.add_argument("--prompts", choices=("with", "without"), default="with")
    parser.add_argument("--model", choices=("unet", "dit"), default="unet", help="of another: <model>_with.json")
    parser.add_argument("--demo", type=Path, default=DEMO)
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    device, demo = begin(), DemoSetup(args.demo, args.model)
    made = PictureSets(args.out / weights_and_settings(demo), demo)
    full = os.environ.get("PROFILE") == "full" or device.type == "cuda"
    pictures = args.pictures or (1024 if full else 256)
    pictures -= pictures % BATCH
    tuning, prompted = min(TUNING_PICTURES, pictures), args.prompts == "with"
    best, trials = tune(made, tuning, prompted)
    rows = cells(demo, best, prompted)
    found = {cell: made.run(cell, "report", pictures) for cell in rows}
    real, table = made.real(1024), []
    for cell in rows:
        table.append({"cell": cell.name, "method": cell.method, "scale": cell.scale, "prompted": prompted,
                      "cfg": cell.cfg, "n": pictures,
                      **measure(found[cell], found[rows[0]], real, prompted)})  # fmt: skip
    name = args.prompts if args.model == "unet" else f"{args.model}_{args.prompts}"
    Image.fromarray(np.concatenate([made.shown(cell) for cell in rows])).save(args.out / f"{name}.png")
    record.write(args.out / f"{name}.json", {
        **record.source(*demo.more, demo=args.demo), "model": args.model,
        "means": bool(demo.means) and not prompted, "device": str(demo.model.load_device), "pictures": pictures,
        "steps": STEPS, "sampler": "euler / normal", "reference": sets.REFERENCE,
        "seeds": FIRST_SEED, "seconds": round(made.seconds()),
        "tuning": {"pictures": tuning, "chosen_by": "kid", "trials": trials, "chosen": best}, "table": table,
    })  # fmt: skip
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
