"""Whether the attention of a phrase shows where a thing is: on painted pictures, whose places are known.

`python -m tools.studies.attention_map.quality [--model dit]` writes output/eval/attention_map_<model>.json: per noise
level, how often a place of the object has more of the phrase's attention than a place outside of it (area under the
curve; 50 % is chance), and how often the place with the most lies in the object.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import stats
from tqdm import tqdm

from ...comfy.host import ROOT
from ...shapesworld import sets
from ...shapesworld.shipped_weights import DEMO
from ...shapesworld.world import Scene, caption, render
from .. import metrics, record
from ..demo_setup import DemoSetup
from ..processes import begin
from ..sampling import painted

LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8)  # of the schedule
SCENES = 96
CELLS = 32  # along a side of a latent
INSIDE = 0.5  # of a cell that belongs to the object


def rows(demo: DemoSetup, index: int, scene: Scene) -> list[dict[str, list[float]]]:
    """Per object of a scene of several, and level: area under the curve, and other, that of the same map at another
    object; whether the highest place is a hit, and how much of the picture is covered, which is the chance of a hit."""
    from fovea.attention.families.registry import family_of
    from fovea.guidance.attention_map.probe import Look, look
    from fovea.guidance.token_spans import phrase_tokens

    picture, labels = render(scene)
    samples, text = demo.vae.encode(painted([picture])), caption(scene)
    positive = demo.clip.encode_from_tokens_scheduled(demo.clip.tokenize(text))
    network = demo.model.get_model_object("diffusion_model")
    family, found = family_of(network), []
    assert family is not None
    places = [cells(labels == thing.label) for thing in scene.things]
    for thing, inside, other in zip(scene.things, places, [*places[1:], places[0]]):
        tokens = phrase_tokens(demo.clip, text, thing.phrase, positive[0][0].shape[1])
        wanted = Look(family.default_blocks(network), tokens=tokens)
        levels = look(demo.model, positive, {"samples": samples}, LEVELS, index, wanted)
        maps = [level.maps["phrase"].reshape(-1).numpy() for level in levels]
        found.append({
            "area": [area(map_, inside) for map_ in maps], "other": [area(map_, other) for map_ in maps],
            "hit": [float(inside[map_.argmax()]) for map_ in maps], "covered": [float(inside.mean())] * len(maps),
        })  # fmt: skip
    return found


def cells(pixels: np.ndarray) -> np.ndarray:
    """Which latent cells are mostly an object's, [1024]."""
    return (pixels.reshape(CELLS, -1, CELLS, pixels.shape[1] // CELLS).mean((1, 3)) > INSIDE).ravel()


def area(values: np.ndarray, inside: np.ndarray) -> float:
    """The chance that a place inside has more than one outside, ties counted half; 0.5 where there are no two kinds."""
    if inside.all() or not inside.any():
        return 0.5
    u = stats.mannwhitneyu(values[inside], values[~inside]).statistic
    return float(u / (inside.sum() * (~inside).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("unet", "dit"), default="unet")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--demo", type=Path, default=DEMO)
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "eval")
    args = parser.parse_args()
    begin()
    demo = DemoSetup(args.demo, args.model).ready("model", "clip", "vae")
    scenes = [scene for scene in sets.scenes("report", 0, 2 * args.scenes) if len(scene.things) > 1][: args.scenes]
    found = [rows(demo, i, scene) for i, scene in enumerate(tqdm(scenes, mininterval=5))]
    table = {
        key: [metrics.mean([float(np.mean([row[key][level] for row in of_scene])) for of_scene in found])
              for level in range(len(LEVELS))]
        for key in ("area", "other", "hit", "covered")
    }  # fmt: skip
    record.write(args.out / f"attention_map_{args.model}.json", {
        **record.source(*demo.more, demo=args.demo), "scenes": len(scenes), "phrases": sum(map(len, found)),
        "levels": LEVELS, "table": table,
    })  # fmt: skip
    print(table)


if __name__ == "__main__":
    main()
