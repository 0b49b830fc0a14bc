"""Which way of finding a better starting latent works best, at equal wall time, by judges that it has not seen.

`python -m tools.studies.noise_optimization.quality` writes output/eval/latents/report.json and docs/images/latents_*.
Every method optimizes what CLIP A says, on the same prompts and seeds; CLIP B and the reader judge. How many trials a
method has is measured first: as many as fit into the time that SGOOL's twelve iterations take. `--set tune` does the
same on other prompts. Resumable: every picture is kept, by the weights and the method's settings. `--processes` of one
thread each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ...comfy.host import ROOT
from ...shapesworld import judge, sets
from ...shapesworld.world import Scene, caption
from .. import clip_scores, metrics, record
from ..demo_setup import DemoSetup
from ..processes import begin, in_processes
from ..sampling import as_bytes
from . import methods
from .methods import CFG, ITERATIONS, METHODS, REFERENCE, STEPS, Method

FOLDER = ROOT / "output" / "eval" / "latents"
FIRST_SEED = {"tune": 10_000_000, "report": 11_000_000}
PROMPTS, TIMED = 32, 3  # of the report; of the timing, on tuning prompts
BASELINES, COMPARED = ("none", "best of n", "DOODL"), ("clip_b", "share_right")
MEASURED = ("clip_b", "clip_a", "share_right", "all_right", "exact")


class Tried:
    """What was found so far by methods with the demo, in a folder."""

    def __init__(self, folder: Path, demo: DemoSetup) -> None:
        self.folder = folder
        self.demo = demo.ready("model", "clip", "vae", "scorer", "reader", "clip_b")

    def row(self, method: Method, which: str, index: int) -> dict[str, Any]:
        """What the judges say of the method's picture for one prompt, and what it cost; kept in a file."""
        path = self.folder / which / digest(method) / f"{index:03d}.json"
        return record.kept(path, lambda: self.judged(method, which, index, path.with_suffix(".npy")))

    def judged(self, method: Method, which: str, index: int, picture_path: Path) -> dict[str, Any]:
        """The same, made now."""
        scene = sets.scene(which, index, 2 + index % 3)
        text, began = caption(scene), time.monotonic()
        best = methods.run(method, self.demo, text, FIRST_SEED[which] + index)
        seconds, picture = time.monotonic() - began, shown(best)
        picture_path.parent.mkdir(parents=True, exist_ok=True)
        np.save(picture_path, as_bytes(picture[0]))
        return {
            "text": text,
            "seconds": seconds,
            "losses": [values[0] for values in best.iterations],
            "norm": float(best.start.norm()),
            **verdict(self.demo, scene, text, best),
        }


def shown(best: Any) -> Tensor:
    """The best picture as ComfyUI's IMAGE."""
    return best.pictures.movedim(1, -1).float().clamp(0, 1)


def verdict(demo: DemoSetup, scene: Scene, text: str, best: Any) -> dict[str, float]:
    """What the judges say of the best picture, and CLIP A, which it was chosen by."""
    picture = shown(best)
    scored = judge.score(scene, judge.read(demo.reader, picture)[0])
    small = F.interpolate(best.pictures.float(), size=(128, 128), mode="bilinear", antialias=True)
    return {
        "clip_a": float(F.cosine_similarity(demo.scorer.image(small), demo.scorer.text([text]))),
        "clip_b": float(clip_scores.scores(demo.clip_b, picture, [text])),
        **{key: scored[key] for key in ("share_right", "all_right", "exact")},
    }


def digest(method: Method) -> str:
    return hashlib.sha256(repr(sorted(asdict(method).items())).encode()).hexdigest()[:12]


def weights() -> str:
    return record.weights_and((STEPS, CFG))


