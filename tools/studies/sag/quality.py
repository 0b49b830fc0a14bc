"""SAG, blur guidance and PAG on ShapesWorld, with and without a prompt, beside CFG of the same effective scale.

`python -m tools.studies.sag.quality` writes output/eval/sag/report.json and unpicked pictures. Resumable: every batch
is kept, by the model's weights and the settings. Scales are chosen on the tuning set, three trials per method; the
table is of the report set, with other seeds. PROFILE=full or a GPU takes 1024 pictures per cell instead of 256.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from tqdm import tqdm

from ...comfy.host import ROOT
from ...comfy.pack import load_packages
from .. import clip_scores, metrics, record

FOLDER = ROOT / "output" / "eval" / "sag"
BATCH, STEPS, CFG = 8, 20, 4.0
TRIALS = {"blur": (0.25, 0.75, 1.5), "SAG": (0.25, 0.75, 1.5), "PAG": (0.5, 1.5, 3.0)}
TUNING_PICTURES = 64
FIRST_SEED = {"report": 0, "tune": 10**6}
SHOWN = 16


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
        return FoveaSelfAttentionGuidance.execute(
            model, scale=self.scale, blur_sigma=self.BLUR, threshold=1.0, mask_mode=mode, branch="auto", blocks="auto",
            start_percent=0.0, end_percent=1.0, every=1, rescale=0.0, kernel="auto",
        ).result[0]  # fmt: skip

    def encode(self, clip: Any, captions: list[str]) -> list:
        from ..generator.quality import encoded

        return encoded(clip, captions)


class Sampled(Protocol):
    """What the studio needs of a way to sample."""

    @property
    def name(self) -> str: ...
    @property
    def prompted(self) -> bool: ...
    @property
    def cfg(self) -> float: ...
    def patch(self, model: Any) -> Any: ...
    def encode(self, clip: Any, captions: list[str]) -> list: ...


class Studio:
    """A model (that of the demo), its judges, and what was sampled so far."""

    def __init__(self, folder: Path, model: Any = None, clip: Any = None) -> None:
        from fovea.models.shapesworld import loader as demo_model

        self.folder = folder
        self.model, self.clip, self.vae = (
            model or demo_model.load_model(),
            clip or demo_model.load_clip(),
            demo_model.load_vae(),
        )
        self.reader, self.clip_b = demo_model.load_reader(), demo_model.load_clip_b()

    def features(self, pictures: torch.Tensor) -> np.ndarray:
        """CLIP B's image vectors of pictures [n, height, width, 3]."""
        return clip_scores.image_vectors(self.clip_b, pictures).double().numpy()

    def run(self, cell: Sampled, which: str, count: int) -> dict[str, np.ndarray]:
        """Sample a cell on a set ("tune", "report") or read what is there: features [n, d], right [n], certain [n]."""
        folder, patched = self.folder / which / cell.name, cell.patch(self.model)
        parts = []
        for start in tqdm(range(0, count, BATCH), desc=f"{which} {cell.name}", mininterval=5):
            make = partial(self._batch, cell, patched, which, start)
            parts.append(metrics.kept(folder / f"{start:04d}.npz", make))
        return {key: np.concatenate([part[key] for part in parts]) for key in ("features", "right", "certain")}

    def _batch(self, cell: Sampled, patched: Any, which: str, start: int) -> dict[str, Any]:
        from ...shapesworld import judge, sets
        from ...shapesworld.world import caption
        from ..generator.quality import encoded, sample_encoded

        scenes = [sets.scene(which, i, 1 + i % 4) for i in range(start, start + BATCH)]
        captions = [caption(scene) if cell.prompted else "" for scene in scenes]
        started = time.monotonic()
        seed = FIRST_SEED[which] + start
        positive, negative = cell.encode(self.clip, captions), encoded(self.clip, [""] * BATCH)
        pictures = sample_encoded(patched, self.vae, positive, negative, BATCH, seed, STEPS, cell.cfg)
        readings = judge.read(self.reader, pictures)
        small = torch.nn.functional.interpolate(pictures.movedim(-1, 1).float(), size=(128, 128), mode="area")
        certain = self.reader(small)[0].softmax(1).amax(1).mean((1, 2)).numpy()
        right = [judge.score(scene, reading)["all_right"] for scene, reading in zip(scenes, readings)]
        kept = (pictures[: max(0, SHOWN - start)] * 255).round().byte().numpy()
        found = {"features": self.features(pictures), "right": np.array(right), "certain": certain, "shown": kept}
        return {**found, "seconds": time.monotonic() - started}

    def seconds(self) -> float:
        """What all pictures took, those of earlier runs included."""
        return sum(float(np.load(path)["seconds"]) for path in self.folder.glob("*/*/*.npz"))

    def real(self, which: str, count: int) -> np.ndarray:
        """Features of painted pictures of the same scenes' distribution as `which`."""
        from ...shapesworld import sets
        from ...shapesworld.world import render

        path = self.folder / which / "real.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            batches = []
            for start in tqdm(range(0, count, 64), desc=f"painting {which}"):
                scenes = [sets.scene(which, i, 1 + i % 4) for i in range(start, min(start + 64, count))]
                pictures = np.stack([render(scene)[0] for scene in scenes])
                batches.append(self.features(torch.from_numpy(pictures).float() / 255))
            np.save(path, np.concatenate(batches))
        return np.load(path)


