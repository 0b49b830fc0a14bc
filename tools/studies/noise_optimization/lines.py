"""How far a gradient of the starting noise holds: the loss along it, step by step, on prompts of the tuning set.

`python -m tools.studies.noise_optimization.lines` writes output/eval/latents/lines.json. Directions: exact, through the
last four and the last two steps, past the model, and random ones. A step turns the noise by a share of its length.
Resumable.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...shapesworld import sets
from ...shapesworld.world import caption
from .. import record
from ..demo_setup import DemoSetup
from ..processes import begin
from . import methods
from .quality import FIRST_SEED, FOLDER, weights

PROMPTS = 12
STEPS = (0.0003, 0.001, 0.003, 0.01, 0.03)
DIRECTIONS: dict[str, int | None] = {"exact": None, "last four steps": 4, "last two steps": 2, "past the model": 0}


def turned(start: Tensor, direction: Tensor, share: float) -> Tensor:
    """start turned towards -direction by a share of its length, which it keeps."""
    direction = direction - (direction * start).sum() / start.square().sum() * start
    moved = start - share * start.norm() * direction / direction.norm()
    return moved * start.norm() / moved.norm()


def line(demo: DemoSetup, index: int) -> dict[str, list[float]]:
    """The loss along every direction over that at the start, for one prompt."""
    text, seed = caption(sets.scene("tune", index, 2 + index % 3)), FIRST_SEED["tune"] + index
    found: dict[str, list[float]] = {}
    random = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(index))
    for name, backprop_steps in {**DIRECTIONS, "random": 0}.items():
        losses: list[float] = []

        def look(start: Tensor, evaluate: Any, *rest: Any, name: str = name, losses: list = losses) -> Any:
            from fovea.guidance.noise_optimization.search import best_of

            first = evaluate(start, name != "random")
            direction = random.to(start) if name == "random" else first.gradient
            rays = [turned(start, direction, share) for share in STEPS]
            losses += [float(evaluate(z, False).losses[0] / first.losses[0]) for z in rays]
            return best_of([start], evaluate)

        methods.run(methods.Method(iterations=1, backprop_steps=backprop_steps), demo, text, seed, look)
        found[name] = losses
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    begin()
    settings = hashlib.sha256(repr((STEPS, DIRECTIONS)).encode()).hexdigest()[:12]
    folder, demo = args.out / weights() / f"lines {settings}", DemoSetup()
    each = tqdm(range(args.prompts), desc="lines")
    lines = [record.kept(folder / f"{i:03d}.json", partial(line, demo, i)) for i in each]
    table = {
        name: {
            "median": [round(float(v), 3) for v in np.median([found[name] for found in lines], axis=0)],
            "better": [round(float(v), 2) for v in (np.array([found[name] for found in lines]) < 0.995).mean(axis=0)],
        }
        for name in lines[0]
    }
    record.write(args.out / "lines.json", {**record.source(), "prompts": args.prompts, "steps": STEPS, "table": table})
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