def timed(tried: Tried, only: Collection[str] = ()) -> dict[str, Any]:
    """How many trials every method has: from what candidates and iterations take, in turns, on other prompts."""
    path = tried.folder / f"trials {digest(METHODS[REFERENCE])}.json"
    known = json.loads(path.read_text()) if path.exists() else {"trials": {}, "seconds": {}}
    names = [name for name, method in chosen(only).items() if method.timed and name not in known["trials"]]
    if not names:
        return known
    taken: dict[str, list[float]] = {name: [] for name in (REFERENCE, *names)}
    for index in range(-1, TIMED):  # the first warms up
        for name in taken:
            method = METHODS[name] if name == REFERENCE else METHODS[name].filled(4)
            scene_text = "a plain red star and a striped blue heart on a white background, flat style"
            began = time.monotonic()
            methods.run(method, tried.demo, scene_text, 12_000_000 + index)
            if index >= 0:
                taken[name].append(time.monotonic() - began)
    median = {name: statistics.median(values) for name, values in taken.items()}
    draw = median["best of n"] / 4 if "best of n" in median else known["draw"]
    known["draw"] = draw
    for name in names:
        method = METHODS[name]
        if method.iterations == -1:  # its candidates and its last evaluation cost the same
            fixed = draw * ((method.candidates if method.candidates > 1 else 0) + 1)
            each, left = (median[name] - fixed) / 4, median[REFERENCE] - fixed
        else:
            each, left = median[name] / 4, median[REFERENCE]
        known["trials"][name], known["seconds"][name] = max(1, round(left / each)), round(each, 3)
    known["seconds"][REFERENCE] = round(median[REFERENCE], 3)
    record.keep(path, known)
    return known


def chosen(only: Collection[str]) -> dict[str, Method]:
    """Of these names, and what they are compared with; all if there are none."""
    return {name: method for name, method in METHODS.items() if not only or name in (*only, *BASELINES)}


def settled(trials: dict[str, int], only: Collection[str] = ()) -> dict[str, Method]:
    """The methods with as many trials as their time allows."""
    return {name: method.filled(trials[name]) if method.timed else method for name, method in chosen(only).items()}


def work(folder: Path, which: str, trials: dict[str, int], only: list[str], indices: list[int]) -> None:
    """What a process does: all methods, prompt by prompt, so that a busy machine hits all alike."""
    tried = Tried(folder, DemoSetup())
    for index in tqdm(indices, desc=which, mininterval=20):
        for method in settled(trials, only).values():
            tried.row(method, which, index)


def summary(rows: list[dict], baselines: dict[str, list[dict]]) -> dict[str, Any]:
    """Means with 95 % bootstrap intervals over prompts; also against the baselines, paired."""

    found: dict[str, Any] = {key: metrics.mean([row[key] for row in rows]) for key in MEASURED}
    found["against"] = {
        name: {key: metrics.difference([row[key] - other[key] for row, other in zip(rows, others)]) for key in COMPARED}
        for name, others in baselines.items()
    }
    found["seconds"] = round(float(np.median([row["seconds"] for row in rows])), 2)
    found["norm"] = round(float(np.mean([row["norm"] for row in rows])), 2)
    found["clip_b_all"] = [round(row["clip_b"], 4) for row in rows]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=list(FIRST_SEED), default="report")
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--only", nargs="+", default=[], choices=list(METHODS), metavar="METHOD",
                        help="these, and what they are compared with")  # fmt: skip
    parser.add_argument("--processes", type=int, default=max(1, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    begin(threads=1)
    tried = Tried(args.out / weights(), DemoSetup())
    time_given = timed(tried, args.only)
    given = (tried.folder, args.set, time_given["trials"], args.only)
    in_processes(work, [(*given, list(range(args.prompts))[i :: args.processes]) for i in range(args.processes)])
    found = settled(time_given["trials"], args.only)
    rows = {name: [tried.row(m, args.set, i) for i in range(args.prompts)] for name, m in found.items()}
    table = {name: {"settings": asdict(found[name]), **summary(rows[name], {n: rows[n] for n in BASELINES})}
             for name in rows}  # fmt: skip
    record.write(args.out / f"{args.set}.json", {
        **record.source(), "set": args.set, "prompts": args.prompts, "steps": STEPS, "cfg": CFG,
        "iterations": ITERATIONS, "device": str(tried.demo.model.load_device), **time_given, "table": table,
    })  # fmt: skip
    for name, row in sorted(table.items(), key=lambda item: -item[1]["clip_b"][0]):
        print(f"{name:<34}", *(f"{key} {row[key]}" for key in (*MEASURED, "against", "seconds")))


if __name__ == "__main__":
    main()
