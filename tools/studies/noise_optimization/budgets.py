"""What searches for a starting latent find in the time of so many pictures: dropping the worse half, particles, and
gradients from the best candidate; all of one kind from the same candidates.

`python -m tools.studies.noise_optimization.budgets` writes output/eval/latents/budgets.json and its plot. It takes a
quarter of an hour for timing, then six minutes per prompt and core, and is not part of `make eval`. Every method
optimizes what CLIP A says; CLIP B and the reader judge. How much a method may try is measured first, on a quiet
machine, and then fixed, so that what else runs beside does not change what is found. Resumable; `--processes` of one
thread each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ...shapesworld import sets
from ...shapesworld.world import caption, render
from .. import clip_scores, metrics, record
from ..demo_setup import DemoSetup
from ..plotting import label, pyplot, save
from ..processes import begin, in_processes
from ..sampling import painted
from . import methods
from .methods import CFG, METHODS, SGOOL, STEPS, STRAIGHT, Method
from .quality import COMPARED, FIRST_SEED, FOLDER, MEASURED, digest, verdict
from .section import AGAINST, BEGINS, TWICE

BUDGETS = (8, 32)  # times one picture
HALVES, DOUBLES = (4, 16), (8, 32)  # what a search finds in half the time, beside another in all of it
PROMPTS, BATCH = 32, 8
TEXT = "a plain red star and a striped blue heart on a white background, flat style"
DRAWN = Method(candidates=-1, batch=BATCH)
HALVED = replace(DRAWN, rounds=1)
SEARCHES = {
    "best of n": DRAWN,
    "halving": HALVED,
    "best of n, ancestral": replace(DRAWN, sampler="euler_ancestral"),
    "particles, ancestral": replace(DRAWN, sampler="euler_ancestral", search="particles", rounds=2),
}
MOVES = {  # of the best candidate, in the second half of the time
    "past the model": replace(STRAIGHT, candidates=1),
    "DOODL": replace(SGOOL, weight=0.0),
    "SGOOL, spectral residual": SGOOL,
    "SGOOL, everywhere": replace(SGOOL, source="uniform"),
}
TIMED = ("past the model", "DOODL")  # an iteration of SGOOL takes as long as one of DOODL, see quality.py's seconds
SEARCHED = {
    **SEARCHES, **{BEGINS + name: replace(move, candidates=-1, batch=BATCH, rounds=1) for name, move in MOVES.items()},
}  # fmt: skip


def seconds_of(demo: DemoSetup, method: Method, turns: int = 3) -> float:
    """The median of some runs, after one that warms up."""
    taken = []
    for turn in range(-1, turns):
        began = time.monotonic()
        methods.run(method, demo, TEXT, 12_000_000 + turn)
        taken.append(time.monotonic() - began)
    return statistics.median(taken[1:])


def line(small: tuple[int, float], large: tuple[int, float]) -> tuple[float, float]:
    """(seconds of none, of each) from the seconds of two counts."""
    (few, less), (many, more) = small, large
    each = (more - less) / (many - few)
    return max(0.0, less - few * each), each


def measured_costs(demo: DemoSetup) -> dict[str, Any]:
    """Seconds of one picture; of candidates by search and, on the UNet, of iterations by move, as (none, each)."""
    costs: dict[str, Any] = {"one": seconds_of(demo, METHODS["none"]), "search": {}, "move": {}}
    for name, search in SEARCHES.items():
        few, many = (seconds_of(demo, replace(search, candidates=count)) for count in (BATCH, 3 * BATCH))
        costs["search"][name] = line((BATCH, few), (3 * BATCH, many))
    for name, move in ((name, MOVES[name]) for name in TIMED if demo.kind == "unet"):
        costs["move"][name] = line(*((count, seconds_of(demo, replace(move, iterations=count))) for count in (2, 8)))
    return costs


def fitted(name: str, costs: dict[str, Any], budget: float) -> Method:
    """A method with as much to try as so many pictures' time allows: half of it for candidates where it moves them."""
    method, seconds = SEARCHED[name], budget * costs["one"]
    move = next((move for move in MOVES if name.endswith(f"then {move}")), None)
    none, each = costs["search"][name if move is None else "halving"]
    given = seconds if move is None else seconds / 2
    method = replace(method, candidates=max(1 if move is None else 2, int((given - none) / each)))
    if move is None:
        return method
    none_moved, each_moved = costs["move"][move if move in TIMED else "DOODL"]
    left = seconds - (none + each * method.candidates) - none_moved
    return replace(method, iterations=round(left / each_moved) or -1)  # none fits: not sampled


def plan(costs: dict[str, Any]) -> dict[str, Method]:
    """All that is sampled, by "method @ budget"."""
    names = SEARCHED if costs["move"] else SEARCHES
    every = {f"{name} @ {budget}": method for budget in BUDGETS for name in names
             if (method := fitted(name, costs, budget)).iterations >= 0}  # fmt: skip
    halves = {f"halving @ {budget}": fitted("halving", costs, budget) for budget in HALVES}
    return {"none @ 1": METHODS["none"], **every, **halves}


def row(folder: Path, demo: DemoSetup, method: Method, index: int) -> dict[str, Any]:
    """What the judges say of the method's picture for one prompt, what it cost and when it found what; kept."""
    path = folder / "budgets" / digest(method) / f"{index:03d}.json"
    return record.kept(path, lambda: judged(demo, method, index))