def weights_and_settings() -> str:
    return record.weights_and((BATCH, STEPS, CFG, Cell.BLUR))


def effective_cfg(studio: Studio, cell: Cell, pictures: int = 16) -> float:
    """The CFG whose pull away from the positive prediction is as strong as the cell's, in the mean over steps.

    Pull: |guided - cond| / |uncond - cond|, which for CFG w alone is w - 1 ("Guidance Matters", arXiv 2602.22570).
    """
    from ...shapesworld import sets
    from ...shapesworld.world import caption
    from ..generator.quality import sample

    ratios: list[float] = []

    def measure(args: dict[str, Any]) -> torch.Tensor:
        pull, unit = args["denoised"] - args["cond_denoised"], args["uncond_denoised"] - args["cond_denoised"]
        ratios.extend((pull.flatten(1).norm(dim=1) / unit.flatten(1).norm(dim=1)).tolist())
        return args["denoised"]

    patched = cell.patch(studio.model).clone()
    patched.set_model_sampler_post_cfg_function(measure)
    for start in range(0, pictures, BATCH):
        captions = [caption(sets.scene("tune", i, 1 + i % 4)) for i in range(start, start + BATCH)]
        seed = FIRST_SEED["tune"] + start
        sample(patched, studio.clip, studio.vae, captions, seed, STEPS, cell.cfg, "euler", "normal")
    return round(1 + float(np.mean(ratios)), 2)


def tune(studio: Studio, pictures: int) -> tuple[dict[str, float], list[dict]]:
    """Best scale of every method with and without a prompt, by KID on the tuning set; and all trials."""
    real = studio.real("tune", 512)
    trials = []
    for prompted, cfg in ((False, 1.0), (True, CFG)):
        for method, scales in TRIALS.items():
            for scale in scales:
                cell = Cell(method, scale, prompted, cfg)
                made = studio.run(cell, "tune", pictures)
                found = {"kid": round(metrics.kid(made["features"], real), 5), "right": round(made["right"].mean(), 3)}
                trials.append({"cell": cell.name, "method": method, "prompted": prompted, "scale": scale, **found})
    best = {}
    for prompted in (False, True):
        for method in TRIALS:
            group = [t for t in trials if t["method"] == method and t["prompted"] == prompted]
            best[f"{method} {prompted}"] = min(group, key=lambda t: t["kid"])["scale"]
    return best, trials


