"""Pictures of the evaluation of starting latents: scores as bars and boxes, losses over time, the pictures themselves.

`python -m tools.studies.noise_optimization.plots` after `tools.studies.noise_optimization.quality`; writes
docs/images/latents_*.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path

import numpy as np

from .. import plotting
from ..plotting import IMAGES, label, picture, pyplot, save
from .methods import Method
from .quality import FOLDER, digest, settled, weights

SHOWN = 8
PICTURED = ("none", "CLIP guidance", "best of n", "DOODL", "SGOOL, crops", "past the model, whole")
CURVED = ("best of n", "DOODL", "past the model, whole")


def scores(report: dict, path: Path) -> None:
    """The held-out judge's scores per method: their mean with its interval, and the box of all prompts."""
    table = report["table"]
    names = sorted(table, key=lambda name: table[name]["clip_b"][0])
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(9.5, 0.34 * len(names) + 0.9), dpi=90, sharey=True)
    values = 100 * np.array([table[name]["clip_b"] for name in names])
    plotting.bars(left, names, values, [name for name in names if "SGOOL" in name], "CLIP B, 100 x cosine, mean")
    left.set_xlim(values.min() - 2, values.max() + 1)
    boxes = [100 * np.array(table[name]["clip_b_all"]) for name in names]
    right.boxplot(boxes, positions=range(len(names)), orientation="horizontal", widths=0.6, showmeans=True)
    right.set_yticks(range(len(names)), names)
    right.set_title(f"all {report['prompts']} prompts", fontsize=9)
    right.tick_params(labelsize=8)
    save(figure, path)


def curves(folder: Path, report: dict, methods: dict[str, Method], path: Path) -> None:
    """The best loss of the whole picture so far, over the share of the time; a straight line between trials.

    Only methods that optimize the whole picture's distance alone have it in their losses.
    """
    figure, axis = pyplot().subplots(figsize=(6.5, 3.4), dpi=90)
    grid = np.linspace(0, 1, 101)
    for name, method in methods.items():
        if name not in CURVED or method.weight:
            continue
        lines = []
        for i in range(report["prompts"]):
            row = json.loads((folder / report["set"] / digest(method) / f"{i:03d}.json").read_text())
            best = np.minimum.accumulate(row["losses"])
            costs = np.array(costs_of(method, len(best), report["seconds"][name], report["draw"]))
            lines.append(np.interp(grid * costs.sum(), np.cumsum(costs), best))
        axis.plot(grid * 100, np.mean(lines, axis=0), label=name)
    label(axis, "share of the time, %", "CLIP A, half the squared angle")
    save(figure, path)


def costs_of(method: Method, count: int, each: float, draw: float) -> list[float]:
    """Seconds of every trial: candidates, then evaluations with the gradient, the last without."""
    if not method.iterations:
        return [draw] * count
    fresh = method.candidates if method.candidates > 1 else 0
    return [draw] * fresh + [each] * (count - fresh - 1) + [draw]


def sheet(folder: Path, report: dict, methods: dict[str, Method], path: Path) -> None:
    """The first prompts, unpicked: a row per method."""
    shown, pictured = min(SHOWN, report["prompts"]), [name for name in PICTURED if name in methods]
    figure, axes = pyplot().subplots(len(pictured), shown, figsize=(1.45 * shown, 1.5 * len(pictured) + 0.5), dpi=90,
                                     squeeze=False)  # fmt: skip
    for line, name in zip(axes, pictured):
        for i, axis in enumerate(line):
            file = folder / report["set"] / digest(methods[name]) / f"{i:03d}"
            picture(axis, np.load(file.with_suffix(".npy")))
            if name == pictured[0]:
                text = json.loads(file.with_suffix(".json").read_text())["text"]
                axis.set_title("\n".join(textwrap.wrap(text, 26)), fontsize=5)
        line[0].set_ylabel(name, fontsize=7)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--images", type=Path, default=IMAGES)
    args = parser.parse_args()
    report = json.loads((args.out / "report.json").read_text())
    methods = settled(report["trials"], list(report["table"]))
    folder = args.out / weights()
    scores(report, args.images / "latents_scores.png")
    curves(folder, report, methods, args.images / "latents_curves.png")
    sheet(folder, report, methods, args.images / "latents_methods.png")


if __name__ == "__main__":
    main()
