"""What a model that was trained to follow regions makes of each way of telling it: beside the shipped one, and beside
a sham that saw the same pictures for as long without being told anything.

`python -m tools.studies.regions.trained` writes output/eval/regions/trained.json, on layouts and seeds of the set
*start*. The sham does not ship: `python -m tools.shapesworld.train --stage latents --continue-shipped`, then `--stage
steered --minutes 22`, leave it in the work folder. Resumable, by weights and settings.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ...comfy.host import ROOT
from ...shapesworld import sets, train_lora
from ...shapesworld.shipped_weights import CHANGES
from .. import metrics, record
from ..demo_setup import DemoSetup
from ..processes import begin, in_processes
from .methods import METHODS, START, Method, settings
from .quality import CFG, FOLDER, PAINTED, STEPS, Layouts, summary, weights

WORK = ROOT / "output" / "shapesworld"
TRAINED, SHAM = "steered", "steered_sham"  # as training names them
MODELS = ("shipped", "trained", "sham")
LAYOUTS = 40
COMPARED: dict[str, Method] = {
    name: {**METHODS, **START}[name]
    for name in ("none", "paper", "paint with words 0.4", "paint with words 4", "dense diffusion",
                 "painted start, dense diffusion")
}  # fmt: skip


class Sham(DemoSetup):
    """The generator with the change that was trained without steering."""

    def __init__(self, work: Path) -> None:
        super().__init__()
        self.change: dict[str, Tensor] = train_lora.file_of(work, SHAM)

    @cached_property
    def model(self) -> Any:
        import comfy.sd

        return comfy.sd.load_lora_for_models(self.loader.load_model(self.folder), None, self.change, 1.0, 0.0)[0]


def drawn(out: Path, model: str, work: Path) -> Layouts:
    """What was drawn so far by a model."""
    if model == "sham":
        sham = Sham(work)
        digest = hashlib.sha256(save(sham.change)).hexdigest()[:12]
        return Layouts(out / record.weights_and((STEPS, CFG, digest)), sham)
    demo = DemoSetup(kind={"shipped": "unet", "trained": "steered"}[model])
    return Layouts(out / weights(demo), demo)


def draw(out: Path, work: Path, count: int, jobs: list[tuple[str, str]]) -> None:
    """What a process does: the rows of some models' methods."""
    for model in MODELS:
        names = [name for own, name in jobs if own == model]
        if names:
            found = drawn(out, model, work)
            for name in names:
                found.run(name, COMPARED[name], "start", count)


def in_place(rows: list[dict]) -> np.ndarray:
    """Per layout, the share of its objects that are in place."""
    return np.array([np.mean(row["there"]) for row in rows])


def table_of(rows: dict[str, dict[str, list[dict]]], real: np.ndarray) -> dict[str, dict[str, dict[str, Any]]]:
    """By model and method what `summary` says, against the model's own "none"; and "there_over_sham" of the trained
    one, paired by layout."""
    table = {model: {name: {"settings": settings(COMPARED[name]), **summary(own, real, found["none"])}
                     for name, own in found.items()} for model, found in rows.items()}  # fmt: skip
    for name, row in table["trained"].items():
        row["there_over_sham"] = metrics.difference(in_place(rows["trained"][name]) - in_place(rows["sham"][name]))
    return table


def training_minutes(work: Path, part: str) -> float:
    """How long a part was trained."""
    return round(torch.load(work / f"{part}.pt", map_location="cpu", weights_only=True)["seconds"] / 60, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layouts", type=int, default=LAYOUTS)
    parser.add_argument("--processes", type=int, default=max(1, os.cpu_count() or 1))
    parser.add_argument("--work", type=Path, default=WORK, help="where training left its checkpoints")
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    begin()
    jobs = [(model, name) for model in MODELS for name in COMPARED]
    if args.processes > 1:
        in_processes(draw, [(args.out, args.work, args.layouts, jobs[i :: args.processes])
                            for i in range(args.processes)])  # fmt: skip
    made = {model: drawn(args.out, model, args.work) for model in MODELS}
    rows = {model: {name: found.run(name, method, "start", args.layouts) for name, method in COMPARED.items()}
            for model, found in made.items()}  # fmt: skip
    table = table_of(rows, made["shipped"].real())
    record.write(args.out / "trained.json", {
        **record.source(*CHANGES["steered"]), "layouts": args.layouts, "steps": STEPS, "cfg": CFG, "painted": PAINTED,
        "reference": sets.REFERENCE,
        "minutes": {"trained": training_minutes(args.work, TRAINED), "sham": training_minutes(args.work, SHAM)},
        "table": table,
    })  # fmt: skip
    for model, found in table.items():
        for name, row in found.items():
            print(f"{model:<8} {name:<32} there {row['there']} iou {row['iou'][0]} all right {row['all right'][0]}")


if __name__ == "__main__":
    main()