def cells(studio: Studio, best: dict[str, float]) -> list[Cell]:
    """The table's rows."""
    found = []
    for prompted, cfg in ((False, 1.0), (True, CFG)):
        found.append(Cell("none", 0.0, prompted, cfg))
        found += [Cell(method, best[f"{method} {prompted}"], prompted, cfg) for method in TRIALS]
    matched = effective_cfg(studio, Cell("SAG", best["SAG True"], True, CFG))
    return [*found, Cell("none", 0.0, True, matched)]


def measure(made: dict[str, np.ndarray], plain: dict[str, np.ndarray], real: np.ndarray, prompted: bool) -> dict:
    """Every metric as [value, low, high] (95 % bootstrap over pictures); kid and right also against `plain`, paired."""
    features, count = made["features"], len(made["features"])
    reference = real[:count]  # precision and recall need sets of one size

    def with_interval(statistic: Callable[[np.ndarray], float], draws: int = 200) -> list[float]:
        return metrics.rounded((statistic(np.arange(count)), *metrics.bootstrap(statistic, count, draws)), 5)

    def distance(i: np.ndarray) -> float:
        return metrics.kid(features[i], real) - metrics.kid(plain["features"][i], real)

    found = {
        "frechet": with_interval(lambda i: metrics.frechet(features[i], real), 100),
        "kid": with_interval(lambda i: metrics.kid(features[i], real), 100),
        "kid_against_none": with_interval(distance, 100),
        "precision": with_interval(lambda i: metrics.precision_recall(features[i], reference)[0], 50),
        "recall": with_interval(lambda i: metrics.precision_recall(features[i], reference)[1], 50),
        "certain": with_interval(lambda i: float(made["certain"][i].mean())),
    }
    if prompted:
        found["right"] = with_interval(lambda i: float(made["right"][i].mean()))
        found["right_against_none"] = with_interval(lambda i: float((made["right"] - plain["right"])[i].mean()))
    return found


def picture_sheet(studio: Studio, rows: list[Cell], path: Path) -> None:
    """The first pictures of every cell, seeds 0-15 unpicked, one row per cell."""
    from PIL import Image

    lines = []
    for cell in rows:
        files = sorted((studio.folder / "report" / cell.name).glob("*.npz"))[: SHOWN // BATCH]
        shown = np.concatenate([np.load(file)["shown"] for file in files])
        lines.append(np.concatenate([picture[::2, ::2] for picture in shown], axis=1))
    Image.fromarray(np.concatenate(lines, axis=0)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, help="per cell")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    load_packages()
    torch.set_grad_enabled(False)
    studio = Studio(args.out / weights_and_settings())
    full = os.environ.get("PROFILE") == "full" or studio.model.load_device.type == "cuda"
    pictures = args.pictures or (1024 if full else 256)
    pictures -= pictures % BATCH
    tuning = min(TUNING_PICTURES, pictures)
    best, trials = tune(studio, tuning)
    rows = cells(studio, best)
    real = studio.real("report", 1024)
    table = []
    for cell in rows:
        made = studio.run(cell, "report", pictures)
        plain = studio.run(rows[0] if not cell.prompted else next(c for c in rows if c.prompted), "report", pictures)
        table.append({"cell": cell.name, "method": cell.method, "scale": cell.scale, "prompted": cell.prompted,
                      "cfg": cell.cfg, "n": pictures, **measure(made, plain, real, cell.prompted)})  # fmt: skip
    picture_sheet(studio, rows, args.out / "pictures.png")
    report = {
        **record.source(), "device": str(studio.model.load_device), "pictures": pictures, "steps": STEPS,
        "sampler": "euler / normal", "seeds": FIRST_SEED, "seconds": round(studio.seconds()),
        "tuning": {"pictures": tuning, "chosen_by": "kid", "trials": trials, "chosen": best}, "table": table,
    }  # fmt: skip
    (args.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