def judged(demo: DemoSetup, method: Method, index: int) -> dict[str, Any]:
    """The same, made now. curve: (seconds, the best loss so far)."""
    scene = sets.scene("report", index, 2 + index % 3)
    text, began, curve = caption(scene), time.monotonic(), []
    watch = lambda _number, best: curve.append((round(time.monotonic() - began, 3), float(best.losses[0])))  # noqa: E731
    best = methods.run(method, demo, text, FIRST_SEED["report"] + index, watch=watch)
    seconds = time.monotonic() - began
    return {"text": text, "seconds": seconds, "curve": curve, **verdict(demo, scene, text, best)}


def ready(kind: str) -> DemoSetup:
    return DemoSetup(kind=kind).ready("model", "clip", "vae", "scorer", "reader", "clip_b")


def work(folder: Path, kind: str, costs: dict[str, Any], indices: list[int]) -> None:
    """What a process does: all methods, prompt by prompt."""
    demo, planned = ready(kind), plan(costs)
    for index in tqdm(indices, desc="budgets", mininterval=20):
        for method in planned.values():
            row(folder, demo, method, index)


def ceiling(demo: DemoSetup, count: int) -> list[float]:
    """CLIP B of painted pictures of the same scenes: mean with its interval."""
    scenes = [sets.scene("report", index, 2 + index % 3) for index in range(count)]
    pictures = painted([render(scene)[0] for scene in scenes])
    scores = [clip_scores.scores(demo.clip_b, pictures[i : i + 1], [caption(scene)]) for i, scene in enumerate(scenes)]
    return metrics.mean([float(score) for score in scores])


def summary(rows: dict[str, list[dict]], planned: dict[str, Method]) -> dict[str, Any]:
    """Means with 95 % bootstrap intervals over prompts; also against others of the same budget, paired."""
    table = {}
    for name, own in rows.items():
        budget = name.partition(" @ ")[2]
        peers = {peer: rows.get(f"{peer} @ {budget}", rows["none @ 1"] if peer == "none" else None) for peer in AGAINST}
        table[name] = {
            **{key: metrics.mean([each[key] for each in own]) for key in MEASURED},
            "settings": asdict(planned[name]), "seconds": round(statistics.median(each["seconds"] for each in own), 2),
            "against": {peer: less(own, others) for peer, others in peers.items() if others is not None},
        }  # fmt: skip
    for half, whole in zip(HALVES, DOUBLES):
        own, others = rows[f"halving @ {half}"], rows[f"best of n @ {whole}"]
        table[f"halving @ {half}"]["against"][TWICE] = less(own, others)
    return table


def less(own: list[dict], others: list[dict]) -> dict[str, list[float]]:
    return {key: metrics.difference([a[key] - b[key] for a, b in zip(own, others)]) for key in COMPARED}


def curves(rows: dict[str, list[dict]], one: float, path: Path) -> None:
    """The best of CLIP A's losses so far over the time, in pictures, of what has the larger budget."""
    figure, axis = pyplot().subplots(figsize=(6.5, 3.4), dpi=90)
    grid = np.linspace(0, max(BUDGETS), 129)
    for name, own in rows.items():
        method, _, budget = name.partition(" @ ")
        if budget != str(max(BUDGETS)) or "SGOOL" in method:
            continue
        lines = [steps_of(each, grid) for each in own]
        axis.plot(grid, np.mean(lines, axis=0), label=method)
    label(axis, "time, in pictures", "CLIP A, half the squared angle")
    save(figure, path)


def steps_of(row: dict[str, Any], grid: np.ndarray) -> np.ndarray:
    """A row's best loss so far, at shares of its time; NaN before the first is known."""
    times, losses = np.array(row["curve"]).T
    at = np.searchsorted(times / row["seconds"] * max(BUDGETS), grid, side="right")
    return np.concatenate([[np.nan], losses])[at]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--processes", type=int, default=max(1, os.cpu_count() or 1))
    parser.add_argument("--model", choices=("unet", "dit"), default="unet")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--images", type=Path, default=FOLDER)
    args = parser.parse_args()
    begin(threads=1)
    demo = ready(args.model)
    folder = args.out / record.weights_and((STEPS, CFG), demo.more)
    costs = record.kept(folder / "budgets" / "costs.json", lambda: measured_costs(demo))
    planned = plan(costs)
    shares = [list(range(args.prompts))[i :: args.processes] for i in range(args.processes)]
    in_processes(work, [(folder, args.model, costs, share) for share in shares if share])
    rows = {name: [row(folder, demo, method, i) for i in range(args.prompts)] for name, method in planned.items()}
    of_model = "" if args.model == "unet" else f"{args.model}_"
    record.write(args.out / f"{of_model}budgets.json", {
        **record.source(*demo.more), "model": args.model, "prompts": args.prompts, "steps": STEPS, "cfg": CFG,
        "batch": BATCH, "device": str(demo.model.load_device), "budgets": BUDGETS, "halves": list(zip(HALVES, DOUBLES)),
        "costs": costs, "ceiling": ceiling(demo, args.prompts),
        "table": summary(rows, planned),
    })  # fmt: skip
    if args.model == "unet":
        curves(rows, costs["one"], args.images / "latents_budgets.png")


if __name__ == "__main__":
    main()
