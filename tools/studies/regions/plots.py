"""Pictures of the evaluation of regions: the methods side by side, phrases and styles swapped, what attention did.

`python -m tools.studies.regions.plots` after `tools.studies.regions.quality --set report`; writes
docs/images/regions_*.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...shapesworld.world import COLOURS, STYLES
from .. import plotting, record
from ..demo_setup import DemoSetup
from ..plotting import IMAGES, picture, pyplot, save
from ..processes import begin
from ..sampling import as_bytes
from . import layouts
from .methods import METHODS, START, Method, Steered
from .quality import FIRST_SEED, FOLDER, SHOWN, Layouts, layout, weights

COMPARED = ("none", "ConditioningSetMask", "attention couple", "paint with words 4", "paper", "fovea")
STARTED = ("none", "dense diffusion", "dense diffusion, arranged noise",
           "dense diffusion, arranged noise, layout loss", "painted start, dense diffusion")  # fmt: skip
SWAPPED = 1  # a layout of three boxes
ANALYSED = 12  # layouts
CURVES = ("matched, largest", "matched, mean", "others, largest", "others, mean")


def outline(axis: Any, shown: np.ndarray, wanted: layouts.Layout) -> None:
    """A picture with the places drawn on it, each in its object's color."""
    picture(axis, shown)
    for thing, mask in zip(wanted.scene.things, wanted.masks):
        color = np.array(COLOURS[thing.color]) / 255
        axis.contour(mask, levels=[0.5], colors=["white"], linewidths=2.2)
        axis.contour(mask, levels=[0.5], colors=[color], linewidths=1.2)


def sheet(drawn: Layouts, which: str, compared: dict[str, Method], path: Path) -> None:
    """The first layouts of a set, unpicked: a row per method."""
    files = {name: drawn.file(name, method, which) for name, method in compared.items()}
    shown = min(sum(file.with_suffix(f".{i}.npy").exists() for i in range(SHOWN)) for file in files.values())
    figure, axes = pyplot().subplots(len(files), shown, figsize=(1.35 * shown, 1.4 * len(files)), dpi=90)
    for line, (name, file) in zip(axes, files.items()):
        for i, axis in enumerate(line):
            outline(axis, np.load(file.with_suffix(f".{i}.npy")), layout(which, i))
        line[0].set_ylabel("\n".join(name.split(", ")), fontsize=7)
    save(figure, path)


def swapped(drawn: Layouts, path: Path) -> None:
    """One layout, one seed: phrases go round from row to row, styles from column to column."""
    first = layouts.layout("report", SWAPPED)
    things = first.scene.things
    figure, axes = pyplot().subplots(len(things), len(STYLES), figsize=(1.6 * len(STYLES), 1.65 * len(things)), dpi=90)
    for turn, line in enumerate(axes):
        turned = tuple(
            replace(thing, texture=other.texture, color=other.color, shape=other.shape)
            for thing, other in zip(things, np.roll(np.array(things, object), turn).tolist())
        )
        for style, axis in zip(STYLES, line):
            wanted = replace(first, scene=replace(first.scene, things=turned, style=style))
            made = drawn.picture(METHODS["fovea"], wanted, FIRST_SEED["report"] + SWAPPED)
            outline(axis, as_bytes(made), wanted)
            if turn == 0:
                axis.set_title(style, fontsize=8)
    save(figure, path)


def bars(report: dict, path: Path) -> None:
    """Every method's iou and presence with their intervals."""
    table = report["table"]
    names = sorted(table, key=lambda name: table[name]["iou"][0])
    figure, axes = pyplot().subplots(1, 2, figsize=(9, 0.32 * len(names) + 0.8), dpi=90, sharey=True)
    for axis, key, title in zip(axes, ("iou", "there"), ("IoU of region and object, %", "objects in their region, %")):
        values = 100 * np.array([table[name][key] for name in names])
        plotting.bars(axis, names, values, ["fovea"], title)
    save(figure, path)


