"""Which way of telling a model what shall be where works best: every method on the same layouts and seeds.

`python -m tools.studies.regions.quality --set tune` tries candidates: all of them on a third of the layouts, the best
on all. `--set report` measures the methods that were chosen, on other layouts, `--set start` what changes
the starting noise, on half of them. Writes output/eval/regions/<set>.json.
Resumable: every method's rows are kept, by the weights and its settings. Pictures are made one at a time, so several
processes with one thread each are faster than one with several: `--processes`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...comfy.host import ROOT
from ...shapesworld import sets
from ...shapesworld.shipped_weights import DEMO
from ...shapesworld.world import render
from .. import metrics, record
from ..clip_scores import image_vectors
from ..demo_setup import DemoSetup
from ..processes import begin, in_processes
from ..sampling import as_bytes, painted, sample_encoded
from . import layouts
from .methods import METHODS, START, Method, candidates, settings

FOLDER = ROOT / "output" / "eval" / "regions"
STEPS, CFG, FIRST_SEED = 20, 4.0, {"tune": 5_000_000, "report": 6_000_000, "start": 6_000_150}
# start: the second half of report, with its seeds. What is measured there was mended after a look at the first half.
LAYOUTS, FIRST = {"tune": 60, "report": 300, "start": 150}, {"start": ("report", 150)}
FIRST_ROUND, FINALISTS = 20, 12  # of the tuning
PAINTED = 512  # real pictures that sets are compared with
SHOWN = 8
TURNS = 9  # of every method, for its time
MEASURED = ("iou", "there", "global", "local")
PER_PICTURE = ("background", "all right", "extra")


def layout(which: str, index: int) -> layouts.Layout:
    """Layout `index` of a set."""
    name, first = FIRST.get(which, (which, 0))
    return layouts.layout(name, first + index)


class Layouts:
    """What was drawn so far of layouts with the demo, in a folder."""

    def __init__(self, folder: Path, demo: DemoSetup) -> None:
        self.folder, self.demo = folder, demo.ready("model", "clip", "vae", "reader", "clip_b")

    def file(self, name: str, method: Method, which: str) -> Path:
        """Where a method's rows are kept."""
        return self.folder / which / f"{hashlib.sha256(f'{name} {settings(method)}'.encode()).hexdigest()[:12]}.json"

    def run(self, name: str, method: Method, which: str, count: int) -> list[dict]:
        """One row per layout: form, number of regions, per region what the reader finds, CLIP B's scores and features,
        seconds; kept in a file as they come."""
        path = self.file(name, method, which)
        rows = json.loads(path.read_text())["rows"] if path.exists() else []
        path.parent.mkdir(parents=True, exist_ok=True)  # of the pictures
        for i in tqdm(range(len(rows), count), desc=f"{which} {name}", mininterval=5):
            started, wanted = time.monotonic(), layout(which, i)
            picture = self.picture(method, wanted, FIRST_SEED[which] + i)
            seconds = time.monotonic() - started
            (found,) = layouts.score(self.demo.reader, picture[None], [wanted])
            (fits,) = layouts.clip_rows(self.demo.clip_b, picture[None], [wanted])
            rows.append({"form": wanted.form, "regions": len(wanted.masks), "seconds": seconds, **found, **fits})
            if i < SHOWN:
                np.save(path.with_suffix(f".{i}.npy"), as_bytes(picture))
            if i % 8 == 7 or i == count - 1:
                record.keep(path, {"name": name, "settings": settings(method), "rows": rows})
        return rows[:count]

    def real(self) -> np.ndarray:
        """CLIP B's features of painted pictures of scenes that nothing draws."""

        def made() -> np.ndarray:
            scenes = (layouts.scene("reference", i) for i in tqdm(range(PAINTED), desc="painting references"))
            pictures = [render(scene)[0] for scene in scenes]
            return torch.cat([image_vectors(self.demo.clip_b, painted([picture])) for picture in pictures]).numpy()

        return record.kept_array(self.folder / f"reference_{PAINTED}.npy", made).astype(np.float64)

    def picture(self, method: Method, wanted: layouts.Layout, seed: int) -> Tensor:
        """One picture [256, 256, 3] of a layout."""
        from fovea.guidance.regions.masks import Region, Regions

        regions = Regions(tuple(
            Region(torch.from_numpy(mask)[None].float(), thing.phrase)
            for thing, mask in zip(wanted.scene.things, wanted.masks)
        ))  # fmt: skip
        model, positive, negative = method(self.demo.model, self.demo.clip, regions, wanted.caption)
        return sample_encoded(model, self.demo.vae, positive, negative, 1, seed, STEPS, CFG)[0]

    def times(self, methods: dict[str, Method], turns: int) -> dict[str, float]:
        """How long a picture takes by each method, encoding and decoding included, against the first one: the median
        over turns of the process's own time, so that what else runs on the machine counts little."""
        taken: dict[str, list[float]] = {name: [] for name in methods}
        for turn in range(turns + 1):  # the first one warms up
            for name, method in methods.items():
                started = time.process_time()
                self.picture(method, layouts.layout("tune", turn), turn)
                taken[name].append(time.process_time() - started)
        plain = np.array(next(iter(taken.values()))[1:])
        return {name: round(float(np.median(np.array(each[1:]) / plain)), 3) for name, each in taken.items()}


