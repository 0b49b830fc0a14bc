"""Pictures of what `tools.studies.ediffi` found: `python -m tools.studies.ediffi_plots` writes
docs/images/ediffi_*.png."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from ..comfy.pack import load_packages
from . import ediffi
from .encoder_schedule import prompt_swap
from .encoder_schedule import quality as encoders
from .regions.plots import IMAGES, pyplot, save
from .style import quality as styles

COLOURS = {"expert_high": "#c8553d", "expert_low": "#3a7ca5", "expert_control": "#8a8a8a", "expert_top": "#e6a23c"}
SAID = {
    "expert_high": "expert, high noise", "expert_low": "expert, low noise", "expert_control": "trained on, all noise",
    "expert_top": "expert, highest noise",
}  # fmt: skip


def losses(found: dict, path: Path) -> None:
    """Loss less the shipped model's, per tenth of the timesteps."""
    figure, axis = pyplot().subplots(figsize=(7, 3.4), dpi=90)
    edges = np.array(found["timesteps"])
    middle = (edges[:-1] + edges[1:]) / 2
    for k, (name, colour) in enumerate(COLOURS.items()):
        if f"{name} less base" in found:
            values = 1e4 * np.array(found[f"{name} less base"])
            error = np.abs(values[:, 1:] - values[:, :1]).T
            axis.errorbar(middle + 8 * (k - 1.5), values[:, 0], error, color=colour, label=SAID[name], capsize=2, lw=1)
    low = min(min(v[1] for v in values) for key, values in found.items() if key.endswith("control less base"))
    axis.set_ylim(1e4 * low * 2.5, -1e4 * low * 2)
    axis.axhline(0, color="black", lw=0.6)
    axis.axvline(660, color="black", lw=0.6, ls=":")
    axis.set_xlabel("timestep", fontsize=8)
    axis.set_ylabel("loss less the shipped model's, x 10,000", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8)
    save(figure, path)


def attended(found: dict, path: Path) -> None:
    figure, axis = pyplot().subplots(figsize=(6.5, 3), dpi=90)
    at = np.linspace(0, 100, len(found["sigma"]))
    for name, colour in zip(encoders.GROUPS, ("#c8553d", "#e9b7ac", "#3a7ca5", "#aecbdc")):
        axis.plot(at, 100 * np.array(found[name]), color=colour, label=name)
    axis.set_xlabel("percent of the schedule", fontsize=8)
    axis.set_ylabel("share of attention, %", fontsize=8)
    axis.set_ylim(0)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8)
    save(figure, path)


def swap(found: dict, folder: Path, path: Path) -> None:
    figure, (top, bottom) = pyplot().subplots(2, 1, figsize=(8, 4.2), dpi=90, height_ratios=(2.4, 1))
    at = 100 * np.array(found["swaps"]) / found["steps"]
    top.plot(at, 100 * np.array(found["first"]), color="#3a7ca5", label="objects of the first prompt")
    top.plot(at, 100 * np.array(found["second"]), color="#c8553d", label="objects of the second")
    far = np.array(found["far"])
    top.plot(at, 100 * far / far.max(), color="#8a8a8a", ls=":", label="distance from the first prompt's picture")
    top.set_xlabel("steps with the first prompt, %", fontsize=8)
    top.tick_params(labelsize=8)
    top.legend(fontsize=8)
    bottom.imshow(prompt_swap.strip(folder))
    bottom.set_xticks(128 + 256 * np.arange(len(at)), [f"{x:.0f} %" for x in at], fontsize=7)
    bottom.set_yticks([])
    save(figure, path)


def transfers(folder: Path, path: Path) -> None:
    """The first picture of the first eight references, unpicked, per way."""
    ways = [None, *styles.TRANSFERS]
    count = min(8, len(list((folder / styles.TRANSFERS[0].name).glob("*.npz"))))
    figure, axes = pyplot().subplots(len(ways), count, figsize=(0.5 + 1.12 * count, 1.2 * len(ways)), dpi=90)
    for line, way in zip(axes, ways):
        for turn, axis in enumerate(line):
            kept = np.load(folder / (way or styles.TRANSFERS[0]).name / f"{turn * styles.BATCH:04d}.npz")
            axis.imshow(kept["shown"][0] if way else kept["reference"])
            axis.set_xticks([])
            axis.set_yticks([])
        said = way.name if way else "reference"
        line[0].set_ylabel(said.replace(", ", ",\n").replace(" 8", "\n8"), fontsize=6)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ediffi.FOLDER)
    parser.add_argument("--images", type=Path, default=IMAGES)
    args = parser.parse_args()
    report = {name: part["found"] for name, part in json.loads((args.out / "report.json").read_text()).items()}
    load_packages()
    if "losses" in report:
        losses(report["losses"], args.images / "ediffi_losses.png")
    if "attended" in report:
        attended(report["attended"], args.images / "ediffi_attended.png")
    if "prompt_swap" in report:
        swap(report["prompt_swap"], ediffi.folder("swap", args.out), args.images / "ediffi_swap.png")
    if "styles" in report:
        transfers(ediffi.folder("styles", args.out), args.images / "ediffi_styles.png")


if __name__ == "__main__":
    main()
