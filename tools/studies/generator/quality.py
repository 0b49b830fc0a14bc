"""A generator's report card: held-out prompts, ComfyUI's own sampler, judged by the reader.

`python -m tools.studies.generator.quality` writes output/eval/shapesworld.json and a sheet of unpicked pictures.
--model dit: of the flow transformer, dit.json; with --wording placed or related its prompts name places, and the plain
wording, of all scenes, is the control. Resumable: every batch is kept, by the weights and the settings. What is not
as usual, `--set tune --cfg 2` for instance, names the report in that folder, so that none of the results page is lost.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ...comfy.host import ROOT
from ...shapesworld import judge, sets
from ...shapesworld.shipped_weights import DEMO
from ...shapesworld.world import Scene, caption, placed_caption, related_caption
from .. import metrics, record
from ..demo_setup import DemoSetup
from ..processes import begin
from ..sampling import as_bytes, sample

FOLDER = ROOT / "output" / "eval"
SHOWN = 64  # pictures on the sheet
FIRST_SEED = {"report": 0, "tune": 1_000_000}
TURNS = 5  # for the time
WORDINGS = {"plain": caption, "placed": placed_caption, "related": related_caption}
SETTINGS = ("model", "wording", "set", "prompts", "steps", "cfg", "sampler", "scheduler", "batch")
SHARES = ("all_right", "exact", "share_right", "places_right", "related_right")


def summarise(rows: list[dict]) -> dict:
    """Means per number of objects with 95 % intervals over prompts."""
    table: dict[str, Any] = {}
    for count in sorted({r["count"] for r in rows}):
        part = [r for r in rows if r["count"] == count]
        table[str(count)] = {"n": len(part)}
        for key in SHARES:
            values = [r[key] for r in part if key in r]
            if values:
                table[str(count)][key] = metrics.mean(values)
    table["background_right"] = round(float(np.mean([r["background_right"] for r in rows])), 4)
    return table


def scores(scene: Scene, reading: judge.Reading) -> dict[str, float]:
    """What the reader finds of a scene; places and the relation of the first two too, whether or not they were told."""
    found = {**judge.score(scene, reading), "places_right": float(np.mean(judge.places(scene, reading)))}
    if len(scene.things) > 1:
        found["related_right"] = judge.related(scene.things[0], scene.things[1], reading)
    return found


def time_to_unet(demo: DemoSetup, how: tuple, batch: int) -> float:
    """How long pictures take against those of the UNet that ships: the median of turns of the process's own time."""
    unet, taken = DemoSetup(demo.folder).ready("model", "clip", "vae"), []
    for turn in range(TURNS + 1):  # the first one warms up
        captions, seconds = [caption(scene) for scene in sets.scenes("tune", batch * turn, batch)], []
        for each in (demo, unet):
            started = time.process_time()
            sample(each, captions, turn, *how)
            seconds.append(time.process_time() - started)
        taken.append(seconds[0] / seconds[1])
    return round(float(np.median(taken[1:])), 3)


def report_name(args: argparse.Namespace, usual: Callable[[str], Any]) -> str:
    """By the model and the wording, as the results page knows it; in the folder that the page is made of also by what
    is not as usual. A folder of its own is for any settings: `make eval ARGS=--quick` has one."""
    names = [{"unet": "shapesworld"}.get(args.model, args.model), *({args.wording} - {"plain"})]
    if args.out.resolve() == FOLDER.resolve():
        told = {**{key: getattr(args, key) for key in SETTINGS[2:]}, "demo": args.demo.resolve()}
        names += [f"{key}{getattr(value, 'name', value)}" for key, value in told.items() if value != usual(key)]
    return "_".join(names)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("unet", "dit", "steered"), default="unet")
    parser.add_argument("--wording", choices=WORDINGS, default="plain")
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--set", choices=("report", "tune"), default="report", help="settings are chosen on tune")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--sampler", default="euler")
    parser.add_argument("--scheduler", default="normal")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--demo", type=Path, default=DEMO, help="folder of the shipped files")
    parser.add_argument("--out", type=Path, default=FOLDER)
    return parser


def main() -> None:
    parser = arguments()
    args = parser.parse_args()
    scenes = sets.scenes(args.set, 0, args.prompts)
    if args.wording == "related":
        scenes = [scene for scene in scenes if len(scene.things) > 1]
    if not scenes:
        parser.error("none of so few prompts has two objects to relate")
    begin()
    demo = DemoSetup(args.demo, args.model).ready("model", "clip", "vae", "reader")
    how = (args.steps, args.cfg, args.sampler, args.scheduler)
    settings: tuple = how if (args.wording, args.set) == ("plain", "report") else (*how, args.wording, args.set)
    if args.set == "tune":  # its rows once had the report's noises
        settings += (FIRST_SEED["tune"],)
    folder = args.out / "shapesworld" / record.weights_and((*settings, args.batch), demo.more, args.demo)
    name = report_name(args, parser.get_default)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    shown: list[np.ndarray] = []
    seconds = 0.0

    def judged(i: int, part: list, strip: Path) -> dict[str, Any]:
        """A batch of scenes from the i-th on: rows, seconds; and the pictures in a row."""
        started, captions = time.time(), [WORDINGS[args.wording](scene) for scene in part]
        seed = FIRST_SEED[args.set] + i
        pictures = sample(demo, captions, seed, *how)
        found = [
            {"index": i + k, "seed": seed, "count": len(scene.things), "caption": text, "read": reading.describe(),
             **scores(scene, reading)}
            for k, (scene, text, reading) in enumerate(zip(part, captions, judge.read(demo.reader, pictures)))
        ]  # fmt: skip
        seconds = time.time() - started
        Image.fromarray(np.concatenate(list(as_bytes(pictures)), 1)).save(strip)
        return {"rows": found, "seconds": seconds}

    for i in tqdm(range(0, len(scenes), args.batch), desc="report set"):
        part = scenes[i : i + args.batch]
        path = folder / f"{i:04d}_{len(part)}.json"  # the last batch may be a short one, of more prompts another
        batch = record.kept(path, partial(judged, i, part, path.with_suffix(".png")))
        rows, seconds = rows + batch["rows"], seconds + batch["seconds"]
        if len(part) == min(args.batch, len(scenes)) and len(shown) * args.batch < SHOWN:
            shown.append(np.array(Image.open(path.with_suffix(".png"))))
    grid = np.concatenate(shown, 0)
    Image.fromarray(grid).resize((grid.shape[1] // 2, grid.shape[0] // 2)).save(args.out / f"{name}.png")
    report = {
        "settings": {k: getattr(args, k) for k in SETTINGS},
        **record.source(*demo.more, demo=args.demo),
        "device": str(demo.model.load_device),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "seconds_per_picture": round(seconds / len(scenes), 3),
        "table": summarise(rows),
        "rows": rows,
    }
    if args.model != "unet" and args.wording == "plain":
        report["time_to_unet"] = time_to_unet(demo, how, args.batch)
    record.write(args.out / f"{name}.json", report)
    print(json.dumps({k: v for k, v in report.items() if k != "rows"}, indent=1))


if __name__ == "__main__":
    main()