def summary(rows: list[dict], real: np.ndarray, plain: list[dict]) -> dict[str, Any]:
    """Means over layouts of the means over regions with 95 % bootstrap intervals; against `plain`, paired, the change
    of iou; distances to painted pictures; and iou per form and number."""

    def values(key: str, part: list[dict]) -> np.ndarray:
        return np.array([np.mean(row[key]) for row in part])

    features = np.array([row["features"] for row in rows])
    found: dict[str, Any] = {"n": len(rows), **{key: metrics.mean(values(key, rows)) for key in MEASURED}}
    success = np.array([np.mean(np.array(row["iou"]) >= layouts.CEILING / 2) for row in rows])
    found["success"] = metrics.mean(success)
    for value in sorted({row["regions"] for row in rows}):
        found[f"success, regions {value}"] = metrics.mean(
            np.array([each for each, row in zip(success, rows) if row["regions"] == value])
        )
    for key in PER_PICTURE:
        found[key] = metrics.mean(values(key, rows))
    found["there_gain"] = metrics.difference(values("there", rows) - values("there", plain[: len(rows)]))
    found["global_gain"] = metrics.difference(values("global", rows) - values("global", plain[: len(rows)]))
    found["iou_gain"] = metrics.difference(values("iou", rows) - values("iou", plain[: len(rows)]))
    found["frechet"] = round(metrics.frechet(features, real), 3)
    found["kid"] = round(metrics.kid(features, real), 5)
    found["seconds"] = round(float(np.median([row["seconds"] for row in rows])), 3)
    for key in ("form", "regions"):
        for value in sorted({row[key] for row in rows}):
            found[f"iou, {key} {value}"] = metrics.mean(values("iou", [row for row in rows if row[key] == value]))[0]
    return found


def weights(demo: DemoSetup) -> str:
    return record.weights_and((STEPS, CFG), demo.more, demo.folder)


def best_of(rows: dict[str, list[dict]]) -> list[str]:
    """The methods with the largest iou."""
    return sorted(rows, key=lambda name: -np.mean([np.mean(row["iou"]) for row in rows[name]]))[:FINALISTS]


def work(folder: Path, demo: tuple[Path, str], which: str, names: list[str], count: int) -> None:
    """What a process does: the rows of some methods. demo: folder and kind."""
    drawn, known = Layouts(folder, DemoSetup(*demo)), {**METHODS, **START, **candidates()}
    for name in names:
        drawn.run(name, known[name], which, count)


def rows_of(
    drawn: Layouts, which: str, methods: dict[str, Method], count: int, processes: int
) -> dict[str, list[dict]]:
    """Every method's rows, missing ones made by several processes."""
    if processes > 1:  # slow methods are spread evenly enough by taking every n-th
        shares = [list(methods)[i::processes] for i in range(min(processes, len(methods)))]
        demo = drawn.demo.folder, drawn.demo.kind
        in_processes(work, [(drawn.folder, demo, which, share, count) for share in shares])
    return {name: drawn.run(name, method, which, count) for name, method in methods.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=list(LAYOUTS), default="report")
    parser.add_argument("--layouts", type=int, help="fewer than the whole set")
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of methods")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 1)))
    parser.add_argument(
        "--model", choices=("unet", "dit", "steered"), default="unet", help="of another: <model>_<set>.json"
    )
    parser.add_argument("--demo", type=Path, default=DEMO)
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    begin()
    demo = DemoSetup(args.demo, args.model)
    drawn = Layouts(args.out / weights(demo), demo)
    count = args.layouts or LAYOUTS[args.set]

    def wanted(name: str) -> bool:
        """Attention couple, written out for comparison, knows the UNet's blocks alone."""
        return (not args.only or any(part in name for part in args.only)) and (
            args.model != "dit" or not name.startswith("attention couple")
        )

    methods = START if args.set == "start" else METHODS
    chosen = {name: method for name, method in methods.items() if wanted(name) or name == "none"}
    if args.set == "tune":
        chosen.update((name, method) for name, method in candidates().items() if wanted(name))
        rows = rows_of(drawn, "tune", chosen, min(FIRST_ROUND, count), args.processes)
        finalists = {name: chosen[name] for name in ["none", *best_of(rows)]}
        rows.update(rows_of(drawn, "tune", finalists, count, args.processes))
    else:
        rows = rows_of(drawn, args.set, chosen, count, args.processes)
    real = drawn.real()
    table = {
        name: {"settings": settings(chosen[name]), **summary(found, real, rows["none"])} for name, found in rows.items()
    }
    if args.set == "start":
        for name, ratio in drawn.times(chosen, TURNS).items():
            table[name]["time"] = ratio
    of_model = "" if args.model == "unet" else f"{args.model}_"
    record.write(args.out / f"{of_model}{args.set}.json", {
        **record.source(*demo.more, demo=args.demo), "model": args.model, "set": args.set, "layouts": count,
        "steps": STEPS, "cfg": CFG, "painted": PAINTED, "reference": sets.REFERENCE,
        "device": str(demo.model.load_device), "table": table,
    })  # fmt: skip
    for name, row in sorted(table.items(), key=lambda item: -item[1]["iou"][0]):
        print(f"{name:<40} n {row['n']} iou {row['iou']} there {row['there']} global {row['global'][0]} "
              f"local {row['local'][0]} frechet {row['frechet']} s {row['seconds']}")  # fmt: skip


if __name__ == "__main__":
    main()