@dataclass(frozen=True, eq=False)
class ScoreReader:
    """Wrapper that keeps how high scores of matched and of other keys are, in the mean over places that are a region's.

    Matched: the words of the place's region; in self-attention the places of the same region. Scores are taken from
    their row's mean. Largest and mean over keys; steered attention is seen as it is steered.
    """

    found: dict[tuple[str, float], list[list[float]]]
    blocks: Any = None
    kinds: frozenset[str] = frozenset({"self", "cross"})
    reads: bool = True

    def wants(self, run: Any, rows: Any, degraded: str | None) -> bool:
        return True

    def attend(self, call: Any, attention: Any) -> Tensor:
        from fovea.attention.recorders import row_tensors
        from fovea.guidance.regions.masks import token_shares
        from fovea.guidance.regions.prompt_regions import regions_of

        for row in call.rows:
            regions = regions_of(row)
            if regions is not None:
                q, k, _ = row_tensors(call, row)
                scale = q.shape[-1] ** -0.5 if call.scale is None else call.scale
                scores = torch.einsum("bhid,bhjd->bhij", q, k) * scale
                site = call.site
                shares = token_shares(regions.canvas, site.grid[-2:], site.extent[-2:], call.latent_size[-2:])[0]
                places = shares.amax(dim=1) > 0.5
                words = regions.keys(site.text_tokens, site.text, row.length)
                keys = shares > 0.5 if site.kind == "self" else words > 0
                matched = keys.T[shares[places].argmax(dim=1)]
                scores = (scores - scores.mean(dim=-1, keepdim=True))[:, :, places]
                self.found[site.kind, call.run.sigma].append(describe(scores, matched))
        return attention(call.q, call.k, call.v)


def describe(scores: Tensor, matched: Tensor) -> list[float]:
    """CURVES of scores [batch, heads, places, keys], matched [places, keys]."""
    found = []
    for chosen in (matched, ~matched):
        largest = scores.masked_fill(~chosen, float("-inf")).amax(dim=-1)
        mean = (scores * chosen).sum(dim=-1) / chosen.sum(dim=-1).clamp_min(1)
        found += [float(largest[largest.isfinite()].mean()), float(mean.mean())]
    return found


@dataclass(frozen=True, eq=False)
class Analysis:
    """Technique that reads scores in every step."""

    found: dict = field(default_factory=lambda: defaultdict(list))

    def begin(self, run: Any) -> Sequence[Any]:
        return (ScoreReader(self.found),)


def analysis(drawn: Layouts, path: Path) -> dict[str, Any]:
    """The paper's plot: scores of matched and other keys over the noise levels, steered and not."""
    from fovea.attention import hooks

    # Strength 0 leaves everything as it is, but marks the prompt, so that the reader knows the regions.
    ways = {"not steered": Steered(0.0, 0.0), "paper": METHODS["paper"], "fovea": METHODS["fovea"]}
    kinds = ("cross", "self")
    figure, axes = pyplot().subplots(len(kinds), len(ways), figsize=(3.2 * len(ways), 4.6), dpi=90, sharey="row")
    told: dict[str, Any] = {}
    for column, (name, method) in enumerate(ways.items()):
        reading = Analysis()

        def read(model: Any, clip: Any, regions: Any, caption: str, method: Any = method, to: Any = reading) -> Any:
            patched, positive, negative = method(model, clip, regions, caption)
            patched = patched.clone()
            hooks.install(patched, to)
            return patched, positive, negative

        for i in tqdm(range(ANALYSED), desc=f"scores, {name}"):
            drawn.picture(read, layouts.layout("report", i), FIRST_SEED["report"] + i)
        for line, kind in enumerate(kinds):
            sigmas = sorted((sigma for k, sigma in reading.found if k == kind), reverse=True)
            curves = np.array([np.mean(reading.found[kind, sigma], axis=0) for sigma in sigmas])
            told[f"{name}, {kind}"] = {c: np.round(curves[:, i], 3).tolist() for i, c in enumerate(CURVES)}
            axis = axes[line, column]
            for i, (label, style) in enumerate(zip(CURVES, ("-", "--", "-", "--"))):
                axis.plot(range(len(sigmas)), curves[:, i], style, color=("#d1495b", "#30638e")[i // 2], label=label)
            axis.set_title(f"{kind}-attention, {name}", fontsize=8)
            axis.tick_params(labelsize=7)
            axis.set_xlabel("step", fontsize=7)
    axes[0, 0].legend(fontsize=6)
    axes[0, 0].set_ylabel("score above the row's mean", fontsize=7)
    save(figure, path)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--images", type=Path, default=IMAGES)
    args = parser.parse_args()
    begin()
    demo = DemoSetup()
    drawn = Layouts(args.out / weights(demo), demo)
    if (args.out / "start.json").exists():
        sheet(drawn, "start", {name: START[name] for name in STARTED}, args.images / "regions_start.png")
    if not (args.out / "report.json").exists():
        return
    report = json.loads((args.out / "report.json").read_text())
    bars(report, args.images / "regions_bars.png")
    sheet(drawn, "report", {name: METHODS[name] for name in COMPARED}, args.images / "regions_methods.png")
    swapped(drawn, args.images / "regions_swapped.png")
    told = analysis(drawn, args.images / "regions_scores.png")
    record.write(args.out / "scores.json", told)


if __name__ == "__main__":
    main()
